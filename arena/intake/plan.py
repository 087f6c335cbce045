"""From what lies in the inbox to work: which files are complete, and which belong together.

A quest file and the data file that it names are one piece of work. While a quest file still arrives, data files beside
it wait a moment, so that none of them is taken for a job of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from arena.formats import QuestSpec, read_quest
from arena.formats.quests import MAX_BYTES
from arena.intake.files import ChangedError, Entry, Identity, has_writer, open_entry, read_entry, take_out
from arena.intake.records import label
from arena.intake.watch import Wait
from arena.intake.work import Look, Work
from realm.errors import CorruptFileError, NotFoundError, RefusedError
from realm.files import read_json

DATA_WAIT_S = 60.0
"""After this long, a quest file that waits for its data is spoken of."""
EMPTY_WAIT_S = 10.0
"""An empty file is given this long to be filled."""
QUEST_WAIT_S = 10.0
"""Data files wait this long for a quest file that does not become complete."""


class Planner:
    """Finds the work in a list of files."""

    def __init__(self, markers: Path) -> None:
        self._markers = markers
        self._quests: dict[Path, tuple[Identity, bytes, QuestSpec | RefusedError]] = {}

    def plan(self, look: Look, entries: list[Entry]) -> list[Work]:
        """Return the complete work, oldest first; everything else is listed in the look."""
        entries = sorted(entries, key=lambda entry: (entry.identity.mtime_ns, entry.name))
        beside = {entry.path: entry for entry in entries}
        self._quests = {path: known for path, known in self._quests.items() if path in beside}
        work: list[Work] = []
        unsettled: set[Path] = set()
        wanted: set[Path] = set()
        for entry in entries:
            if not entry.is_quest:
                continue
            quest = self._quest(look, entry)
            if quest is not None:
                work += self._with_data(look, entry, *quest, beside=beside, wanted=wanted)
            elif look.watch.age(entry.path, look.now) < QUEST_WAIT_S:
                unsettled.add(entry.folder)
        for entry in entries:
            if entry.is_quest or entry.path in wanted or not is_complete(look, entry):
                continue
            if entry.folder in unsettled:
                look.stays(entry.path, entry.identity.size, "arriving", "a quest file beside it still arrives")
            else:
                work.append(Work(entry, entry))
        return work

    def _quest(self, look: Look, entry: Entry) -> tuple[bytes, QuestSpec | RefusedError] | None:
        """Return a quest file's bytes and what it asks for, or why it cannot be read; None while it is not complete."""
        known = self._quests.get(entry.path)
        if known is not None and known[0] == entry.identity and look.watch.wait(entry, look.now) is None:
            return known[1], known[2]
        if not is_complete(look, entry):
            return None
        try:
            descriptor = open_entry(entry)
            try:
                raw = read_entry(entry, descriptor, MAX_BYTES)
            finally:
                os.close(descriptor)
        except ChangedError:
            return None
        except OSError as error:
            _cannot_open(look, entry, error)
            return None
        try:
            asked: QuestSpec | RefusedError = read_quest(raw, label(entry.name))
        except RefusedError as error:
            asked = error
        self._quests[entry.path] = (entry.identity, raw, asked)
        return raw, asked

    def _with_data(
        self,
        look: Look,
        entry: Entry,
        raw: bytes,
        asked: QuestSpec | RefusedError,
        *,
        beside: dict[Path, Entry],
        wanted: set[Path],
    ) -> list[Work]:
        """Return a quest file's work, together with its data file; nothing while that is missing or arriving."""
        spec, problem = (None, asked) if isinstance(asked, RefusedError) else (asked, None)
        work = Work(entry, None, spec, raw, problem)
        name = problem.data.get("data_name") if problem is not None else spec.data if spec is not None else None
        if not isinstance(name, str):
            return [work]
        path = entry.folder / name
        wanted.add(path)
        work.data = beside.get(path)
        if work.data is None and problem is None:
            return self._without_data(look, work, name)
        if work.data is not None:
            look.claims[path] += 1
            if not is_complete(look, work.data) and problem is None:
                look.stays(entry.path, entry.identity.size, "arriving", f"{label(name)} still arrives")
                return []
        return [work]

    def _without_data(self, look: Look, work: Work, name: str) -> list[Work]:
        """Finish a quest file whose data file was taken already, before a crash; otherwise it waits."""
        try:
            settled = read_json(self._markers / work.marker)
        except (NotFoundError, CorruptFileError):
            _wait_for_data(look, work.entry, name)
            return []
        if isinstance(settled, dict) and settled.get("state") == "accepted":
            take_out(work.entry)
            return []
        work.problem = RefusedError(f"The rows of {label(name)} were refused.", code="data_refused")
        return [work]


def is_complete(look: Look, entry: Entry) -> bool:
    """Tell whether nobody writes to a file any more; where somebody does, list it."""
    wait = look.watch.wait(entry, look.now)
    age = look.watch.age(entry.path, look.now)
    if wait is None and entry.identity.size == 0 and age < EMPTY_WAIT_S:
        wait = Wait("arriving", "it is empty so far", EMPTY_WAIT_S - age)
    if wait is None:
        try:
            descriptor = open_entry(entry)
        except ChangedError:
            wait = Wait("arriving", "it changed while it was looked at", 0.1)
        except OSError as error:
            _cannot_open(look, entry, error)
            return False
        else:
            try:
                wait = look.watch.judge_writer(entry, has_writer(descriptor), look.now)
            finally:
                os.close(descriptor)
    if wait is not None:
        look.stays(entry.path, entry.identity.size, wait.code, wait.reason)
        look.waits.append(wait.seconds)
    return wait is None


def _cannot_open(look: Look, entry: Entry, error: OSError) -> None:
    reason = f"it cannot be opened: {error.strerror}"
    look.waits.append(look.watch.postpone(entry.path, "cannot_open", reason, look.now))
    look.stays(entry.path, entry.identity.size, "cannot_open", reason, told="error")


def _wait_for_data(look: Look, entry: Entry, name: str) -> None:
    waited = look.watch.age(entry.path, look.now)
    if waited < DATA_WAIT_S:
        look.stays(entry.path, entry.identity.size, "waiting_for_data", f"it waits for {label(name)} beside it")
        look.waits.append(DATA_WAIT_S - waited)
    else:
        reason = f"it waits for {label(name)}, which is not beside it; drop that file into the same folder"
        look.stays(entry.path, entry.identity.size, "waiting_for_data", reason, told="waiting")
