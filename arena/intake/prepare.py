"""A complete file on its way: copied to staging and inspected there. Nothing outside staging changes here."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from arena.formats import GeneratorSpec, QuestSpec, RawRow, rows_from_values
from arena.gatekeepers import Policy, Report, Verdict, inspect_file, inspect_rows
from arena.intake.files import Entry, Staged, check_room, copy_entry, open_entry
from arena.intake.records import Arrival, asks_again, digest, guess_from_name, label
from arena.intake.work import Prepared, RefusedWorkError, Work
from realm.errors import RefusedError
from realm.ids import new_id
from realm.paths import RealmPaths

Generate = Callable[[GeneratorSpec], Iterable[dict[str, Any]]]

_STAGED = "intake-"
_SUFFIXES = {"text": ".txt", "quest": ".yaml", "generated": ".yaml"}


class Staging:
    """The intake's private folder: everything of one file carries one token in its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, token: str, part: str) -> Path:
        return self.folder / f"{_STAGED}{token}.{part}"

    def discard(self, token: str) -> None:
        for path in self.folder.glob(f"{_STAGED}{token}.*"):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a crash left."""
        for name in os.listdir(self.folder):
            if name.startswith(_STAGED):
                (self.folder / name).unlink()


class Preparer:
    """Prepares work. Raises RefusedWorkError, RefusedError, ChangedError, DiskFullError, OSError."""

    def __init__(
        self,
        paths: RealmPaths,
        staging: Staging,
        *,
        hero: str,
        floor: int,
        policy: Callable[[QuestSpec | None], Policy],
        generate: Generate | None,
        tick: Callable[[], None],
        fault: Callable[[str], None],
    ) -> None:
        self._objects = paths.objects
        self._staging = staging
        self._hero = hero
        self._floor = floor
        self._policy = policy
        self._generate = generate
        self._tick = tick
        self._fault = fault

    def prepare(self, work: Work) -> Prepared:
        """Return the work with its rows let in; what fails leaves nothing behind but a quarantine file."""
        if work.problem is not None:
            raise work.problem
        token = new_id("in")
        try:
            return self._prepare(work, token)
        except RefusedWorkError:
            raise
        except BaseException:
            self._staging.discard(token)
            raise

    def aim(self, work: Work, report: Report | None) -> tuple[str, str | None, int | None]:
        """Return hero, skill and level: what the quest says, else what the rows say, else what a name says."""
        spec = work.spec
        skill, level = (report.skill, report.level) if report is not None else (None, None)
        for name in dict.fromkeys(entry.name for entry in work.files):
            guessed, guessed_level = guess_from_name(name)
            if guessed is not None and skill in (None, guessed):
                skill, level = guessed, guessed_level if level is None else level
        if spec is None:
            return self._hero, skill, level
        made = spec.data if isinstance(spec.data, GeneratorSpec) else None
        if made is not None:
            skill, level = made.skill, made.level
        if spec.skill is not None:
            skill, level = spec.skill, level if spec.skill == skill else None
        return spec.hero or self._hero, skill, level if spec.level is None else spec.level

    def _prepare(self, work: Work, token: str) -> Prepared:
        canonical, quarantine = self._staging.path(token, "rows"), self._staging.path(token, "rejected")
        raw, verdict = self._inspect(work, token, canonical, quarantine)
        self._fault("inspected")
        if not verdict.accepted:
            raise RefusedWorkError(verdict.report, token, quarantine)
        suffix = verdict.report.format.partition("/")[0]
        container, dot, ending = suffix.partition(".")
        raw_target = self._objects / f"{raw.sha256}{_SUFFIXES.get(container, '.' + container)}{dot}{ending}"
        rows_target = self._objects / f"{verdict.canonical_sha256}.jsonl"
        objects = [(raw.path, raw_target), (canonical, rows_target)]
        spec_sha = hashlib.sha256(work.raw_spec).hexdigest() if work.raw_spec else ""
        if work.raw_spec and work.data is not None:
            spec_path = self._staging.path(token, "spec")
            spec_path.write_bytes(work.raw_spec)
            objects.append((spec_path, self._objects / f"{spec_sha}.yaml"))
        arrival = self._arrival(work, raw, verdict, raw_target=raw_target, rows_target=rows_target, spec_sha=spec_sha)
        return Prepared(work, arrival, token, objects, quarantine)

    def _inspect(self, work: Work, token: str, canonical: Path, quarantine: Path) -> tuple[Staged, Verdict]:
        policy = self._policy(work.spec)
        ticks = itertools.count(1)

        def tick(rows: int = 0) -> None:
            self._tick()
            if next(ticks) % 64 == 0:
                check_room(self._staging.folder, 0, self._floor)

        target = self._staging.path(token, "raw")
        if work.data is not None:
            check_room(self._staging.folder, 2 * work.data.identity.size, self._floor)
            raw = self._copy(work.data, target, tick)
            self._fault("copied")
            return raw, inspect_file(target, label(work.data.name), canonical, quarantine, policy, tick=tick)
        assert work.spec is not None
        target.write_bytes(work.raw_spec)
        raw = Staged(target, hashlib.sha256(work.raw_spec).hexdigest(), len(work.raw_spec))
        self._fault("copied")
        rows, kind = self._rows_of(work.spec)
        return raw, inspect_rows(rows, label(work.entry.name), canonical, quarantine, policy, format=kind, tick=tick)

    def _copy(self, entry: Entry, target: Path, tick: Callable[[], None]) -> Staged:
        descriptor = open_entry(entry)
        try:
            return copy_entry(entry, descriptor, target, tick)
        finally:
            os.close(descriptor)

    def _rows_of(self, spec: QuestSpec) -> tuple[Iterator[RawRow], str]:
        if not isinstance(spec.data, GeneratorSpec):
            return rows_from_values(spec.data), "quest"
        if self._generate is None:
            raise RefusedError("There is no generator for rows here.", code="no_generator")
        return rows_from_values(self._generate(spec.data)), "generated"

    def _arrival(
        self, work: Work, raw: Staged, verdict: Verdict, *, raw_target: Path, rows_target: Path, spec_sha: str
    ) -> Arrival:
        spec, entry = work.spec, work.entry
        hero, skill, level = self.aim(work, verdict.report)
        again = asks_again(entry.name) or (spec is not None and spec.again)
        parts = [raw.sha256, entry.name, hero, skill or "", spec_sha, entry.drop if again else ""]
        return Arrival(
            name=label(spec.name if spec is not None and spec.name else entry.name),
            source=entry.source,
            object_sha256=raw.sha256,
            object_path=raw_target,
            canonical_path=rows_target,
            canonical_sha256=verdict.canonical_sha256,
            rows=verdict.rows,
            format=verdict.report.format,
            report=verdict.report,
            spec=spec,
            size=raw.size,
            priority=work.priority,
            hero=hero,
            skill=skill,
            level=level,
            idem_key=digest(*parts),
        )
