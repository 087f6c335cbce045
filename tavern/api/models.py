"""Bodies of requests and answers. Field words only; times are Unix seconds, sizes bytes."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from arena.formats.quests import GeneratorSpec
from tavern.bounds import Count, Id, Text

PriorityName = Literal["high", "normal", "low"]
VerbName = Literal["pause", "resume", "stop", "skip", "save"]
ScopeName = Literal["read", "operate", "admin", "zone"]
StateName = Literal["queued", "processing", "completed", "failed", "refused", "skipped", "cancelled"]
Item = TypeVar("Item")


class Answer(BaseModel):
    """Base of what is sent: built from the vault's records by attribute."""

    model_config = ConfigDict(from_attributes=True)


class Body(BaseModel):
    """Base of what is received: unknown keys are an error."""

    model_config = ConfigDict(extra="forbid")


class PageOf(Answer, Generic[Item]):
    """A slice of a list, newest first. Pass `next_cursor` as `cursor` to go on; null means the end."""

    items: list[Item]
    next_cursor: int | None = None


class Job(Answer):
    """A request to train and where it stands."""

    id: str = Field(examples=["job_01jd2v5x8kq3m7t9w0ab"])
    name: str = Field(examples=["bin-level-3.jsonl"])
    state: StateName
    priority: PriorityName
    position: float
    hero_id: str = Field(examples=["dio"])
    trainer: str = Field(examples=["sft"])
    source: str
    skill: str | None
    level: int | None
    rows: int
    planned_steps: int | None
    attempts: int
    run_id: str | None
    reason: dict[str, Any] | None
    data: list[dict[str, Any]]
    config: dict[str, Any]
    created_at: float
    started_at: float | None
    finished_at: float | None


class JobSpec(Body):
    """A job in place of a file: a few `rows` (chat `messages`, or `text`), or what a skill's generator shall make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "greetings",
                    "rows": [
                        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
                    ],
                },
                {"generate": {"skill": "bin", "level": 3, "count": 500}, "priority": "high"},
            ]
        },
    )
    name: Text | None = None
    """What people will call it; by default made of what is asked for."""
    rows: list[dict[str, Any]] | None = Field(default=None, min_length=1, max_length=10_000)
    generate: GeneratorSpec | None = None
    config: dict[str, Any] = {}
    """Overrides of the trainer's configuration."""
    hero: Id | None = None
    priority: PriorityName | None = None
    again: bool = False
    """Train even when the very same request was taken before."""

    @model_validator(mode="after")
    def _one_source(self) -> JobSpec:
        if (self.rows is None) == (self.generate is None):
            raise ValueError("name either rows or generate")
        return self


class JobChange(Body):
    """Another place in the queue: at the end of a priority, or directly before another waiting job."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"priority": "high"}]})
    priority: PriorityName | None = None
    before: Id | None = None


class Report(Answer):
    """What the gatekeepers found in a job's files."""

    job_id: str
    report: dict[str, Any]


class Preview(Answer):
    """The first rows of a job as the model will see them, in stretches of text: (text, whether it is trained)."""

    job_id: str
    preview: list[list[tuple[str, bool]]]


class Run(Answer):
    """One execution of a job. Its hero step is `hero_step_start + step`."""

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
    outcome: str | None
    error: dict[str, Any] | None
    data_hash: str | None
    config: dict[str, Any]
    created_at: float
    started_at: float | None
    finished_at: float | None


class RunDetail(Run):
    """A run with its attempts and the names of its metrics."""

    attempts: list[dict[str, Any]]
    metrics: list[str]


class Series(Answer):
    """A metric over steps. Each point is [step, mean, least, greatest] of its bucket."""

    run_id: str
    name: str
    points: list[tuple[int, float, float, float]] = Field(examples=[[[10, 2.31, 2.2, 2.4]]])


class HeroStats(Answer):
    """The numbers of a hero, each computed from the ledger."""

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


class Hero(Answer):
    """A model that is trained over many jobs."""

    id: str
    name: str
    trainer: str
    model: str
    champion_id: str | None
    champion_by: str | None
    created_at: float
    stats: HeroStats


class Checkpoint(Answer):
    """A committed checkpoint with its identity card."""

    id: str
    hero_id: str
    run_id: str
    name: str = Field(examples=["checkpoint-182000-20251127-2210"])
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


class Evaluation(Answer):
    """Problems answered right out of those asked."""

    id: str
    hero_id: str
    run_id: str
    step: int
    run_step: int
    name: str = Field(examples=["bin/L3/heldout"])
    skill: str
    level: int
    split: str
    correct: int
    total: int
    accuracy: float
    details: dict[str, Any]
    at: float


class CommandRequest(Body):
    """A wish about the battle: `target` is a run's id; without one the present run is meant."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"verb": "pause"}]})
    verb: VerbName
    target: Id | None = None


class Command(Answer):
    """A wish and what came of it: pending, sent, done or refused."""

    id: str
    verb: VerbName
    target: str | None
    by: str
    state: str
    effect: dict[str, Any] | None
    at: float
    settled_at: float | None


class LogEntry(Answer):
    """One event of the ledger, with its words for people."""

    seq: int
    at: float
    kind: str
    subject: str
    data: dict[str, Any]
    words: dict[str, Any]


class TokenRequest(Body):
    """A new API token."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "laptop", "scopes": ["read"], "ttl_s": 86400}]}
    )
    name: Text
    scopes: list[ScopeName] = Field(min_length=1, max_length=4)
    ttl_s: int | None = Field(default=None, ge=60, le=10 * 366 * 24 * 3600)
    """Seconds until it expires; null means never."""


class Token(Answer):
    """An API token without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    revoked_at: float | None


class NewToken(Token):
    """A token just made. `secret` is shown this once."""

    secret: str


class Session(Answer):
    """Who the Tavern takes the caller for."""

    kind: Literal["own-user", "session", "token"]
    name: str
    scopes: list[str]


class LoginRequest(Body):
    """The code of a launch address."""

    code: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]+$")


class Upload(Answer):
    """A file that was taken in and goes through the gates as soon as the daemon sees it."""

    id: str
    name: str
    size: Count
    sha256: str
    state: Literal["arriving", "accepted"]
    job: Job | None = None
    """The job that became of it, once there is one."""
