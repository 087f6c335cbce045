"""The realm on this disk: commands work on its ledger directly, so they also work while the Tavern is down."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm.errors import DiskFullError, NotFoundError, RefusedError
from realm.files import free_bytes, fsync_dir, rename_noreplace
from realm.ids import new_id
from realm.settings import Settings

if TYPE_CHECKING:
    from realm.wiring import Realm
    from vault.store import Vault

BY = "the command line"
_LOOK_BACK = 200


class LocalClient:
    """Works on the home of `settings`. Raises NotFoundError when there is no realm yet."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.paths = settings.paths

    @cached_property
    def realm(self) -> Realm:
        from realm.wiring import Realm

        if not self.paths.inbox.is_dir():
            words = f"There is no realm at {self.paths.home}."
            raise NotFoundError(
                words, hint="Start one with `realm up`, or name its folder with --home.", code="no_realm"
            )
        return Realm(self.settings)

    @property
    def vault(self) -> Vault:
        return self.realm.vault

    def status(self) -> dict[str, Any]:
        return self.realm.status()

    def jobs(self, states: Sequence[str], limit: int) -> list[dict[str, Any]]:
        if list(states) == ["queued"]:
            return [job.to_dict() for job in self.vault.jobs.waiting(limit)]
        return [job.to_dict() for job in self.vault.jobs.list(list(states) or None, limit=limit).items]

    def job(self, job_id: str) -> dict[str, Any]:
        return self.vault.jobs.get(job_id).to_dict()

    def report(self, job_id: str) -> dict[str, Any]:
        found = self.vault.jobs.get(job_id).report
        if found is None:
            raise NotFoundError("This job has no report.", code="report_not_found")
        return found

    def submit(self, path: Path, name: str, priority: str) -> dict[str, Any]:
        """Copy a file beside, sync it and rename it into the inbox. Raises RefusedError, DiskFullError."""
        _ = self.realm
        self.paths.ensure()
        part = self.paths.staging / f".{new_id('upload')}.part"
        try:
            digest = self._copy(path, part)
            folder = self.paths.inbox if priority == "normal" else self.paths.inbox / priority
            folder.mkdir(exist_ok=True, mode=0o700)
            placed = _place(part, folder, name)
        finally:
            part.unlink(missing_ok=True)
        return {"id": part.name.strip(".").removesuffix(".part"), "name": placed, "sha256": digest}

    def job_of(self, sha256: str) -> dict[str, Any] | None:
        for job in self.vault.jobs.list(limit=_LOOK_BACK).items:
            if any(file.get("sha256") == sha256 for file in job.data):
                found: dict[str, Any] = job.to_dict()
                return found
        return None

    def move(self, job_id: str, priority: str | None, before: str | None) -> dict[str, Any]:
        return self.vault.jobs.move(job_id, priority=priority, before=before, by=BY).to_dict()  # type: ignore[arg-type]

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self.vault.jobs.cancel(job_id, BY).to_dict()

    def retry(self, job_id: str) -> dict[str, Any]:
        return self.vault.jobs.retry(job_id, BY).to_dict()

    def command(self, verb: str) -> dict[str, Any]:
        return self.vault.commands.request(verb, by=BY).to_dict()

    def command_state(self, command_id: str) -> dict[str, Any]:
        return self.vault.commands.get(command_id).to_dict()

    def runs(self, limit: int) -> list[dict[str, Any]]:
        return [run.to_dict() for run in self.vault.ledger.runs(limit=limit).items]

    def run(self, run_id: str) -> dict[str, Any]:
        run = self.vault.ledger.run(run_id)
        names = list(self.vault.metrics.names(run_id))
        return {**run.to_dict(), "attempts": self.vault.ledger.attempts(run_id), "metrics": names}

    def metrics(self, run_id: str, name: str, max_points: int) -> list[Sequence[float]]:
        self.vault.ledger.run(run_id)
        points = self.vault.metrics.series(run_id, name, max_points=max_points)
        return [(point.step, point.value, point.low, point.high) for point in points]

    def checkpoints(self, hero: str | None, limit: int) -> list[dict[str, Any]]:
        return [checkpoint.to_dict() for checkpoint in self.vault.ledger.checkpoints(hero, limit=limit).items]

    def checkpoint(self, checkpoint_id: str) -> dict[str, Any]:
        return self.vault.ledger.checkpoint(checkpoint_id).to_dict()

    def evaluations(self, hero: str | None, limit: int) -> list[dict[str, Any]]:
        page = self.vault.ledger.evaluations(hero_id=hero, limit=limit)
        return [{**evaluation.to_dict(), "accuracy": evaluation.accuracy} for evaluation in page.items]

    def events(self, *, after: int | None, limit: int) -> list[dict[str, Any]]:
        if after is None:
            return [event.to_dict() for event in reversed(self.vault.events.list(limit=limit, newest_first=True))]
        return [event.to_dict() for event in self.vault.events.list(after, limit=limit)]

    def tokens(self) -> list[dict[str, Any]]:
        return [token.to_dict() for token in self.vault.tokens.list()]

    def create_token(self, name: str, scopes: Sequence[str], ttl_s: int | None) -> dict[str, Any]:
        token, secret = self.vault.tokens.create(name, scopes, ttl_s)
        return {**token.to_dict(), "secret": secret}

    def revoke_token(self, token_id: str) -> dict[str, Any]:
        return self.vault.tokens.revoke(token_id).to_dict()

    def _copy(self, source: Path, target: Path) -> str:
        needed = source.stat().st_size
        floor = self.settings.arena.disk_floor_mib << 20
        free = free_bytes(self.paths.home)
        if needed == 0:
            raise RefusedError(f"{source} is empty.", code="empty_file")
        if free - needed < floor:
            raise DiskFullError(f"There is no room for {source.name}.", needed=needed + floor, free=free)
        with open(source, "rb") as original, open(target, "xb", opener=_private) as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        with open(target, "rb") as copied:
            return hashlib.file_digest(copied, "sha256").hexdigest()


def _place(part: Path, folder: Path, name: str) -> str:
    stem, suffix = os.path.splitext(name)
    for attempt in range(1, 1000):
        placed = name if attempt == 1 else f"{stem}-{attempt}{suffix}"
        try:
            rename_noreplace(part, folder / placed)
        except FileExistsError:
            continue
        fsync_dir(folder)
        return placed
    raise RefusedError(f"The inbox is full of files named {name}.", hint="Give another --name.", code="name_taken")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
