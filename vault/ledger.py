"""The ledger: heroes, runs, checkpoints, evaluations, and the numbers computed from them.

A checkpoint is entered once it is committed on disk, with the identity card of its manifest; entering it again is
harmless. Experience, levels and gold are functions of rows, stored nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from realm.errors import ConflictError, NotFoundError
from realm.ids import new_id
from vault import events, schema
from vault.database import Database
from vault.manifest import Manifest
from vault.records import GOLD_PER_JOB, STEPS_PER_LEVEL, Checkpoint, Evaluation, Hero, HeroStats, Page, Run

_HEROES, _RUNS, _CHECKPOINTS, _EVALUATIONS = schema.heroes, schema.runs, schema.checkpoints, schema.evaluations


@dataclass(frozen=True)
class Progress:
    """How far a run has come, read from its records up to `offset` bytes."""

    offset: int
    seq: int
    step: int
    phase: str
    max_steps: int | None
    train_loss: float | None
    val_loss: float | None
    tokens: int
    train_seconds: float


class Ledger:
    """Reads and enters facts. Each entry writes its event in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Heroes

    def ensure_hero(
        self, hero_id: str, *, name: str, trainer: str, model: str, model_dir: str, config: dict[str, Any]
    ) -> Hero:
        """Return the hero, creating it on first sight; an existing one keeps its model."""
        with self._database.write() as connection:
            row = connection.execute(select(_HEROES).where(_HEROES.c.id == hero_id)).mappings().first()
            if row is None:
                values = {"id": hero_id, "name": name, "trainer": trainer, "model": model, "model_dir": model_dir}
                connection.execute(insert(_HEROES).values(**values, config=config, created_at=time.time()))
                data = {"hero": hero_id, "name": name, "model": model, "trainer": trainer}
                events.append(connection, "hero_created", hero_id, data)
                row = connection.execute(select(_HEROES).where(_HEROES.c.id == hero_id)).mappings().one()
            return Hero(**row)

    def heroes(self) -> Sequence[Hero]:
        """Return all heroes, oldest first."""
        with self._database.read() as connection:
            return [
                Hero(**row) for row in connection.execute(select(_HEROES).order_by(_HEROES.c.created_at)).mappings()
            ]

    def hero(self, hero_id: str) -> Hero:
        """Return a hero. Raises NotFoundError."""
        with self._database.read() as connection:
            row = connection.execute(select(_HEROES).where(_HEROES.c.id == hero_id)).mappings().first()
        if row is None:
            raise NotFoundError(f"There is no hero {hero_id!r}.", code="hero_not_found", hero=hero_id)
        return Hero(**row)

    def stats(self, hero_id: str) -> HeroStats:
        """Return the hero's numbers. XP = optimizer steps over all runs; gold = completed jobs x 100."""
        with self._database.read() as connection:
            return _stats(connection, hero_id)

    # Runs

    def run(self, run_id: str) -> Run:
        """Return a run. Raises NotFoundError."""
        with self._database.read() as connection:
            row = connection.execute(select(_RUNS).where(_RUNS.c.id == run_id)).mappings().first()
        if row is None:
            raise NotFoundError("There is no such run.", code="run_not_found", run_id=run_id)
        return Run(**row)

    def runs(
        self, *, hero_id: str | None = None, job_id: str | None = None, limit: int = 100, before_seq: int | None = None
    ) -> Page:
        """Return runs, newest first."""
        query = select(_RUNS).order_by(_RUNS.c.seq.desc()).limit(limit + 1)
        if hero_id is not None:
            query = query.where(_RUNS.c.hero_id == hero_id)
        if job_id is not None:
            query = query.where(_RUNS.c.job_id == job_id)
        if before_seq is not None:
            query = query.where(_RUNS.c.seq < before_seq)
        with self._database.read() as connection:
            runs = [Run(**row) for row in connection.execute(query).mappings()]
        return Page(runs[:limit], runs[limit - 1].seq if len(runs) > limit else None)

    def attempts(self, run_id: str) -> list[dict[str, Any]]:
        """Return the attempts of a run, oldest first."""
        table = schema.attempts
        with self._database.read() as connection:
            query = select(table).where(table.c.run_id == run_id).order_by(table.c.attempt)
            return [dict(row) for row in connection.execute(query).mappings()]

    def set_config(self, run_id: str, config: dict[str, Any], max_steps: int | None = None) -> None:
        """Enter the complete configuration under which a run is carried out."""
        values: dict[str, Any] = {"config": config} | ({"max_steps": max_steps} if max_steps else {})
        with self._database.write() as connection:
            connection.execute(update(_RUNS).where(_RUNS.c.id == run_id).values(**values))

    def advance(self, run_id: str, progress: Progress) -> None:
        """Enter how far a run has come; levels reached on the way are entered once, with their events.

        Steps never go down: a run that repeats steps after a crash earns nothing for them a second time.
        """
        with self._database.write() as connection:
            run = Run(**connection.execute(select(_RUNS).where(_RUNS.c.id == run_id)).mappings().one())
            values: dict[str, Any] = {"records_offset": progress.offset, "records_seq": progress.seq}
            values |= {"tokens": max(run.tokens, progress.tokens), "train_seconds": progress.train_seconds}
            if run.outcome is None:
                values["phase"] = progress.phase
            values |= {"step": progress.step} if progress.step > run.step else {}
            values |= {"max_steps": progress.max_steps} if progress.max_steps else {}
            values |= {"train_loss": progress.train_loss} if progress.train_loss is not None else {}
            values |= {"val_loss": progress.val_loss} if progress.val_loss is not None else {}
            connection.execute(update(_RUNS).where(_RUNS.c.id == run_id).values(**values))
            if progress.step // STEPS_PER_LEVEL != run.step // STEPS_PER_LEVEL or progress.step > run.step:
                _enter_levels(connection, run.hero_id, run_id)
            if run.outcome is None and progress.phase != run.phase:
                data = {"run_id": run_id, "job_id": run.job_id, "phase": progress.phase, "run_step": progress.step}
                data |= {"step": run.hero_step_start + progress.step, "hero": run.hero_id}
                events.append(connection, "run_phase", run_id, data)

    def note(self, run_id: str, kind: str, data: dict[str, Any]) -> None:
        """Enter an event about a run (a rollback, a full disk, a pause)."""
        with self._database.write() as connection:
            events.append(connection, kind, run_id, {"run_id": run_id} | data)

    # Checkpoints

    def record_checkpoint(self, run_id: str, name: str, manifest: Manifest) -> tuple[Checkpoint, bool]:
        """Enter a committed checkpoint; return it with whether it is new. A better one becomes champion.

        Raises NotFoundError for an unknown run, ConflictError when the name stands for other content.
        """
        card = manifest.card
        with self._database.write() as connection:
            same = (_CHECKPOINTS.c.run_id == run_id) & (_CHECKPOINTS.c.name == name)
            row = connection.execute(select(_CHECKPOINTS).where(same)).mappings().first()
            if row is not None:
                known = Checkpoint(**row)
                if known.manifest_sha256 != manifest.sha256():
                    words = f"{name} is in the ledger with other content."
                    raise ConflictError(words, code="checkpoint_differs", checkpoint=known.id)
                return known, False
            run_row = connection.execute(select(_RUNS).where(_RUNS.c.id == run_id)).mappings().first()
            if run_row is None:
                raise NotFoundError("There is no such run.", code="run_not_found", run_id=run_id)
            run = Run(**run_row)
            values: dict[str, Any] = {"id": new_id("ckpt"), "hero_id": run.hero_id, "run_id": run_id, "name": name}
            values |= {"step": int(card["step"]), "run_step": int(card["run_step"]), "pinned": 0, "card": card}
            values |= {"manifest_sha256": manifest.sha256(), "size": manifest.size, "status": "verified"}
            values |= {"train_loss": card.get("train_loss"), "val_loss": card.get("val_loss")}
            values |= {"created_at": float(card.get("created_at") or time.time())}
            connection.execute(insert(_CHECKPOINTS).values(**values))
            checkpoint = _checkpoint(connection, values["id"])
            data: dict[str, Any] = {"checkpoint_id": checkpoint.id, "run_id": run_id, "hero": run.hero_id, "name": name}
            data |= {"step": checkpoint.step, "run_step": checkpoint.run_step, "size": checkpoint.size}
            data |= {"train_loss": checkpoint.train_loss, "val_loss": checkpoint.val_loss, "reason": card.get("reason")}
            events.append(connection, "checkpoint_saved", checkpoint.id, data)
            _crown_best(connection, run.hero_id)
            return checkpoint, True

    def checkpoint(self, checkpoint_id: str) -> Checkpoint:
        """Return a checkpoint. Raises NotFoundError."""
        with self._database.read() as connection:
            return _checkpoint(connection, checkpoint_id)

    def checkpoints(
        self,
        hero_id: str | None = None,
        *,
        run_id: str | None = None,
        statuses: Sequence[str] = ("verified",),
        limit: int = 100,
        before_seq: int | None = None,
    ) -> Page:
        """Return checkpoints, newest first."""
        query = select(_CHECKPOINTS).where(_CHECKPOINTS.c.status.in_(statuses))
        query = query.order_by(_CHECKPOINTS.c.seq.desc()).limit(limit + 1)
        if hero_id is not None:
            query = query.where(_CHECKPOINTS.c.hero_id == hero_id)
        if run_id is not None:
            query = query.where(_CHECKPOINTS.c.run_id == run_id)
        if before_seq is not None:
            query = query.where(_CHECKPOINTS.c.seq < before_seq)
        with self._database.read() as connection:
            found = [Checkpoint(**row) for row in connection.execute(query).mappings()]
        return Page(found[:limit], found[limit - 1].seq if len(found) > limit else None)

    def latest(self, hero_id: str) -> Checkpoint | None:
        """Return the hero's newest verified checkpoint: what the next run carries on."""
        page = self.checkpoints(hero_id, limit=1)
        return page.items[0] if page.items else None

    def best(self, hero_id: str, metric: str = "val_loss") -> Checkpoint | None:
        """Return the verified checkpoint with the lowest `val_loss` or `train_loss`, the later of equals."""
        with self._database.read() as connection:
            return _best(connection, hero_id, metric)

    def champion(self, hero_id: str) -> Checkpoint | None:
        """Return the champion: the one a person promoted, else the best by validation loss."""
        with self._database.read() as connection:
            champion_id = connection.execute(select(_HEROES.c.champion_id).where(_HEROES.c.id == hero_id)).scalar()
            return _checkpoint(connection, champion_id) if champion_id else None

    def promote(self, checkpoint_id: str, by: str) -> Checkpoint:
        """Make a verified checkpoint champion by a person's word. Raises NotFoundError, ConflictError."""
        with self._database.write() as connection:
            checkpoint = _checkpoint(connection, checkpoint_id)
            if checkpoint.status != "verified":
                raise ConflictError(f"{checkpoint.name} is {checkpoint.status}.", code="not_verified")
            _crown(connection, checkpoint, by)
            return checkpoint

    def set_checkpoint_status(self, checkpoint_id: str, status: str, reason: str = "") -> None:
        """Enter that a checkpoint was quarantined, went missing, was deleted or verifies again."""
        kinds = {
            "quarantined": "checkpoint_quarantined",
            "deleted": "checkpoint_deleted",
            "missing": "checkpoint_missing",
        }
        with self._database.write() as connection:
            checkpoint = _checkpoint(connection, checkpoint_id)
            if checkpoint.status == status:
                return
            same = _CHECKPOINTS.c.id == checkpoint_id
            connection.execute(update(_CHECKPOINTS).where(same).values(status=status))
            data = {"checkpoint_id": checkpoint_id, "name": checkpoint.name, "step": checkpoint.step, "reason": reason}
            data |= {"run_id": checkpoint.run_id, "hero": checkpoint.hero_id, "was": checkpoint.status}
            events.append(connection, kinds.get(status, "checkpoint_verified"), checkpoint_id, data)
            if status != "verified":
                _crown_best(connection, checkpoint.hero_id, lost=checkpoint_id)

    # Evaluations

    def record_evaluation(
        self,
        run_id: str,
        *,
        run_step: int,
        name: str,
        skill: str,
        level: int,
        split: str,
        correct: int,
        total: int,
        details: dict[str, Any],
        at: float,
    ) -> bool:
        """Enter an evaluation once for (run, step, set); return whether it is new."""
        with self._database.write() as connection:
            row = connection.execute(select(_RUNS).where(_RUNS.c.id == run_id)).mappings().first()
            if row is None:
                raise NotFoundError("There is no such run.", code="run_not_found", run_id=run_id)
            run = Run(**row)
            same = (_EVALUATIONS.c.run_id == run_id) & (_EVALUATIONS.c.run_step == run_step)
            query = select(_EVALUATIONS.c.id).where(same & (_EVALUATIONS.c.name == name))
            if connection.execute(query).first() is not None:
                return False
            values = {"id": new_id("eval"), "hero_id": run.hero_id, "run_id": run_id, "run_step": run_step}
            values |= {"step": run.hero_step_start + run_step, "name": name, "skill": skill, "level": level}
            values |= {"split": split, "correct": correct, "total": total, "details": details, "at": at}
            connection.execute(insert(_EVALUATIONS).values(**values))
            if name.count("/") > 2:  # a set for contrast: kept, but not news
                return True
            data = {
                key: values[key] for key in ("run_id", "step", "name", "skill", "level", "split", "correct", "total")
            }
            data |= {"evaluation_id": values["id"], "hero": run.hero_id}
            events.append(connection, "evaluation_recorded", str(values["id"]), data, at)
            return True

    def evaluations(
        self,
        *,
        hero_id: str | None = None,
        run_id: str | None = None,
        name: str | None = None,
        limit: int = 100,
        before_seq: int | None = None,
    ) -> Page:
        """Return evaluations, newest first."""
        query = select(_EVALUATIONS).order_by(_EVALUATIONS.c.seq.desc()).limit(limit + 1)
        for column, value in ((_EVALUATIONS.c.hero_id, hero_id), (_EVALUATIONS.c.run_id, run_id)):
            if value is not None:
                query = query.where(column == value)
        if name is not None:
            query = query.where(_EVALUATIONS.c.name == name)
        if before_seq is not None:
            query = query.where(_EVALUATIONS.c.seq < before_seq)
        with self._database.read() as connection:
            found = [Evaluation(**row) for row in connection.execute(query).mappings()]
        return Page(found[:limit], found[limit - 1].seq if len(found) > limit else None)

    def latest_evaluations(self, hero_id: str) -> Sequence[Evaluation]:
        """Return the newest result of each evaluation set, by skill, level and split."""
        with self._database.read() as connection:
            return _latest_evaluations(connection, hero_id)


