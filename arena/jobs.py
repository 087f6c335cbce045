"""What a run is asked to do: `job.json`, the first file of a run directory.

It is complete (every default written out) and never changes after the run began, so that a checkpoint's lineage can
be read from it alone. Reading an older one back is tolerant: unknown keys are dropped by `read_job`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from realm.errors import CorruptFileError
from realm.files import durable_write_json, read_json
from realm.settings import Config

NAME = "job.json"


class DataFile(Config):
    """One training file of a run, canonical rows, relative to the run directory."""

    path: str
    sha256: str
    rows: int
    format: str
    """What it was before it became canonical rows, e.g. `jsonl/messages`."""
    origin: str = ""
    """The name under which a person dropped it."""


class EvaluationSet(Config):
    """A file of problems with known answers, relative to the run directory."""

    name: str
    """For example `bin/L3/heldout`."""
    path: str
    skill: str
    level: int
    split: Literal["known", "heldout"]
    space: int | None = None
    """How many problems the level has in all, where that is known."""


class JobFile(Config):
    """Everything a trainer needs to know. Paths of models and checkpoints are absolute."""

    schema_version: int = 1
    job_id: str
    run_id: str
    name: str
    """What people call it: as a rule the name of the dropped file."""
    hero: str
    trainer: str
    seed: int = 0
    hero_step_start: int = Field(default=0, ge=0)
    """Optimizer steps of the hero before this run."""
    model_dir: str
    """The base model (Hugging Face layout)."""
    parent_checkpoint: str | None = None
    """The checkpoint whose weights and optimizer state this run carries on, or None for the base model's weights."""
    config: dict[str, Any] = {}
    """The trainer's own configuration tree."""
    data: list[DataFile] = []
    evaluation_sets: list[EvaluationSet] = []
    skill: str | None = None
    level: int | None = None
    threads: int = Field(default=1, ge=1)
    """Torch threads."""
    disk_floor_bytes: int = 0
    """Free space that a save may not eat into."""
    created_at: float = 0.0
    """Unix time in seconds."""


def write_job(run_dir: Path, job: JobFile) -> None:
    """Write `job.json` durably. Raises FileExistsError when the run already has one."""
    durable_write_json(run_dir / NAME, job.model_dump(mode="json"), replace=False)


def read_job(run_dir: Path) -> JobFile:
    """Read `job.json`, dropping keys of other versions. Raises NotFoundError, CorruptFileError."""
    value = read_json(run_dir / NAME)
    try:
        known = {key: value[key] for key in value if key in JobFile.model_fields}
        return JobFile.model_validate(known)
    except (ValidationError, TypeError) as error:
        raise CorruptFileError(f"{run_dir.name}: its job.json is not a job: {error}.", folder=str(run_dir)) from error
