"""A database: one engine, short transactions, durable commits.

SQLite is the embedded default: WAL, `synchronous=FULL`, `BEGIN IMMEDIATE` for every write, and a library that does not
have the WAL-reset corruption bug (fixed in 3.51.3), taken from `pysqlite3` where Python's own is older. One process,
the daemon, checkpoints the log; every other connection leaves it alone. PostgreSQL works by URL.

Invariant: a write that returned survives kill -9 and power cuts (tests/vault/test_database.py, test_durability.py).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from realm.errors import ConfigError, ConflictError, DiskFullError, RealmError

MINIMUM_SQLITE = (3, 51, 3)
_ONE_WRITER = text("SELECT pg_advisory_xact_lock(8240117)")
"""Writers of a PostgreSQL ledger take turns as SQLite's do, so that events become visible in the order of their numbers
and a claim sees every other one."""


class Database:
    """One database by URL. `durable=False` trades the last second on a power cut for speed (metric points)."""

    def __init__(self, url: str, *, durable: bool = True, checkpointer: bool = False) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._writers = threading.Lock()
        self.engine = _sqlite_engine(url, durable, checkpointer) if self.is_sqlite else _server_engine(url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading; sees one consistent state."""
        with _translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that takes the write lock at its start and commits durably at its end.

        Raises DiskFullError when there is no room; the transaction is then undone as a whole.
        """
        with _translated():
            if not self.is_sqlite:
                with self.engine.begin() as connection:
                    connection.execute(_ONE_WRITER)
                    yield connection
                return
            with (
                self._writers,
                self.engine.connect().execution_options(realm_write=True) as connection,
                connection.begin(),
            ):
                yield connection

    def watch(self) -> ChangeWatch:
        """Return a watch of its own for whoever wants to know, cheaply and often, whether anything was committed."""
        return ChangeWatch(self)

    def checkpoint_log(self) -> None:
        """Fold the write-ahead log back into the database file, as far as readers allow."""
        if self.is_sqlite:
            with self._writers, self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def copy_to(self, target: Path) -> None:
        """Write a copy of one consistent state (SQLite) while everybody goes on; `target` must not exist yet."""
        with _translated(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.connection.cursor().execute("VACUUM INTO ?", (str(target),))

    def check(self) -> list[str]:
        """Return what the database's own quick check finds wrong; empty when it is sound."""
        if not self.is_sqlite:
            with self.read() as connection:
                connection.execute(text("SELECT 1"))
            return []
        with self.read() as connection:
            rows = connection.exec_driver_sql("PRAGMA quick_check(20)").scalars().all()
        return [str(row) for row in rows if row != "ok"]

    def close(self) -> None:
        self.engine.dispose()


class ChangeWatch:
    """Tells whether anybody committed since it was last asked: one PRAGMA on a connection used for nothing else.

    Elsewhere than on SQLite it always says yes, and the asker reads. Not thread-safe: one asker.
    """

    def __init__(self, database: Database) -> None:
        self._connection = database.engine.raw_connection() if database.is_sqlite else None
        self._seen = -1

    def changed(self) -> bool:
        if self._connection is None:
            return True
        cursor = self._connection.cursor()
        version = int(cursor.execute("PRAGMA data_version").fetchone()[0])
        cursor.close()
        changed = version != self._seen
        self._seen = version
        return changed

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def sqlite_module() -> ModuleType:
    """Return a DB-API module over a SQLite that is new enough. Raises ConfigError."""
    import sqlite3

    if sqlite3.sqlite_version_info >= MINIMUM_SQLITE:
        return sqlite3
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        raise ConfigError(
            f"SQLite {sqlite3.sqlite_version} has a bug that can corrupt the ledger (fixed in 3.51.3).",
            hint="Install the pysqlite3 package or use a newer Python.",
            code="old_sqlite",
        ) from None
    if tuple(int(part) for part in dbapi2.sqlite_version.split(".")) < MINIMUM_SQLITE:
        raise ConfigError(f"pysqlite3 brings SQLite {dbapi2.sqlite_version}; 3.51.3 is needed.", code="old_sqlite")
    return dbapi2  # type: ignore[no-any-return]


def _sqlite_engine(url: str, durable: bool, checkpointer: bool) -> Engine:
    module = sqlite_module()
    path = make_url(url).database
    if path and path != ":memory:":
        _refuse_network(Path(path))
    engine = create_engine(url, module=module, connect_args={"timeout": 10.0, "check_same_thread": False})
    synchronous = "FULL" if durable else "NORMAL"

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, by hand
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=10000")
        _enter_wal(cursor)
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        cursor.execute("PRAGMA mmap_size=0")
        cursor.execute("PRAGMA trusted_schema=OFF")
        cursor.execute("PRAGMA cell_size_check=ON")
        cursor.execute(f"PRAGMA wal_autocheckpoint={1000 if checkpointer else 0}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("realm_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _enter_wal(cursor: Any) -> None:
    """Switch to the write-ahead log. Several processes may open a new file at once; SQLite does not wait for this."""
    for turn in range(200):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except Exception as error:
            if "locked" not in str(error) or turn == 199:
                raise
            time.sleep(0.02)


def _server_engine(url: str) -> Engine:
    return create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the driver's errors that a person can do something about into ours."""
    try:
        yield
    except DatabaseError as error:
        words = str(error.orig)
        if "disk is full" in words or "No space left" in words:
            hint = "Free some space; nothing that was acknowledged is lost."
            raise DiskFullError("The disk is full: the ledger could not be written.", hint=hint) from error
        if "locked" in words or "busy" in words:
            raise ConflictError("The ledger is busy.", hint="Try again.", code="ledger_busy") from error
        if "unable to open" in words or "readonly database" in words:
            hint = "Make the folder of the realm writable: its file system may be mounted read-only."
            raise RealmError(
                "The ledger's file cannot be opened for writing.", hint=hint, code="not_writable"
            ) from error
        if "malformed" in words or "not a database" in words:
            hint = "Stop the realm and restore the newest file of backups/, or run `realm doctor`."
            raise RealmError("The ledger's file is damaged.", hint=hint, code="ledger_damaged") from error
        raise


def _refuse_network(path: Path) -> None:
    """Raise ConfigError when the database would lie on a network file system, where its locks cannot be trusted."""
    folder = path.parent
    if not hasattr(os, "statvfs") or not folder.exists():
        return
    kind = _file_system_of(folder)
    if kind in {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p"}:
        raise ConfigError(
            f"{path} lies on a network file system ({kind}).",
            hint="Keep REALM_HOME on a local disk; models and backups may lie elsewhere.",
            code="network_home",
        )


def _file_system_of(folder: Path) -> str:
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    where = str(folder.resolve())
    for line in mounts:
        fields = line.split()
        point = fields[1].replace("\\040", " ")
        if (where == point or where.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
