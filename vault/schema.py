"""The tables of the ledger and of the metric points. Their history is in `migrations/`.

Times are Unix seconds (UTC). JSON is text. Names follow the field: a job is a request, a run its execution.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
ledger = MetaData(naming_convention=_NAMES)
points = MetaData(naming_convention=_NAMES)

Int = BigInteger().with_variant(Integer, "sqlite")
Real = Float(53).with_variant(REAL(), "sqlite")


class Json(TypeDecorator[Any]):
    """A JSON value kept as text, the same in every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Any) -> Any:
        return None if value is None else json.loads(value)


def _table(name: str, metadata: MetaData, *parts: Any, **options: Any) -> Table:
    return Table(name, metadata, *parts, sqlite_strict=True, **options)


counters = _table("counters", ledger, Column("name", Text, primary_key=True), Column("value", Int, nullable=False))

flags = _table("flags", ledger, Column("name", Text, primary_key=True), Column("value", Json, nullable=False))

heroes = _table(
    "heroes",
    ledger,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("trainer", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_dir", Text, nullable=False),
    Column("config", Json, nullable=False),
    Column("champion_id", Text),
    Column("champion_by", Text),
    Column("created_at", Real, nullable=False),
)

jobs = _table(
    "jobs",
    ledger,
    Column("seq", Int, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("idem_key", Text, nullable=False, unique=True),
    Column("hero_id", Text, ForeignKey("heroes.id"), nullable=False),
    Column("trainer", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("priority", Int, nullable=False),
    Column("position", Real, nullable=False),
    Column("state", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("data", Json, nullable=False),
    Column("config", Json, nullable=False),
    Column("report", Json),
    Column("skill", Text),
    Column("level", Int),
    Column("rows", Int, nullable=False),
    Column("planned_steps", Int),
    Column("attempts", Int, nullable=False),
    Column("fruitless", Int, nullable=False),
    Column("fence", Int, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", Real),
    Column("not_before", Real, nullable=False),
    Column("run_id", Text),
    Column("reason", Json),
    Column("created_at", Real, nullable=False),
    Column("started_at", Real),
    Column("finished_at", Real),
    CheckConstraint(
        "state IN ('queued','processing','completed','failed','refused','skipped','cancelled')", name="state"
    ),
    CheckConstraint("priority BETWEEN 0 AND 2", name="priority"),
)
Index("ix_jobs_pick", jobs.c.state, jobs.c.priority, jobs.c.position, jobs.c.seq)

runs = _table(
    "runs",
    ledger,
    Column("seq", Int, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("hero_id", Text, ForeignKey("heroes.id"), nullable=False, index=True),
    Column("trainer", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("hero_step_start", Int, nullable=False),
    Column("step", Int, nullable=False),
    Column("max_steps", Int),
    Column("parent_checkpoint_id", Text),
    Column("train_loss", Real),
    Column("val_loss", Real),
    Column("tokens", Int, nullable=False),
    Column("train_seconds", Real, nullable=False),
    Column("records_offset", Int, nullable=False),
    Column("records_seq", Int, nullable=False),
    Column("outcome", Text),
    Column("error", Json),
    Column("data_hash", Text),
    Column("config", Json, nullable=False),
    Column("created_at", Real, nullable=False),
    Column("started_at", Real),
    Column("finished_at", Real),
)

attempts = _table(
    "attempts",
    ledger,
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("attempt", Int, nullable=False),
    Column("fence", Int, nullable=False),
    Column("first_step", Int, nullable=False),
    Column("started_at", Real, nullable=False),
    Column("ended_at", Real),
    Column("outcome", Text),
    Column("error", Json),
    PrimaryKeyConstraint("run_id", "attempt"),
)

completions = _table(
    "completions",
    ledger,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("run_id", Text, nullable=False),
    Column("fence", Int, nullable=False),
    Column("manifest_sha256", Text, nullable=False),
    Column("data_hash", Text),
    Column("at", Real, nullable=False),
)

checkpoints = _table(
    "checkpoints",
    ledger,
    Column("seq", Int, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("hero_id", Text, ForeignKey("heroes.id"), nullable=False),
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("step", Int, nullable=False),
    Column("run_step", Int, nullable=False),
    Column("manifest_sha256", Text, nullable=False),
    Column("size", Int, nullable=False),
    Column("train_loss", Real),
    Column("val_loss", Real),
    Column("status", Text, nullable=False),
    Column("pinned", Int, nullable=False),
    Column("card", Json, nullable=False),
    Column("created_at", Real, nullable=False),
    UniqueConstraint("run_id", "name"),
    CheckConstraint("status IN ('verified','quarantined','missing','deleted')", name="status"),
)
Index("ix_checkpoints_hero_step", checkpoints.c.hero_id, checkpoints.c.step)
Index("ix_checkpoints_best", checkpoints.c.hero_id, checkpoints.c.status, checkpoints.c.val_loss)

evaluations = _table(
    "evaluations",
    ledger,
    Column("seq", Int, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("hero_id", Text, ForeignKey("heroes.id"), nullable=False),
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("step", Int, nullable=False),
    Column("run_step", Int, nullable=False),
    Column("name", Text, nullable=False),
    Column("skill", Text, nullable=False),
    Column("level", Int, nullable=False),
    Column("split", Text, nullable=False),
    Column("correct", Int, nullable=False),
    Column("total", Int, nullable=False),
    Column("details", Json, nullable=False),
    Column("at", Real, nullable=False),
    UniqueConstraint("run_id", "run_step", "name"),
)
Index("ix_evaluations_hero_name", evaluations.c.hero_id, evaluations.c.name, evaluations.c.seq)

milestones = _table(
    "milestones",
    ledger,
    Column("hero_id", Text, ForeignKey("heroes.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Int, nullable=False),
    Column("at", Real, nullable=False),
    PrimaryKeyConstraint("hero_id", "kind", "value"),
)

events = _table(
    "events",
    ledger,
    Column("seq", Int, primary_key=True, autoincrement=True),
    Column("at", Real, nullable=False),
    Column("kind", Text, nullable=False, index=True),
    Column("subject", Text, nullable=False, index=True),
    Column("data", Json, nullable=False),
    sqlite_autoincrement=True,  # a number is never used twice, even after old events were exported and deleted
)

commands = _table(
    "commands",
    ledger,
    Column("seq", Int, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("verb", Text, nullable=False),
    Column("target", Text),
    Column("args", Json, nullable=False),
    Column("by", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("effect", Json),
    Column("at", Real, nullable=False),
    Column("settled_at", Real),
    CheckConstraint("state IN ('pending','sent','done','refused')", name="state"),
)

tokens = _table(
    "tokens",
    ledger,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", Real, nullable=False),
    Column("expires_at", Real),
    Column("last_used_at", Real),
    Column("revoked_at", Real),
)

point = _table(
    "points",
    points,
    Column("run_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("step", Int, nullable=False),
    Column("value", Real, nullable=False),
    PrimaryKeyConstraint("run_id", "name", "step"),
)
