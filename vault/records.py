"""What the vault hands out: frozen records, never rows. Times are Unix seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Priority = Literal["high", "normal", "low"]
PRIORITY_RANK: dict[str, int] = {"high": 0, "normal": 1, "low": 2}
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
JobState = Literal["queued", "processing", "completed", "failed", "refused", "skipped", "cancelled"]
STEPS_PER_LEVEL = 1000
GOLD_PER_JOB = 100


class Record:
    """Base of all records: `to_dict` gives plain JSON values."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True)
class Event(Record):
    """One line of the append-only log; `seq` grows without exception."""

    seq: int
    at: float
    kind: str
    subject: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Hero(Record):
    """A model that is trained over many jobs."""

    id: str
    name: str
    trainer: str
    model: str
    model_dir: str
    config: dict[str, Any]
    champion_id: str | None
    champion_by: str | None
    created_at: float


@dataclass(frozen=True)
class NewJob:
    """A request to train. `idem_key` makes submitting twice harmless."""

    hero_id: str
    trainer: str
    name: str
    idem_key: str
    source: str = "inbox"
    priority: Priority = "normal"
    data: list[dict[str, Any]] = field(default_factory=list)
    """Accepted files: {sha256, canonical_sha256, rows, format, name}."""
    config: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    skill: str | None = None
    level: int | None = None
    rows: int = 0
    planned_steps: int | None = None


@dataclass(frozen=True)
class Job(Record):
    """A request to train and where it stands."""

    seq: int
    id: str
    idem_key: str
    hero_id: str
    trainer: str
    name: str
    priority: Priority
    position: float
    state: JobState
    source: str
    data: list[dict[str, Any]]
    config: dict[str, Any]
    report: dict[str, Any] | None
    skill: str | None
    level: int | None
    rows: int
    planned_steps: int | None
    attempts: int
    fruitless: int
    """Attempts since the last one that got further."""
    fence: int
    lease_owner: str | None
    lease_until: float | None
    not_before: float
    run_id: str | None
    reason: dict[str, Any] | None
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class Run(Record):
    """One execution of a job; a resumed run is the same run with one more attempt."""

    seq: int
    id: str
    job_id: str
    hero_id: str
    trainer: str
    phase: str
    hero_step_start: int
    step: int
    max_steps: int | None
    parent_checkpoint_id: str | None
    train_loss: float | None
    val_loss: float | None
    tokens: int
    train_seconds: float
    records_offset: int
    records_seq: int
    outcome: str | None
    error: dict[str, Any] | None
    data_hash: str | None
    config: dict[str, Any]
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class Claim:
    """A job taken for execution: whoever holds the newest fence may finish it."""

    job: Job
    run: Run
    attempt: int
    fence: int
    resumed: bool


@dataclass(frozen=True)
class Checkpoint(Record):
    """A committed checkpoint. `step` is the hero's, `run_step` the run's."""

    seq: int
    id: str
    hero_id: str
    run_id: str
    name: str
    step: int
    run_step: int
    manifest_sha256: str
    size: int
    train_loss: float | None
    val_loss: float | None
    status: str
    pinned: int
    card: dict[str, Any]
    created_at: float


@dataclass(frozen=True)
class Evaluation(Record):
    """Problems answered right out of those asked, for one set at one step."""

    seq: int
    id: str
    hero_id: str
    run_id: str
    step: int
    run_step: int
    name: str
    skill: str
    level: int
    split: str
    correct: int
    total: int
    details: dict[str, Any]
    at: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else 0.0

    @property
    def contrast(self) -> str | None:
        """What a set beside the level's own shows (`bin/L3/heldout/direct` → `direct`); None for the level's own."""
        parts = self.name.split("/")
        return parts[3] if len(parts) > 3 else None


@dataclass(frozen=True)
class Command(Record):
    """A person's or program's wish about the battle or the queue, and what came of it."""

    seq: int
    id: str
    verb: str
    target: str | None
    args: dict[str, Any]
    by: str
    state: str
    effect: dict[str, Any] | None
    at: float
    settled_at: float | None


@dataclass(frozen=True)
class Token(Record):
    """An API token without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    revoked_at: float | None


@dataclass(frozen=True)
class HeroStats(Record):
    """The game numbers of a hero: each a pure function of ledger rows, beside the rows' own numbers."""

    xp: int
    level: int
    xp_into_level: int
    atk: float | None
    train_loss: float | None
    defence: float | None
    val_loss: float | None
    acc: float | None
    acc_correct: int
    acc_total: int
    gold: int
    completed: int


@dataclass(frozen=True)
class Page(Record):
    """A slice of a longer list; `next_cursor` continues it."""

    items: list[Any]
    next_cursor: int | None
