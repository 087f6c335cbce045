"""`Intake`: one look at the inbox takes every complete file as far as it goes.

The way of a file, with the names of the steps at which a crash is tried: it is copied to staging (`copied`), inspected
there (`inspected`), synced (`synced`), stored under its hash (`stored`), handed over (`accepted`, the commit point),
recorded (`recorded`) and taken out of the inbox (`took`, for each file; then `removed`). A file that is refused is told
of (`told`), gets its reason written into `failed/` (`explained`) and is moved there (`took`, `moved`). Whatever happens
between two of these, the next look starts again with the file in the inbox; the idempotency key keeps it one job.

Files are worked on in batches, so that they are synced together and folders once a batch. Not thread-safe: one caller.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from arena.formats import QuestSpec
from arena.gatekeepers import Depth, Policy, Report, render
from arena.intake.files import (
    UPLOAD,
    ChangedError,
    Entry,
    is_full,
    list_inbox,
    move_away,
    promote,
    settle_taken,
    take_out,
)
from arena.intake.plan import Planner
from arena.intake.prepare import Generate, Preparer, Staging
from arena.intake.records import (
    Arrival,
    ArrivingFile,
    IntakeResult,
    RefusedArrival,
    ResultKind,
    ScanResult,
    digest,
    label,
)
from arena.intake.watch import Watch
from arena.intake.work import Look, Prepared, RefusedWorkError, Work
from realm.errors import (
    ConfigError,
    CorruptFileError,
    DiskFullError,
    NotFoundError,
    RealmError,
    RefusedError,
)
from realm.files import durable_write, durable_write_json, fsync_dir, fsync_file, read_json
from realm.paths import PRIORITIES, RealmPaths
from realm.settings import ArenaSettings
from vault.records import Job

BATCH_FILES = 32
BATCH_BYTES = 64 << 20
SYNC_THREADS = 8
_STALE_UPLOAD_S = 3600.0
_MAX_SIDECAR_BYTES = 200


class Intake:
    """Takes files from the inbox. `scan` is a plain step: it returns when the complete files are done or time is up."""

    def __init__(
        self,
        paths: RealmPaths,
        settings: ArenaSettings,
        accept: Callable[[Arrival], Job],
        *,
        hero: str = "dio",
        refused: Callable[[RefusedArrival], Job | None] = lambda refusal: None,
        policy: Callable[[QuestSpec | None], Policy] | None = None,
        generate: Generate | None = None,
        tick: Callable[[], None] = lambda: None,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        """`accept` enters a job and is the commit point; `refused` enters a refusal. Both must be idempotent.

        `policy` says how strict to be for a quest; `generate` makes rows for quest files that ask for them; `tick` is
        called every few megabytes or hundred rows; `fault` is called at every named step, for the tests.
        """
        self._paths = paths
        self._settings = settings
        self._accept = accept
        self._refused = refused
        self._fault = fault
        self._reports = paths.data / "reports"
        self._staging = Staging(paths.staging)
        self._watch = Watch(settings.inbox_stable_s)
        self._planner = Planner(self._reports)
        self._preparer = Preparer(
            paths,
            self._staging,
            hero=hero,
            floor=settings.disk_floor_mib << 20,
            policy=policy or self.default_policy,
            generate=generate,
            tick=tick,
            fault=fault,
        )
        self._recovered = False

    def scan(self, now: float, budget_s: float = 1.0) -> ScanResult:
        """Take what is complete. `now` is Unix time. What is left when `budget_s` is over is taken by the next look."""
        if not self._recovered:
            self.recover(now)
        look = Look(now, self._watch)
        entries, oddities = list_inbox(self._paths.inbox)
        self._watch.keep(entries, {oddity.path for oddity in oddities}, now)
        for oddity in oddities:
            look.stays(oddity.path, 0, "ignored", oddity.reason, told="ignored", mark=str(oddity.inode))
        pending = self._planner.plan(look, entries)
        deadline = time.monotonic() + budget_s
        while pending:
            self._run(look, _next_batch(pending))
            if time.monotonic() >= deadline:
                break
        look.arriving += [ArrivingFile(label(w.entry.name), w.size, "next", "it is taken next") for w in pending]
        next_s = 0.0 if pending else min(look.waits, default=None)
        return ScanResult(tuple(look.results), tuple(look.arriving), next_s)

    def recover(self, now: float) -> None:
        """Clear what a crash left half done. The first scan does it by itself."""
        self._reports.mkdir(mode=0o700, exist_ok=True)
        self._staging.clear()
        for folder in (self._paths.inbox, *(self._paths.inbox / priority for priority in PRIORITIES)):
            if not folder.is_dir() or folder.is_symlink():
                continue
            settle_taken(folder)
            for path in folder.glob(f"{UPLOAD}*.part"):
                if now - path.lstat().st_mtime > _STALE_UPLOAD_S:
                    path.unlink(missing_ok=True)
        self._recovered = True

    def default_policy(self, spec: QuestSpec | None) -> Policy:
        """Return the policy that the settings alone give."""
        kinds = frozenset([spec.kind]) if spec is not None and spec.kind else None
        depth = Depth.of(self._settings.validation_depth)
        return Policy(depth=depth, max_bad_rows=self._settings.max_bad_rows, kinds=kinds)

    # A batch

    def _run(self, look: Look, batch: list[Work]) -> None:
        prepared = [done for work in batch if (done := self._guard(look, work, partial(self._preparer.prepare, work)))]
        with ThreadPoolExecutor(SYNC_THREADS) as pool:  # syncs at the same time share a commit of the file system
            syncs = [(done, pool.submit(_sync, done)) for done in prepared]
        synced = [done for done, sync in syncs if self._guard(look, done.work, sync.result, done)]
        stored = [done for done in synced if self._guard(look, done.work, partial(self._store, done), done)]
        if stored:
            fsync_dir(self._paths.objects)
            self._fault("stored")
        for done in stored:
            self._guard(look, done.work, partial(self._commit, look, done), done)

    def _guard(self, look: Look, work: Work, step: Callable[[], Any], done: Prepared | None = None) -> Any:
        """Run one step of one file; its failure is that file's alone. Returns None when it failed."""
        try:
            return step()
        except RefusedWorkError as error:
            refusal = error.report.refusal
            assert refusal is not None
            why = RefusedError(refusal.message, hint=refusal.hint, code=refusal.code)
            self._refuse(look, work, why, report=error.report, quarantine=error.quarantine)
            self._staging.discard(error.token)
        except (RefusedError, ConfigError, NotFoundError) as error:
            self._refuse(look, work, error, report=done.arrival.report if done else None)
        except Exception as error:  # a poisoned file must not hold up the others: it waits, and says why
            self._postpone(look, work.entry, error)
        if done is not None:
            self._staging.discard(done.token)
        return None

    def _store(self, done: Prepared) -> bool:
        self._fault("synced")
        for staged, target in done.objects:
            promote(staged, target)
        return True

    def _commit(self, look: Look, done: Prepared) -> bool:
        """Hand over, record, and take the files out of the inbox."""
        arrival, work = done.arrival, done.work
        job = self._accept(arrival)
        self._fault("accepted")
        repeated = self._is_repeated(done, job)
        if not repeated:
            self._write_record(done, job)
        if work.data is not None and work.data is not work.entry:
            durable_write_json(self._reports / work.marker, {"state": "accepted", "job": job.id})
        self._fault("recorded")
        self._release(look, work, take_out)
        self._fault("removed")
        message = f"{arrival.name}: {arrival.rows:,} rows, job {job.id}."
        hint, kind = "", "accepted"
        if repeated:
            kind, message = "duplicate", f"{arrival.name} was taken before: job {job.id} is {job.state}."
            hint = "To train on the same rows again, name the file NAME.again.jsonl, or retry the job."
        look.results.append(
            IntakeResult(
                "duplicate" if repeated else "accepted", arrival.name, message, hint, kind, job, arrival, arrival.report
            )
        )
        self._staging.discard(done.token)
        return True

    def _is_repeated(self, done: Prepared, job: Job) -> bool:
        """Tell whether another drop of the same file brought this job. A drop that a crash repeated is not another."""
        try:
            record = read_json(self._reports / f"{done.arrival.idem_key}.json")
            return bool(record["job"] == job.id and record["drop"] != done.work.entry.drop)
        except (NotFoundError, CorruptFileError, KeyError, TypeError):
            return False

    def _write_record(self, done: Prepared, job: Job) -> None:
        """Keep the report. Losing it to a power cut costs nothing that matters, so it is not synced."""
        key = done.arrival.idem_key
        if done.quarantine.exists():
            os.replace(done.quarantine, self._reports / f"{key}.rejected.jsonl")
        record = {"name": done.arrival.name, "drop": done.work.entry.drop, "job": job.id}
        text = json.dumps(record | {"report": done.arrival.report.to_dict()}, ensure_ascii=False, indent=1)
        temporary = self._staging.path(done.token, "record")
        temporary.write_text(text)
        os.replace(temporary, self._reports / f"{key}.json")

    def _release(self, look: Look, work: Work, take: Callable[[Entry], Any]) -> None:
        """Take the files of a finished work away, but for data that another quest file still wants."""
        for entry in work.files:
            look.claims[entry.path] -= 1
            if look.claims[entry.path] <= 0:
                take(entry)
                self._fault("took")

    # What is not taken

    def _refuse(
        self,
        look: Look,
        work: Work,
        why: RealmError,
        *,
        report: Report | None = None,
        quarantine: Path | None = None,
    ) -> None:
        """Tell of the refusal, write its reason into `failed/`, and move the files there."""
        entry, name = work.entry, label(work.entry.name)
        hero, skill, level = self._preparer.aim(work, report)
        key = digest("refused", entry.name, hero, entry.drop)
        head = (name, entry.source, why.code, why.message, why.hint, report, work.spec, work.size, work.priority)
        try:
            job = self._refused(RefusedArrival(*head, hero, skill, level, key))
            self._fault("told")
            target = self._free_name(entry.name)
            self._explain(target, name, why, report=report, job=job, quarantine=quarantine)
            if work.data is not None and work.data is not entry:
                durable_write_json(self._reports / work.marker, {"state": "refused"})
            self._fault("explained")
            self._release(look, work, lambda e: move_away(e, target if e is entry else self._free_name(e.name)))
            fsync_dir(self._paths.failed)
            self._fault("moved")
        except Exception as error:  # the file stays in the inbox and is refused again later
            self._postpone(look, entry, error)
            return
        look.results.append(IntakeResult("refused", name, why.message, why.hint, why.code, job, None, report, target))

    def _explain(
        self,
        target: Path,
        name: str,
        why: RealmError,
        *,
        report: Report | None,
        job: Job | None,
        quarantine: Path | None,
    ) -> None:
        beside = self._paths.failed / _sidecar(target.name)
        reason = {"name": name, "code": why.code, "message": why.message, "hint": why.hint}
        full = {**reason, "job": job.id if job else None, "report": report.to_dict() if report else None}
        durable_write_json(beside.with_name(f"{beside.name}.reason.json"), full)
        text = render(report) if report else f"{name}: refused\n  {why.message}\n  {why.hint}\n"
        durable_write(beside.with_name(f"{beside.name}.report.txt"), text.encode())
        if quarantine is not None and quarantine.exists():
            os.replace(quarantine, beside.with_name(f"{beside.name}.rejected.jsonl"))

    def _free_name(self, name: str) -> Path:
        """Return a path in `failed/` that nothing has."""
        stem, dot, ending = name.partition(".")
        target = self._paths.failed / name
        for number in itertools.count(2):
            if not os.path.lexists(target):
                break
            target = self._paths.failed / f"{stem[:40]}-{number}{dot}{ending[-20:]}"
        return target

    def _postpone(self, look: Look, entry: Entry, error: Exception) -> None:
        """Leave a file where it is, say why, and try again later."""
        if isinstance(error, ChangedError | FileNotFoundError) and not os.path.lexists(entry.path):
            return
        if isinstance(error, ChangedError):
            look.stays(entry.path, entry.identity.size, "arriving", "it changed while it was read")
            look.waits.append(self._settings.inbox_stable_s)
            return
        if isinstance(error, OSError) and is_full(error):
            error = DiskFullError("The disk is full.", hint="Make room; the file stays where it is and is taken then.")
        code = error.code if isinstance(error, RealmError) else "io_error" if isinstance(error, OSError) else "error"
        text = str(error) if isinstance(error, RealmError) else f"{type(error).__name__}: {error!s:.300}"
        kind: ResultKind = "waiting" if isinstance(error, DiskFullError) else "error"
        look.waits.append(self._watch.postpone(entry.path, code, text, look.now))
        look.stays(entry.path, entry.identity.size, code, text, told=kind)


def _sync(done: Prepared) -> bool:
    for staged, _ in done.objects:
        fsync_file(staged)
    return True


def _next_batch(pending: list[Work]) -> list[Work]:
    """Take the next work off the list: a few dozen small files, or one large one."""
    total = count = 0
    for work in pending:
        total += work.size
        if count and (total > BATCH_BYTES or count >= BATCH_FILES):
            break
        count += 1
    batch = pending[:count]
    del pending[:count]
    return batch


def _sidecar(name: str) -> str:
    """Return a name to which `.rejected.jsonl` and the like can be added."""
    if len(os.fsencode(name)) <= _MAX_SIDECAR_BYTES:
        return name
    return f"{os.fsdecode(os.fsencode(name)[:160])}-{digest(name)[:12]}"
