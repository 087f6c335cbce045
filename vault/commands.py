"""Commands: what people and programs want done to the battle or the queue, each applied once and answered.

A command is a row with an id. Whoever asks writes it (pending); the daemon passes it on (sent) and enters what came of
it (done, refused). Asking twice with one id is asking once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select, update

from realm.errors import ConfigError, NotFoundError
from realm.ids import new_id
from vault import events, schema
from vault.database import Database
from vault.records import Command

VERBS = ("pause", "resume", "stop", "skip", "save")
_T = schema.commands


class CommandStore:
    """All commands."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def request(
        self,
        verb: str,
        *,
        target: str | None = None,
        by: str = "a person",
        args: dict[str, Any] | None = None,
        command_id: str | None = None,
    ) -> Command:
        """Enter a command. Raises ConfigError for an unknown verb."""
        if verb not in VERBS:
            raise ConfigError(f"There is no command {verb!r}.", hint=f"Known: {', '.join(VERBS)}.", code="bad_verb")
        command_id = command_id or new_id("cmd")
        with self._database.write() as connection:
            present = connection.execute(select(_T).where(_T.c.id == command_id)).mappings().first()
            if present is not None:
                return Command(**present)
            values = {"id": command_id, "verb": verb, "target": target, "args": args or {}, "by": by}
            connection.execute(insert(_T).values(**values, state="pending", at=time.time()))
            return Command(**connection.execute(select(_T).where(_T.c.id == command_id)).mappings().one())

    def get(self, command_id: str) -> Command:
        """Return a command. Raises NotFoundError."""
        with self._database.read() as connection:
            row = connection.execute(select(_T).where(_T.c.id == command_id)).mappings().first()
        if row is None:
            raise NotFoundError("There is no such command.", code="command_not_found", command_id=command_id)
        return Command(**row)

    def open(self) -> Sequence[Command]:
        """Return the commands that are not settled, oldest first."""
        with self._database.read() as connection:
            query = select(_T).where(_T.c.state.in_(("pending", "sent"))).order_by(_T.c.seq)
            return [Command(**row) for row in connection.execute(query).mappings()]

    def sent(self, command_id: str) -> None:
        """Note that the trainer has been told."""
        with self._database.write() as connection:
            connection.execute(update(_T).where(_T.c.id == command_id, _T.c.state == "pending").values(state="sent"))

    def settle(self, command_id: str, state: str, effect: dict[str, Any]) -> None:
        """Enter what came of a command (`done` or `refused`), once."""
        now = time.time()
        with self._database.write() as connection:
            row = connection.execute(select(_T).where(_T.c.id == command_id)).mappings().first()
            if row is None or row["state"] in ("done", "refused"):
                return
            values = {"state": state, "effect": effect, "settled_at": now}
            connection.execute(update(_T).where(_T.c.id == command_id).values(**values))
            data = {"command_id": command_id, "verb": row["verb"], "by": row["by"], "state": state, "effect": effect}
            events.append(connection, "command_applied", command_id, data, now)
