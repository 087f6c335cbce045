"""The event log: append-only, in the same transaction as the change that it tells of.

`seq` grows by one per event in commit order, so a reader that remembers the last one it saw misses none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from vault import schema
from vault.database import Database
from vault.records import Event


def append(connection: Connection, kind: str, subject: str, data: dict[str, Any], at: float | None = None) -> None:
    """Write an event inside the caller's transaction."""
    values = {"at": time.time() if at is None else at, "kind": kind, "subject": subject, "data": data}
    connection.execute(schema.events.insert().values(**values))


class EventLog:
    """Reads the log; writes go through the stores, each with its own change."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        """Write an event that stands alone (a service came up, a file was quarantined)."""
        with self._database.write() as connection:
            append(connection, kind, subject, data)

    def list(
        self,
        after: int = 0,
        *,
        before: int | None = None,
        kinds: Iterable[str] | None = None,
        subject: str | None = None,
        limit: int = 200,
        newest_first: bool = False,
    ) -> Sequence[Event]:
        """Return events with after < seq < before, oldest first unless `newest_first`."""
        table = schema.events
        query = select(table).where(table.c.seq > after)
        if before is not None:
            query = query.where(table.c.seq < before)
        if kinds is not None:
            query = query.where(table.c.kind.in_(list(kinds)))
        if subject is not None:
            query = query.where(table.c.subject == subject)
        query = query.order_by(table.c.seq.desc() if newest_first else table.c.seq).limit(limit)
        with self._database.read() as connection:
            return [Event(**row._mapping) for row in connection.execute(query)]

    def latest_seq(self) -> int:
        """Return the number of the newest event, 0 for none."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.max(schema.events.c.seq))).scalar() or 0)