def _stats(connection: Connection, hero_id: str) -> HeroStats:
    xp = _experience(connection, hero_id)
    newest = select(_RUNS.c.train_loss, _RUNS.c.val_loss).where(_RUNS.c.hero_id == hero_id).order_by(_RUNS.c.seq.desc())
    train_loss = connection.execute(newest.where(_RUNS.c.train_loss.is_not(None)).limit(1)).first()
    val_loss = connection.execute(newest.where(_RUNS.c.val_loss.is_not(None)).limit(1)).first()
    train = train_loss.train_loss if train_loss else None
    val = val_loss.val_loss if val_loss else None
    jobs = schema.jobs
    done = (
        select(func.count())
        .select_from(schema.completions.join(jobs, schema.completions.c.job_id == jobs.c.id))
        .where(jobs.c.hero_id == hero_id)
    )
    completed = int(connection.execute(done).scalar_one())
    held_out = [e for e in _latest_evaluations(connection, hero_id) if e.split == "heldout" and e.contrast is None]
    correct, total = sum(e.correct for e in held_out), sum(e.total for e in held_out)
    return HeroStats(
        xp=xp,
        level=xp // STEPS_PER_LEVEL,
        xp_into_level=xp % STEPS_PER_LEVEL,
        atk=1 / train if train else None,
        train_loss=train,
        defence=1 / val if val else None,
        val_loss=val,
        acc=correct / total if total else None,
        acc_correct=correct,
        acc_total=total,
        gold=completed * GOLD_PER_JOB,
        completed=completed,
    )


