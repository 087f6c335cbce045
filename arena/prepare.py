"""Making a run directory for a claimed job: everything that the trainer will need, frozen before it begins.

Data files are hard links to the accepted, read-only objects; evaluation sets are written out; the hero's newest
checkpoint is verified before it is named as parent. A directory that an earlier attempt prepared is left as it is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena.executors.local import default_threads
from arena.jobs import NAME, DataFile, EvaluationSet, JobFile, write_job
from arena.rundir import RunDir
from realm.errors import CorruptFileError, NotFoundError
from realm.files import durable_write, fsync_dir
from realm.paths import RealmPaths
from realm.settings import ArenaSettings
from vault.manifest import verify
from vault.records import Claim, Job
from vault.store import Vault


@dataclass(frozen=True)
class EvaluationRows:
    """A set of problems with known answers, as the guild hands it over."""

    name: str
    skill: str
    level: int
    split: str
    rows: Sequence[dict[str, Any]]
    space: int | None = None


EvaluationSource = Callable[[Job], Sequence[EvaluationRows]]


class Preparation:
    """Makes run directories of one realm."""

    def __init__(
        self, paths: RealmPaths, vault: Vault, settings: ArenaSettings, evaluation_source: EvaluationSource
    ) -> None:
        self._paths = paths
        self._vault = vault
        self._settings = settings
        self._evaluation_source = evaluation_source

    def run_dir(self, claim: Claim) -> Path:
        """Return the run directory of a claim, complete. Raises CorruptFileError when the parent does not verify."""
        run_dir = RunDir(self._paths.runs / claim.run.id).ensure()
        run_dir.clear_outcome()
        if not (run_dir.path / NAME).exists():
            job = self._job_file(claim, run_dir.path)
            write_job(run_dir.path, job)
            self._vault.ledger.set_config(claim.run.id, job.config)
        return run_dir.path

    def _job_file(self, claim: Claim, run_dir: Path) -> JobFile:
        job, run = claim.job, claim.run
        hero = self._vault.ledger.hero(job.hero_id)
        config = {**hero.config, **job.config}
        parent = self._parent(run.parent_checkpoint_id)
        return JobFile(
            job_id=job.id,
            run_id=run.id,
            name=job.name,
            hero=hero.id,
            trainer=job.trainer,
            hero_step_start=run.hero_step_start,
            model_dir=str(self._paths.home / hero.model_dir),
            parent_checkpoint=None if parent is None else str(parent),
            config=config,
            data=[_link_data(entry, number, run_dir, self._paths) for number, entry in enumerate(job.data)],
            evaluation_sets=[_write_evaluation(rows, run_dir) for rows in self._evaluation_source(job)],
            skill=job.skill,
            level=job.level,
            threads=self._settings.threads or default_threads(),
            disk_floor_bytes=self._settings.disk_floor_mib << 20,
            created_at=run.created_at,
        )

    def _parent(self, checkpoint_id: str | None) -> Path | None:
        """Return the folder of the checkpoint to carry on, once every file of it was hashed anew."""
        if checkpoint_id is None:
            return None
        checkpoint = self._vault.ledger.checkpoint(checkpoint_id)
        folder = self._paths.runs / checkpoint.run_id / checkpoint.name
        try:
            verify(folder)
        except CorruptFileError as error:
            raise CorruptFileError(error.message, code="corrupt_parent", checkpoint_id=checkpoint.id) from error
        return folder


def _link_data(entry: dict[str, Any], number: int, run_dir: Path, paths: RealmPaths) -> DataFile:
    """Bring one accepted file into the run directory without copying it where the file system allows."""
    sha256 = str(entry["canonical_sha256"])
    source = paths.objects / f"{sha256}.jsonl"
    relative = f"data/{number:03d}-{sha256[:16]}.jsonl"
    target = run_dir / relative
    origin = str(entry.get("name", ""))
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise NotFoundError(
            f"The rows of {origin or source.name} are gone: {source} was removed.",
            hint="Drop the file again, then retry the quest.",
            code="data_missing",
        ) from None
    except OSError:
        shutil.copyfile(source, target)
        os.chmod(target, 0o400)
    fsync_dir(target.parent)
    return DataFile(path=relative, sha256=sha256, rows=int(entry["rows"]), format=str(entry["format"]), origin=origin)


def _write_evaluation(rows: EvaluationRows, run_dir: Path) -> EvaluationSet:
    relative = f"eval/{rows.name.replace('/', '_')}.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.rows)
    durable_write(run_dir / relative, text.encode())
    return EvaluationSet(
        name=rows.name, path=relative, skill=rows.skill, level=rows.level, split=rows.split, space=rows.space
    )
