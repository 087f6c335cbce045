"""Bringing a database to the present schema.

The ledger's history is a chain of Alembic revisions; a database at the newest one is recognised without loading
Alembic, so that commands start fast. SQLite is copied with VACUUM INTO before an upgrade, and the upgrade is one
transaction. A database newer than this program is refused. Metric points, a rebuildable copy, have no history.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from realm.errors import ConfigError
from vault import schema
from vault.database import Database

HEAD = "0001"
"""The newest revision in `migrations/versions` (a test compares)."""


def upgrade(ledger: Database, metrics: Database) -> None:
    """Create or upgrade both databases; safe to repeat and to run from several processes. Raises ConfigError."""
    if _revision(ledger) != HEAD:
        _upgrade_ledger(ledger)
    with metrics.read() as connection:
        present = inspect(connection).has_table(schema.point.name)
    if not present:
        with metrics.write() as connection:
            schema.points.create_all(connection, checkfirst=True)


def _upgrade_ledger(database: Database) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    _back_up(database)
    with database.write() as connection:
        current = _revision_of(connection)
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current is not None and current not in known:
            raise ConfigError(
                f"The ledger was written by a newer version (schema {current}).",
                hint="Update the program, or restore an older backup.",
                code="newer_ledger",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _back_up(database: Database) -> None:
    if not database.is_sqlite or _revision(database) in (None, HEAD) or not database.url.database:
        return
    source = Path(database.url.database)
    folder = source.parent / "backups"
    folder.mkdir(exist_ok=True)
    target = folder / f"{source.stem}-before-{HEAD}-{int(time.time())}-{secrets.token_hex(3)}.db"
    database.copy_to(target)


def _revision(database: Database) -> str | None:
    with database.read() as connection:
        return _revision_of(connection)


def _revision_of(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