def _experience(connection: Connection, hero_id: str) -> int:
    total = select(func.coalesce(func.sum(_RUNS.c.step), 0)).where(_RUNS.c.hero_id == hero_id)
    return int(connection.execute(total).scalar_one())


def _enter_levels(connection: Connection, hero_id: str, run_id: str) -> None:
    table = schema.milestones
    level = _experience(connection, hero_id) // STEPS_PER_LEVEL
    mine = (table.c.hero_id == hero_id) & (table.c.kind == "level")
    reached = connection.execute(select(func.max(table.c.value)).where(mine)).scalar() or 0
    for value in range(int(reached) + 1, level + 1):
        connection.execute(insert(table).values(hero_id=hero_id, kind="level", value=value, at=time.time()))
        data = {"hero": hero_id, "level": value, "xp": value * STEPS_PER_LEVEL, "run_id": run_id}
        events.append(connection, "level_reached", hero_id, data)


def _checkpoint(connection: Connection, checkpoint_id: str) -> Checkpoint:
    row = connection.execute(select(_CHECKPOINTS).where(_CHECKPOINTS.c.id == checkpoint_id)).mappings().first()
    if row is None:
        words = "There is no such checkpoint."
        raise NotFoundError(words, code="checkpoint_not_found", checkpoint_id=checkpoint_id)
    return Checkpoint(**row)


