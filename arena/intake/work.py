"""What one look at the inbox is about: the work found, and what is said of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from arena.formats import QuestSpec
from arena.gatekeepers import Report
from arena.intake.files import Entry
from arena.intake.records import Arrival, ArrivingFile, IntakeResult, ResultKind, digest, label
from arena.intake.watch import Watch
from realm.errors import RefusedError
from vault.records import Priority


@dataclass
class Work:
    """One job to be: a data file (`data` is then `entry` itself), or a quest file with or without its data file."""

    entry: Entry
    data: Entry | None
    spec: QuestSpec | None = None
    raw_spec: bytes = b""
    problem: RefusedError | None = None
    """Why the quest file cannot be read."""

    @property
    def files(self) -> list[Entry]:
        """What leaves the inbox in the end, the data first: a quest file alone does no harm."""
        return [self.data, self.entry] if self.data is not None and self.data is not self.entry else [self.entry]

    @property
    def size(self) -> int:
        return sum(entry.identity.size for entry in self.files)

    @property
    def priority(self) -> Priority:
        return self.spec.priority if self.spec is not None and self.spec.priority else self.entry.priority

    @property
    def marker(self) -> str:
        """The name of the sign that says what became of this quest file, written before its data file goes."""
        return f"quest-{digest(self.raw_spec, self.entry.name, self.entry.drop)}.json"


@dataclass
class Prepared:
    """Work whose rows were let in; `objects` in staging are still to be synced and given their names."""

    work: Work
    arrival: Arrival
    token: str
    objects: list[tuple[Path, Path]]
    quarantine: Path


class RefusedWorkError(Exception):
    """The gatekeepers turned a file down."""

    def __init__(self, report: Report, token: str, quarantine: Path) -> None:
        super().__init__(report.name)
        self.report = report
        self.token = token
        self.quarantine = quarantine


@dataclass
class Look:
    """What one look collects."""

    now: float
    watch: Watch
    results: list[IntakeResult] = field(default_factory=list)
    arriving: list[ArrivingFile] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """Seconds after which something changes by time alone."""
    claims: Counter[Path] = field(default_factory=Counter)
    """How many quest files want a data file."""

    def stays(
        self, path: Path, size: int, code: str, reason: str, *, told: ResultKind | None = None, mark: str = ""
    ) -> None:
        """List a file as lying in the inbox; with `told`, make it a result as well, once."""
        name = label(path.name)
        self.arriving.append(ArrivingFile(name, size, code, reason))
        if told is not None and self.watch.tell_once(path, f"{code}{mark}"):
            self.results.append(IntakeResult(told, name, reason, "", code))
