"""The queue of jobs: submit, claim, finish, and every other change of a job's state.

One commit point per transition, named here: `submit` (the acknowledgement to whoever dropped the file), `claim`,
`finish`, `give_back`, `give_up`. A claim carries a fence, a number that only grows; whoever comes with an older one is
refused, so that two workers can never both finish a job. A completion is a unique row: finishing twice is one effect.

Order: high before normal before low, then by position, then oldest first. A hero works on one job at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from realm.errors import ConflictError, NotFoundError
from realm.ids import new_id
from vault import events, schema
from vault.database import Database
from vault.records import PRIORITIES, PRIORITY_RANK, Claim, Job, NewJob, Page, Priority, Run

HOLD = "queue_hold"
MAX_WAIT_S = 3600.0
"""Longest wait before another attempt."""
FINAL_STATES = ("completed", "failed", "refused", "skipped", "cancelled")
_T = schema.jobs


class JobStore:
    """All jobs. Every method that changes something writes its event in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Arrival

    def submit(self, new: NewJob, *, state: str = "queued", reason: dict[str, Any] | None = None) -> tuple[Job, bool]:
        """Enter a job and return it with whether it is new; the same `idem_key` returns the job that is there.

        `state="refused"` enters a job that the gatekeepers turned down, with its report, so that people can see it.
        """
        now = time.time()
        with self._database.write() as connection:
            present = _find(connection, _T.c.idem_key == new.idem_key)
            if present is not None:
                return present, False
            job_id = new_id("job")
            values = _values(new, job_id, state, reason, now)
            try:
                connection.execute(insert(_T).values(**values))
            except IntegrityError as error:  # another process was faster (PostgreSQL)
                raise ConflictError("This job was just entered by somebody else.", hint="Try again.") from error
            seq = connection.execute(select(_T.c.seq).where(_T.c.id == job_id)).scalar_one()
            connection.execute(update(_T).where(_T.c.id == job_id).values(position=float(seq)))
            data = {"job_id": job_id, "name": new.name, "priority": new.priority, "rows": new.rows, "hero": new.hero_id}
            data |= {"skill": new.skill, "level": new.level, "source": new.source}
            if state == "refused":
                events.append(connection, "job_refused", job_id, data | {"reason": reason}, now)
            else:
                events.append(connection, "job_queued", job_id, data, now)
            return _get(connection, job_id), True

    def find(self, idem_key: str) -> Job | None:
        """Return the job with this idempotency key."""
        with self._database.read() as connection:
            return _find(connection, _T.c.idem_key == idem_key)

    # Looking

    def get(self, job_id: str) -> Job:
        """Return a job. Raises NotFoundError."""
        with self._database.read() as connection:
            return _get(connection, job_id)

    def list(self, states: Sequence[str] | None = None, *, limit: int = 100, before_seq: int | None = None) -> Page:
        """Return jobs, newest first; for the queue in its order use `waiting`."""
        query = select(_T).order_by(_T.c.seq.desc()).limit(limit + 1)
        if states:
            query = query.where(_T.c.state.in_(states))
        if before_seq is not None:
            query = query.where(_T.c.seq < before_seq)
        with self._database.read() as connection:
            jobs = [_job(row) for row in connection.execute(query).mappings()]
        return Page(jobs[:limit], jobs[limit - 1].seq if len(jobs) > limit else None)

    def waiting(self, limit: int = 1000) -> Sequence[Job]:
        """Return the queued jobs in the order in which they will be taken."""
        query = select(_T).where(_T.c.state == "queued").order_by(*_ORDER).limit(limit)
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def processing(self) -> Sequence[Job]:
        """Return the jobs that are being worked on."""
        with self._database.read() as connection:
            query = select(_T).where(_T.c.state == "processing").order_by(_T.c.seq)
            return [_job(row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        query = select(_T.c.state, func.count()).group_by(_T.c.state)
        with self._database.read() as connection:
            return {state: int(number) for state, number in connection.execute(query)}

    # The hold: a queue that a person has stopped says who and when

    def hold(self, by: str, reason: str) -> None:
        """Take no further job until `unhold`."""
        value = {"by": by, "at": time.time(), "reason": reason}
        with self._database.write() as connection:
            if _flag(connection, HOLD) is None:
                connection.execute(insert(schema.flags).values(name=HOLD, value=value))
                events.append(connection, "queue_held", "queue", value)

    def unhold(self, by: str) -> bool:
        """Take jobs again; return whether the queue was held."""
        with self._database.write() as connection:
            if _flag(connection, HOLD) is None:
                return False
            connection.execute(schema.flags.delete().where(schema.flags.c.name == HOLD))
            events.append(connection, "queue_released", "queue", {"by": by})
            return True

    def held(self) -> dict[str, Any] | None:
        """Return who holds the queue since when and why, or None."""
        with self._database.read() as connection:
            return _flag(connection, HOLD)

    # Execution

    def claim(self, owner: str, now: float, lease_s: float) -> Claim | None:
        """Take the next job: state, run and fence in one commit. None when there is nothing to do now.

        The job resumes its run while the hero's newest checkpoint is still this run's; once the hero has moved on
        by another job, it starts anew on the hero's present weights.
        """
        with self._database.write() as connection:
            if _flag(connection, HOLD) is not None:
                return None
            job = _next(connection, now)
            if job is None:
                return None
            fence = _count(connection, "fence")
            run, resumed = _run_for(connection, job, now)
            attempt = job.attempts + 1 if resumed else 1
            values: dict[str, Any] = {"state": "processing", "run_id": run.id, "fence": fence, "reason": None}
            values |= {"attempts": attempt, "lease_owner": owner, "lease_until": now + lease_s}
            values |= {} if resumed else {"fruitless": 0}
            values |= {"started_at": now} if job.started_at is None else {}
            connection.execute(update(_T).where(_T.c.id == job.id).values(**values))
            connection.execute(
                update(schema.runs)
                .where(schema.runs.c.id == run.id)
                .values(phase="preparing", outcome=None, error=None, finished_at=None)
            )
            connection.execute(
                insert(schema.attempts).values(
                    run_id=run.id, attempt=attempt, fence=fence, first_step=run.step, started_at=now
                )
            )
            data = {"job_id": job.id, "run_id": run.id, "name": job.name, "hero": job.hero_id, "attempt": attempt}
            data |= {"step": run.hero_step_start + run.step, "skill": job.skill, "level": job.level}
            events.append(connection, "job_resumed" if resumed else "job_started", job.id, data, now)
            return Claim(_get(connection, job.id), run, attempt, fence, resumed)

    def renew(self, job_id: str, fence: int, until: float) -> None:
        """Prolong a claim. Raises ConflictError (`lease_lost`) when another one has been given since."""
        with self._database.write() as connection:
            _fenced(connection, job_id, fence)
            connection.execute(update(_T).where(_T.c.id == job_id).values(lease_until=until))

    def finish(self, job_id: str, fence: int, *, manifest_sha256: str, data_hash: str | None, at: float) -> bool:
        """Complete a job by a verified checkpoint, exactly once; return whether this call did it.

        Raises ConflictError (`lease_lost`) for an old fence.
        """
        with self._database.write() as connection:
            done = select(schema.completions.c.job_id).where(schema.completions.c.job_id == job_id)
            if connection.execute(done).first() is not None:
                return False
            job = _fenced(connection, job_id, fence)
            row = {"job_id": job_id, "run_id": job.run_id, "fence": fence, "at": at}
            row |= {"manifest_sha256": manifest_sha256, "data_hash": data_hash}
            connection.execute(insert(schema.completions).values(**row))
            self._end(connection, job, "completed", at)
            events.append(connection, "job_completed", job_id, self._story(connection, job), at)
            return True

    def skip(self, job_id: str, fence: int, at: float) -> None:
        """End a job that a person told to skip; its checkpoints stay."""
        with self._database.write() as connection:
            job = _fenced(connection, job_id, fence)
            self._end(connection, job, "skipped", at)
            events.append(connection, "job_skipped", job_id, self._story(connection, job), at)

    def give_back(
        self,
        job_id: str,
        fence: int,
        at: float,
        *,
        delay_s: float,
        reason: dict[str, Any],
        count: bool,
        max_attempts: int,
    ) -> str:
        """Return a job to its place in the queue after an attempt that did not end it; return its new state.

        With `count`, an attempt that got no further than the last one counts, and past `max_attempts` of these in a
        row the job fails with `reason`. An attempt that got further goes on at once; after one that did not, the job
        waits `delay_s`, four times longer after each further one.
        """
        with self._database.write() as connection:
            job = _fenced(connection, job_id, fence)
            fruitless = job.fruitless
            if count:
                fruitless = 0 if _advanced(connection, job) else job.fruitless + 1
            if fruitless >= max_attempts:
                self._end(connection, job, "failed", at, reason=reason, fruitless=fruitless)
                events.append(connection, "job_failed", job_id, self._story(connection, job) | {"reason": reason}, at)
                return "failed"
            wait = min(delay_s * 4.0 ** min(fruitless - 1, 20), MAX_WAIT_S) if count and fruitless else 0.0
            values: dict[str, Any] = {"state": "queued", "lease_owner": None, "lease_until": None, "reason": reason}
            values |= {"fruitless": fruitless, "not_before": at + wait}
            connection.execute(update(_T).where(_T.c.id == job_id).values(**values))
            self._end_attempt(connection, job, reason.get("code", "given_back"), at, reason)
            story = self._story(connection, job) | {"reason": reason, "retry_in_s": wait, "attempt": job.attempts}
            events.append(connection, "job_requeued", job_id, story, at)
            return "queued"

    def give_up(self, job_id: str, fence: int, at: float, reason: dict[str, Any]) -> None:
        """Fail a job at once: trying again could not help."""
        with self._database.write() as connection:
            job = _fenced(connection, job_id, fence)
            self._end(connection, job, "failed", at, reason=reason)
            events.append(connection, "job_failed", job_id, self._story(connection, job) | {"reason": reason}, at)

    # What people do to a job

    def move(self, job_id: str, *, priority: Priority | None = None, before: str | None = None, by: str = "") -> Job:
        """Change a waiting job's priority, or put it directly before another one (taking that one's priority).

        Without `before`, it goes to the end of its priority. Raises NotFoundError, ConflictError.
        """
        with self._database.write() as connection:
            job = _get(connection, job_id)
            if job.state != "queued":
                raise ConflictError(f"{job.name} is {job.state}, not waiting.", code="not_waiting", state=job.state)
            if before is not None and before != job_id:
                target = _get(connection, before)
                if target.state != "queued":
                    raise ConflictError(f"{target.name} is {target.state}, not waiting.", code="not_waiting")
                rank, position = PRIORITY_RANK[target.priority], _position_before(connection, target, job_id)
            else:
                rank = PRIORITY_RANK[priority or job.priority]
                last = select(func.max(_T.c.position)).where(_T.c.state == "queued", _T.c.priority == rank)
                position = float(connection.execute(last).scalar() or 0.0) + 1.0
                position = max(position, float(job.seq))
            connection.execute(update(_T).where(_T.c.id == job_id).values(priority=rank, position=position))
            data = {"job_id": job_id, "name": job.name, "priority": PRIORITIES[rank], "by": by, "from": job.priority}
            events.append(connection, "job_moved", job_id, data)
            return _get(connection, job_id)

    def cancel(self, job_id: str, by: str) -> Job:
        """Take a waiting job out of the queue; `retry` brings it back. Raises NotFoundError, ConflictError."""
        with self._database.write() as connection:
            job = _get(connection, job_id)
            if job.state != "queued":
                hint = "Use skip or stop for the one that is being trained." if job.state == "processing" else ""
                raise ConflictError(f"{job.name} is {job.state}, not waiting.", code="not_waiting", hint=hint)
            reason = {"code": "cancelled", "message": f"Taken out of the queue by {by or 'a person'}."}
            now = time.time()
            values = {"state": "cancelled", "finished_at": now, "reason": reason}
            connection.execute(update(_T).where(_T.c.id == job_id).values(**values))
            events.append(connection, "job_cancelled", job_id, {"job_id": job_id, "name": job.name, "by": by}, now)
            return _get(connection, job_id)

    def retry(self, job_id: str, by: str) -> Job:
        """Put a failed, skipped or cancelled job back into the queue. Raises NotFoundError, ConflictError."""
        with self._database.write() as connection:
            job = _get(connection, job_id)
            if job.state not in ("failed", "skipped", "cancelled"):
                words = "its file was refused: mend it and drop it again" if job.state == "refused" else job.state
                raise ConflictError(f"{job.name} cannot be tried again: {words}.", code="not_retryable")
            values = {"state": "queued", "fruitless": 0, "not_before": 0.0, "finished_at": None, "reason": None}
            connection.execute(update(_T).where(_T.c.id == job_id).values(**values))
            data = {"job_id": job_id, "name": job.name, "by": by, "priority": job.priority, "again": True}
            events.append(connection, "job_queued", job_id, data)
            return _get(connection, job_id)

    # Inside a transaction

    def _end(
        self,
        connection: Connection,
        job: Job,
        state: str,
        at: float,
        *,
        reason: dict[str, Any] | None = None,
        fruitless: int | None = None,
    ) -> None:
        values: dict[str, Any] = {"state": state, "finished_at": at, "reason": reason}
        values |= {"lease_owner": None, "lease_until": None}
        values |= {} if fruitless is None else {"fruitless": fruitless}
        connection.execute(update(_T).where(_T.c.id == job.id).values(**values))
        run_values = {"phase": "done", "outcome": state, "error": reason, "finished_at": at}
        connection.execute(update(schema.runs).where(schema.runs.c.id == job.run_id).values(**run_values))
        self._end_attempt(connection, job, state, at, reason)

    def _end_attempt(
        self, connection: Connection, job: Job, outcome: str, at: float, error: dict[str, Any] | None
    ) -> None:
        table = schema.attempts
        same = and_(table.c.run_id == job.run_id, table.c.attempt == job.attempts)
        connection.execute(update(table).where(same).values(ended_at=at, outcome=outcome, error=error))

    def _story(self, connection: Connection, job: Job) -> dict[str, Any]:
        run = connection.execute(select(schema.runs).where(schema.runs.c.id == job.run_id)).mappings().first()
        story: dict[str, Any] = {"job_id": job.id, "run_id": job.run_id, "name": job.name, "hero": job.hero_id}
        story |= {"skill": job.skill, "level": job.level}
        if run is not None:
            story |= {"run_step": run["step"], "step": run["hero_step_start"] + run["step"]}
            story |= {"train_loss": run["train_loss"], "val_loss": run["val_loss"]}
        return story


_ORDER = (_T.c.priority, _T.c.position, _T.c.seq)


def _values(new: NewJob, job_id: str, state: str, reason: dict[str, Any] | None, now: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "idem_key": new.idem_key,
        "hero_id": new.hero_id,
        "trainer": new.trainer,
        "name": new.name,
        "priority": PRIORITY_RANK[new.priority],
        "position": 0.0,
        "state": state,
        "source": new.source,
        "data": new.data,
        "config": new.config,
        "report": new.report,
        "skill": new.skill,
        "level": new.level,
        "rows": new.rows,
        "planned_steps": new.planned_steps,
        "attempts": 0,
        "fruitless": 0,
        "fence": 0,
        "not_before": 0.0,
        "reason": reason,
        "created_at": now,
        "finished_at": now if state in FINAL_STATES else None,
    }


def _next(connection: Connection, now: float) -> Job | None:
    """The first waiting job whose hero is free. A hero whose first job waits for its retry waits with it.

    A wait longer than any that is given was entered before the clock was set back: it is over.
    """
    busy = select(_T.c.hero_id).where(_T.c.state == "processing")
    query = select(_T).where(_T.c.state == "queued", _T.c.hero_id.not_in(busy)).order_by(*_ORDER)
    waiting_heroes: set[str] = set()
    for row in connection.execute(query.limit(200)).mappings():
        job = _job(row)
        if job.hero_id in waiting_heroes:
            continue
        if 0 < job.not_before - now <= MAX_WAIT_S:
            waiting_heroes.add(job.hero_id)
            continue
        locked = select(_T.c.id).where(_T.c.id == job.id, _T.c.state == "queued").with_for_update(skip_locked=True)
        if connection.execute(locked).first() is not None:
            return job
    return None


def _run_for(connection: Connection, job: Job, now: float) -> tuple[Run, bool]:
    """The run that this claim carries on, or a new one on the hero's newest checkpoint."""
    checkpoints, runs = schema.checkpoints, schema.runs
    newest = connection.execute(
        select(checkpoints.c.id, checkpoints.c.run_id, checkpoints.c.step)
        .where(checkpoints.c.hero_id == job.hero_id, checkpoints.c.status == "verified")
        .order_by(checkpoints.c.seq.desc())
        .limit(1)
    ).first()
    if job.run_id is not None:
        row = connection.execute(select(runs).where(runs.c.id == job.run_id)).mappings().first()
        if row is not None:
            run = Run(**row)
            unmoved = run.parent_checkpoint_id == (newest.id if newest else None)
            if unmoved or (newest is not None and newest.run_id == run.id):
                return run, True
    values: dict[str, Any] = {"id": new_id("run"), "job_id": job.id, "hero_id": job.hero_id, "trainer": job.trainer}
    values |= {"phase": "preparing", "hero_step_start": newest.step if newest else 0, "step": 0, "tokens": 0}
    values |= {"parent_checkpoint_id": newest.id if newest else None, "train_seconds": 0.0, "config": job.config}
    values |= {"records_offset": 0, "records_seq": 0, "created_at": now, "started_at": now}
    connection.execute(insert(runs).values(**values))
    row = connection.execute(select(runs).where(runs.c.id == values["id"])).mappings().one()
    return Run(**row), False


def _advanced(connection: Connection, job: Job) -> bool:
    """Whether the current attempt got further than where it began."""
    table = schema.attempts
    first = connection.execute(
        select(table.c.first_step).where(table.c.run_id == job.run_id, table.c.attempt == job.attempts)
    ).scalar()
    step = connection.execute(select(schema.runs.c.step).where(schema.runs.c.id == job.run_id)).scalar()
    return step is not None and first is not None and step > first


def _position_before(connection: Connection, target: Job, moving: str) -> float:
    rank = PRIORITY_RANK[target.priority]
    earlier = or_(_T.c.position < target.position, and_(_T.c.position == target.position, _T.c.seq < target.seq))
    query = select(func.max(_T.c.position)).where(
        _T.c.state == "queued", _T.c.priority == rank, _T.c.id != moving, earlier
    )
    previous = connection.execute(query).scalar()
    low = float(previous) if previous is not None else target.position - 2.0
    middle = (low + target.position) / 2
    if low < middle < target.position:
        return middle
    waiting = select(_T.c.id).where(_T.c.state == "queued", _T.c.priority == rank).order_by(*_ORDER)
    for number, row in enumerate(connection.execute(waiting).all()):  # no room left between two: number anew
        connection.execute(update(_T).where(_T.c.id == row.id).values(position=float(number * 1024)))
    return _position_before(connection, _get(connection, target.id), moving)


def _fenced(connection: Connection, job_id: str, fence: int) -> Job:
    job = _get(connection, job_id)
    if job.state != "processing" or job.fence != fence:
        raise ConflictError(f"{job.name} has been given to another attempt.", code="lease_lost", job_id=job_id)
    return job


def _count(connection: Connection, name: str) -> int:
    """Return the next number of a counter; never the same one twice."""
    table = schema.counters
    row = connection.execute(select(table.c.value).where(table.c.name == name).with_for_update()).first()
    value = (row.value if row else 0) + 1
    if row is None:
        connection.execute(insert(table).values(name=name, value=value))
    else:
        connection.execute(update(table).where(table.c.name == name).values(value=value))
    return int(value)


def _flag(connection: Connection, name: str) -> dict[str, Any] | None:
    query = select(schema.flags.c.value).where(schema.flags.c.name == name)
    return connection.execute(query).scalar()


def _find(connection: Connection, condition: Any) -> Job | None:
    row = connection.execute(select(_T).where(condition)).mappings().first()
    return None if row is None else _job(row)


def _get(connection: Connection, job_id: str) -> Job:
    job = _find(connection, _T.c.id == job_id)
    if job is None:
        raise NotFoundError("There is no such quest.", code="job_not_found", job_id=job_id)
    return job


def _job(row: RowMapping) -> Job:
    return Job(**{**row, "priority": PRIORITIES[row["priority"]]})
