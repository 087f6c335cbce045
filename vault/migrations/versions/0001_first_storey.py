"""The first ledger: heroes, jobs, runs, checkpoints, evaluations, events, commands, tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REAL = sa.Float(53).with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "commands",
        sa.Column("seq", INT, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=True),
        sa.Column("at", REAL, nullable=False),
        sa.Column("settled_at", REAL, nullable=True),
        sa.CheckConstraint("state IN ('pending','sent','done','refused')", name=op.f("ck_commands_state")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_commands")),
        sa.UniqueConstraint("id", name=op.f("uq_commands_id")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_commands_state"), "commands", ["state"], unique=False)
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", INT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
        sqlite_strict=True,
    )
    op.create_table(
        "events",
        sa.Column("seq", INT, autoincrement=True, nullable=False),
        sa.Column("at", REAL, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_events_kind"), "events", ["kind"], unique=False)
    op.create_index(op.f("ix_events_subject"), "events", ["subject"], unique=False)
    op.create_table(
        "flags",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_flags")),
        sqlite_strict=True,
    )
    op.create_table(
        "heroes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("trainer", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_dir", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("champion_id", sa.Text(), nullable=True),
        sa.Column("champion_by", sa.Text(), nullable=True),
        sa.Column("created_at", REAL, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_heroes")),
        sqlite_strict=True,
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", REAL, nullable=False),
        sa.Column("expires_at", REAL, nullable=True),
        sa.Column("last_used_at", REAL, nullable=True),
        sa.Column("revoked_at", REAL, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
        sqlite_strict=True,
    )
    op.create_table(
        "jobs",
        sa.Column("seq", INT, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("idem_key", sa.Text(), nullable=False),
        sa.Column("hero_id", sa.Text(), nullable=False),
        sa.Column("trainer", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("priority", INT, nullable=False),
        sa.Column("position", REAL, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("skill", sa.Text(), nullable=True),
        sa.Column("level", INT, nullable=True),
        sa.Column("rows", INT, nullable=False),
        sa.Column("planned_steps", INT, nullable=True),
        sa.Column("attempts", INT, nullable=False),
        sa.Column("fruitless", INT, nullable=False),
        sa.Column("fence", INT, nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", REAL, nullable=True),
        sa.Column("not_before", REAL, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", REAL, nullable=False),
        sa.Column("started_at", REAL, nullable=True),
        sa.Column("finished_at", REAL, nullable=True),
        sa.CheckConstraint(
            "state IN ('queued','processing','completed','failed','refused','skipped','cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint("priority BETWEEN 0 AND 2", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(["hero_id"], ["heroes.id"], name=op.f("fk_jobs_hero_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
        sa.UniqueConstraint("idem_key", name=op.f("uq_jobs_idem_key")),
        sqlite_strict=True,
    )
    op.create_index("ix_jobs_pick", "jobs", ["state", "priority", "position", "seq"], unique=False)
    op.create_table(
        "milestones",
        sa.Column("hero_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", INT, nullable=False),
        sa.Column("at", REAL, nullable=False),
        sa.ForeignKeyConstraint(["hero_id"], ["heroes.id"], name=op.f("fk_milestones_hero_id")),
        sa.PrimaryKeyConstraint("hero_id", "kind", "value", name=op.f("pk_milestones")),
        sqlite_strict=True,
    )
    op.create_table(
        "completions",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("fence", INT, nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=False),
        sa.Column("data_hash", sa.Text(), nullable=True),
        sa.Column("at", REAL, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_completions_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_completions")),
        sqlite_strict=True,
    )
    op.create_table(
        "runs",
        sa.Column("seq", INT, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("hero_id", sa.Text(), nullable=False),
        sa.Column("trainer", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("hero_step_start", INT, nullable=False),
        sa.Column("step", INT, nullable=False),
        sa.Column("max_steps", INT, nullable=True),
        sa.Column("parent_checkpoint_id", sa.Text(), nullable=True),
        sa.Column("train_loss", REAL, nullable=True),
        sa.Column("val_loss", REAL, nullable=True),
        sa.Column("tokens", INT, nullable=False),
        sa.Column("train_seconds", REAL, nullable=False),
        sa.Column("records_offset", INT, nullable=False),
        sa.Column("records_seq", INT, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("data_hash", sa.Text(), nullable=True),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("created_at", REAL, nullable=False),
        sa.Column("started_at", REAL, nullable=True),
        sa.Column("finished_at", REAL, nullable=True),
        sa.ForeignKeyConstraint(["hero_id"], ["heroes.id"], name=op.f("fk_runs_hero_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_runs_job_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_runs_id")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_runs_hero_id"), "runs", ["hero_id"], unique=False)
    op.create_index(op.f("ix_runs_job_id"), "runs", ["job_id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("attempt", INT, nullable=False),
        sa.Column("fence", INT, nullable=False),
        sa.Column("first_step", INT, nullable=False),
        sa.Column("started_at", REAL, nullable=False),
        sa.Column("ended_at", REAL, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_attempts_run_id")),
        sa.PrimaryKeyConstraint("run_id", "attempt", name=op.f("pk_attempts")),
        sqlite_strict=True,
    )
    op.create_table(
        "checkpoints",
        sa.Column("seq", INT, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hero_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("step", INT, nullable=False),
        sa.Column("run_step", INT, nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=False),
        sa.Column("size", INT, nullable=False),
        sa.Column("train_loss", REAL, nullable=True),
        sa.Column("val_loss", REAL, nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("pinned", INT, nullable=False),
        sa.Column("card", sa.Text(), nullable=False),
        sa.Column("created_at", REAL, nullable=False),
        sa.CheckConstraint(
            "status IN ('verified','quarantined','missing','deleted')", name=op.f("ck_checkpoints_status")
        ),
        sa.ForeignKeyConstraint(["hero_id"], ["heroes.id"], name=op.f("fk_checkpoints_hero_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_checkpoints_run_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("id", name=op.f("uq_checkpoints_id")),
        sa.UniqueConstraint("run_id", "name", name=op.f("uq_checkpoints_run_id_name")),
        sqlite_strict=True,
    )
    op.create_index("ix_checkpoints_best", "checkpoints", ["hero_id", "status", "val_loss"], unique=False)
    op.create_index("ix_checkpoints_hero_step", "checkpoints", ["hero_id", "step"], unique=False)
    op.create_index(op.f("ix_checkpoints_run_id"), "checkpoints", ["run_id"], unique=False)
    op.create_table(
        "evaluations",
        sa.Column("seq", INT, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hero_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("step", INT, nullable=False),
        sa.Column("run_step", INT, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("skill", sa.Text(), nullable=False),
        sa.Column("level", INT, nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("correct", INT, nullable=False),
        sa.Column("total", INT, nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("at", REAL, nullable=False),
        sa.ForeignKeyConstraint(["hero_id"], ["heroes.id"], name=op.f("fk_evaluations_hero_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_evaluations_run_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("id", name=op.f("uq_evaluations_id")),
        sa.UniqueConstraint("run_id", "run_step", "name", name=op.f("uq_evaluations_run_id_run_step_name")),
        sqlite_strict=True,
    )
    op.create_index("ix_evaluations_hero_name", "evaluations", ["hero_id", "name", "seq"], unique=False)