def _best(connection: Connection, hero_id: str, metric: str) -> Checkpoint | None:
    columns = {"val_loss": _CHECKPOINTS.c.val_loss, "train_loss": _CHECKPOINTS.c.train_loss}
    if metric not in columns:
        raise NotFoundError(f"No metric {metric!r} to rank by.", hint=f"Known: {', '.join(columns)}.", metric=metric)
    column = columns[metric]
    query = (
        select(_CHECKPOINTS)
        .where(_CHECKPOINTS.c.hero_id == hero_id, _CHECKPOINTS.c.status == "verified", column.is_not(None))
        .order_by(column, _CHECKPOINTS.c.seq.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return Checkpoint(**row) if row else None


def _crown_best(connection: Connection, hero_id: str, lost: str | None = None) -> None:
    """Let the best checkpoint be champion, unless a person chose one that still stands."""
    hero = connection.execute(select(_HEROES).where(_HEROES.c.id == hero_id)).mappings().one()
    if hero["champion_by"] not in (None, "ledger") and hero["champion_id"] != lost:
        return
    best = _best(connection, hero_id, "val_loss")
    if best is not None and best.id != hero["champion_id"]:
        _crown(connection, best, "ledger")
    elif best is None and hero["champion_id"] == lost:
        same = _HEROES.c.id == hero_id
        connection.execute(update(_HEROES).where(same).values(champion_id=None, champion_by=None))


def _crown(connection: Connection, checkpoint: Checkpoint, by: str) -> None:
    hero = connection.execute(select(_HEROES).where(_HEROES.c.id == checkpoint.hero_id)).mappings().one()
    before = _checkpoint(connection, hero["champion_id"]) if hero["champion_id"] else None
    same = _HEROES.c.id == checkpoint.hero_id
    connection.execute(update(_HEROES).where(same).values(champion_id=checkpoint.id, champion_by=by))
    data: dict[str, Any] = {"hero": checkpoint.hero_id, "checkpoint_id": checkpoint.id, "step": checkpoint.step}
    data |= {"name": checkpoint.name, "val_loss": checkpoint.val_loss, "by": by, "run_id": checkpoint.run_id}
    data |= {"before": {"step": before.step, "val_loss": before.val_loss} if before else None}
    events.append(connection, "champion_changed", checkpoint.id, data)


def _latest_evaluations(connection: Connection, hero_id: str) -> list[Evaluation]:
    newest = select(func.max(_EVALUATIONS.c.seq)).where(_EVALUATIONS.c.hero_id == hero_id).group_by(_EVALUATIONS.c.name)
    query = select(_EVALUATIONS).where(_EVALUATIONS.c.seq.in_(newest))
    query = query.order_by(_EVALUATIONS.c.skill, _EVALUATIONS.c.level, _EVALUATIONS.c.split)
    return [Evaluation(**row) for row in connection.execute(query).mappings()]
