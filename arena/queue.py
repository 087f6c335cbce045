"""The queue as people see and touch it: folders of small pointer files, kept in step with the ledger.

The ledger is the truth. Each job has one pointer, `NAME--JOB_ID.json`, in `queue/{high,normal,low}`, `processing`,
`recently_completed` or `failed`; its content names the folder in which it was put. So a pointer that lies elsewhere was
moved by a hand, and that is taken as a command where it makes sense: between priorities (move), out of `failed` or
`recently_completed` into the queue (retry), out of the queue into `failed` (cancel). Everything else is put back, with
an event that says so. A data file that somebody drops into `queue/high` goes through the inbox with that priority.

Invariant: after `reconcile`, every job that should have a pointer has exactly one, in the right folder
(tests/arena/test_queue.py, also under random moves).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from realm.errors import ConflictError, NotFoundError, RealmError
from realm.files import rename_noreplace
from realm.paths import PRIORITIES, RealmPaths
from vault.records import Job, Priority
from vault.store import Vault

KEEP_DONE = 200
_POINTER = re.compile(r"(?s).*--(job_[a-z0-9]{1,40})\.json")
_FOLDER_OF_STATE = {
    "processing": "processing",
    "completed": "recently_completed",
    "skipped": "recently_completed",
    "failed": "failed",
    "refused": "failed",
    "cancelled": "failed",
}


class QueueView:
    """The pointer files of one realm. Not thread-safe: the daemon's main loop owns it."""

    def __init__(self, paths: RealmPaths, vault: Vault) -> None:
        self._paths = paths
        self._vault = vault
        self._folders = {f"queue/{priority}": paths.queue(priority) for priority in PRIORITIES}
        self._folders |= {"processing": paths.processing, "failed": paths.failed}
        self._folders |= {"recently_completed": paths.recently_completed}
        self._put: dict[tuple[str, str], str] = {}
        """(folder, file name) of pointers already read, to the folder in which each was put."""
        self._signature: tuple[int, ...] = ()

    def touched(self) -> bool:
        """Tell whether any of the folders changed since the last `reconcile`; costs a few stat calls."""
        return self._stat() != self._signature

    def reconcile(self) -> None:
        """Take hands' moves as commands, then bring the folders in step with the ledger."""
        pointers = self._read()
        for folder, name, job_id, put in pointers:
            if put != folder:
                self._by_hand(folder, name, job_id, put)
        self._take_data_files()
        wanted = {self._name(job): (self._folder(job), job) for job in self._jobs()}
        present: set[str] = set()
        for folder, name, _, _ in pointers:
            path = self._folders[folder] / name
            goal = wanted.get(name)
            if goal is None or goal[0] != folder or name in present:
                path.unlink(missing_ok=True)
                self._put.pop((folder, name), None)
            else:
                present.add(name)
                if self._put.get((folder, name)) != folder:
                    self._write(folder, name, goal[1])
        for name, (folder, job) in wanted.items():
            if name not in present:
                self._write(folder, name, job)
        self._signature = self._stat()

    def _by_hand(self, folder: str, name: str, job_id: str, put: str) -> None:
        """Carry out what a moved pointer means, or leave it to be put back."""
        try:
            job = self._vault.jobs.get(job_id)
            if folder.startswith("queue/"):
                if job.state in ("failed", "skipped", "cancelled"):
                    job = self._vault.jobs.retry(job_id, by="hand")
                priority = cast(Priority, folder.removeprefix("queue/"))
                if job.state == "queued" and job.priority != priority:
                    self._vault.jobs.move(job_id, priority=priority, by="hand")
                    return
                if job.state == "queued":
                    return
            elif folder == "failed" and job.state == "queued":
                self._vault.jobs.cancel(job_id, by="hand")
                return
            if self._folder(job) != folder:
                words = f"{job.name} is {job.state}: its file was put back from {folder} into {self._folder(job)}."
                self._vault.events.record("view_restored", job_id, {"job_id": job_id, "name": job.name, "text": words})
        except (NotFoundError, ConflictError):
            return

    def _take_data_files(self) -> None:
        """Send whatever else was dropped into a queue folder through the inbox, with that folder's priority."""
        for priority in PRIORITIES:
            folder = self._paths.queue(priority)
            for name in os.listdir(folder):
                path = folder / name
                if name.startswith(".") or _POINTER.fullmatch(name) or path.is_symlink() or not path.is_file():
                    continue
                inbox = self._paths.inbox / priority
                inbox.mkdir(exist_ok=True, mode=0o700)
                for number in range(1000):
                    target = inbox / (name if number == 0 else f"{path.stem}-{number + 1}{path.suffix}")
                    try:
                        rename_noreplace(path, target)
                        break
                    except FileExistsError:
                        continue
                    except FileNotFoundError:
                        break

    def _jobs(self) -> Iterable[Job]:
        yield from self._vault.jobs.waiting(100_000)
        yield from self._vault.jobs.processing()
        yield from self._vault.jobs.list(("completed", "skipped"), limit=KEEP_DONE).items
        yield from self._vault.jobs.list(("failed", "refused", "cancelled"), limit=KEEP_DONE).items

    def _folder(self, job: Job) -> str:
        return _FOLDER_OF_STATE.get(job.state, f"queue/{job.priority}")

    def _name(self, job: Job) -> str:
        return f"{safe_name(job.name)}--{job.id}.json"

    def _write(self, folder: str, name: str, job: Job) -> None:
        """Put a pointer. Not synced: the view is rebuilt from the ledger at every start."""
        content: dict[str, Any] = {
            "job_id": job.id,
            "name": job.name,
            "put_in": folder,
            "state": job.state,
            "priority": job.priority,
        }
        content |= {"rows": job.rows, "hero": job.hero_id, "run_id": job.run_id, "reason": job.reason}
        path = self._folders[folder] / name
        temporary = path.with_name(f".{job.id}.tmp")
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
        self._put[folder, name] = folder

    def _read(self) -> list[tuple[str, str, str, str]]:
        """Return (folder, file name, job id, folder in which it was put) of every pointer."""
        found = []
        seen: dict[tuple[str, str], str] = {}
        for folder, path in self._folders.items():
            for name in os.listdir(path):
                match = _POINTER.fullmatch(name)
                if match is None or name.startswith("."):
                    continue
                put = self._put.get((folder, name)) or _put_in(path / name) or folder
                seen[folder, name] = put
                found.append((folder, name, match[1], put))
        self._put = seen
        return found

    def _stat(self) -> tuple[int, ...]:
        return tuple(os.stat(path).st_mtime_ns for path in self._folders.values())


def safe_name(name: str) -> str:
    """Return a name that is one plain path component of at most 150 bytes, for a label that may hold anything."""
    kept = "".join(letter if letter.isalnum() or letter in "._- " else "_" for letter in name).strip(". ") or "quest"
    return kept.encode()[:150].decode(errors="ignore")


def _put_in(path: Path) -> str | None:
    try:
        value = json.loads(path.read_bytes())
        return str(value["put_in"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main(arguments: list[str]) -> int:
    """`python -m arena.queue status`: what waits, in order."""
    from realm.settings import load_settings

    if arguments != ["status"]:
        print("usage: python -m arena.queue status", file=sys.stderr)
        return 2
    try:
        paths = load_settings().paths
        vault = Vault.in_files(paths.vault_db, paths.metrics_db) if paths.vault_db.exists() else None
    except RealmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if vault is None:
        print(f"There is no realm at {paths.home}. Start one with `realm up`.", file=sys.stderr)
        return 1
    held = vault.jobs.held()
    print(f"held by {held['by']}: {held['reason']}" if held else "open")
    for job in (*vault.jobs.processing(), *vault.jobs.waiting()):
        print(f"{job.state:<11} {job.priority:<7} {job.name}")
    vault.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
