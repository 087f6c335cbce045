"""Metric points: (run, name, step) to value, in a database of their own.

They are a copy for charts: the truth is each run's `metrics.jsonl`. Writing is idempotent (the last value for a step
wins, which is what a resumed run that repeats steps means), so reading a file again from the start does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects import sqlite

from vault import schema
from vault.database import Database

_T = schema.point


@dataclass(frozen=True)
class SeriesPoint:
    """One step, or a bucket of steps: the last step, mean, least and greatest value."""

    step: int
    value: float
    low: float
    high: float


class MetricStore:
    """Points of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, run_id: str, points: Iterable[tuple[str, int, float]]) -> None:
        """Write (name, step, value) points in one commit; a later value for a step replaces an earlier one."""
        latest = {(name, step): value for name, step, value in points}
        rows = [{"run_id": run_id, "name": n, "step": s, "value": v} for (n, s), v in latest.items()]
        if not rows:
            return
        statement = _insert(is_sqlite=self._database.is_sqlite)
        keys = [_T.c.run_id, _T.c.name, _T.c.step]
        statement = statement.on_conflict_do_update(index_elements=keys, set_={"value": statement.excluded.value})
        with self._database.write() as connection:
            connection.execute(statement, rows)

    def names(self, run_id: str) -> list[str]:
        """Return the metrics that a run has."""
        with self._database.read() as connection:
            query = select(_T.c.name).where(_T.c.run_id == run_id).distinct().order_by(_T.c.name)
            return list(connection.execute(query).scalars())

    def series(
        self, run_id: str, name: str, *, after_step: int = -1, last_steps: int | None = None, max_points: int = 1500
    ) -> list[SeriesPoint]:
        """Return a metric over steps, thinned to `max_points` buckets that keep every extreme.

        `last_steps` limits it to the newest so many steps.
        """
        mine = (_T.c.run_id == run_id) & (_T.c.name == name)
        with self._database.read() as connection:
            if last_steps is not None:
                newest = connection.execute(select(func.max(_T.c.step)).where(mine)).scalar()
                after_step = max(after_step, int(newest or 0) - last_steps)
            mine = mine & (_T.c.step > after_step)
            count, first, last = connection.execute(
                select(func.count(), func.min(_T.c.step), func.max(_T.c.step)).where(mine)
            ).one()
            if not count:
                return []
            if count <= max_points:
                query = select(_T.c.step, _T.c.value).where(mine).order_by(_T.c.step)
                return [SeriesPoint(s, v, v, v) for s, v in connection.execute(query)]
            width = max(1, -(-(last - first + 1) // max_points))
            bucket = (_T.c.step - first) // width
            query = (
                select(func.max(_T.c.step), func.avg(_T.c.value), func.min(_T.c.value), func.max(_T.c.value))
                .where(mine)
                .group_by(bucket)
                .order_by(func.max(_T.c.step))
            )
            found: list[SeriesPoint] = []
            for row in connection.execute(query):
                found.append(SeriesPoint(int(row[0]), float(row[1]), float(row[2]), float(row[3])))
            return found

    def latest(self, run_id: str) -> dict[str, tuple[int, float]]:
        """Return each metric's newest (step, value)."""
        found: dict[str, tuple[int, float]] = {}
        with self._database.read() as connection:
            for name in connection.execute(select(_T.c.name).where(_T.c.run_id == run_id).distinct()).scalars():
                query = select(_T.c.step, _T.c.value).where(_T.c.run_id == run_id, _T.c.name == name)
                row = connection.execute(query.order_by(_T.c.step.desc()).limit(1)).one()
                found[name] = (int(row.step), float(row.value))
        return found


def _insert(*, is_sqlite: bool) -> Any:
    """An insert that knows ON CONFLICT. The PostgreSQL dialect is loaded only where it is used: it costs 50 ms."""
    if is_sqlite:
        return sqlite.insert(_T)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(_T)
