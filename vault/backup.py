"""Copies of the ledger: online, consistent, checked, thinned.

`VACUUM INTO` writes a copy of one consistent state while everybody goes on working. A copy gets its final name only
after it was synced and its own quick check found nothing wrong. The newest of each of the last 24 hours and of each of
the last seven days are kept. PostgreSQL has better tools of its own (`pg_dump`); there this does nothing.

To restore: stop the realm, put a copy in the place of `vault.db` and remove `vault.db-wal` and `vault.db-shm`. Runs and
checkpoints that are younger than the copy are entered again from their folders when their run is taken up.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from realm.errors import CorruptFileError
from realm.files import fsync_dir, fsync_file, rename_noreplace
from vault.database import Database

KEEP_HOURS, KEEP_DAYS = 24, 7
_NAME = re.compile(r"ledger-(\d{8})-(\d{6})\.db")


def back_up(database: Database, folder: Path, now: float) -> Path | None:
    """Write a checked copy of the ledger into `folder` and return it; None where the database keeps its own.

    Raises OSError, DiskFullError, CorruptFileError; nothing is left behind then.
    """
    if not database.is_sqlite or not database.url.database:
        return None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / f"ledger-{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}.db"
    if target.exists():
        return target
    part = folder / f".{target.name}.part"
    part.unlink(missing_ok=True)
    try:
        database.copy_to(part)
        copy = Database(f"sqlite:///{part}")
        try:
            wrong = copy.check()
        finally:
            copy.close()
        if wrong:
            raise CorruptFileError(f"The copy of the ledger is not sound: {wrong[0]}.", code="ledger_damaged")
        for extra in ("-wal", "-shm"):
            part.with_name(part.name + extra).unlink(missing_ok=True)
        os.chmod(part, 0o600)
        fsync_file(part)
        rename_noreplace(part, target)
    finally:
        for leftover in folder.glob(f"{part.name}*"):
            leftover.unlink(missing_ok=True)
    fsync_dir(folder)
    return target


def newest_at(folder: Path) -> float:
    """Return the time of the newest copy, 0.0 for none."""
    return max((_time(path) for path in _copies(folder)), default=0.0)


def thin_out(folder: Path, now: float) -> list[Path]:
    """Delete the copies that are not the newest of their hour or day any more; return what was deleted."""
    kept: set[Path] = set()
    for span, number in ((3600, KEEP_HOURS), (86400, KEEP_DAYS)):
        newest_of: dict[int, Path] = {}
        for path in sorted(_copies(folder), key=_time):
            if now - _time(path) < span * number:
                newest_of[int(_time(path) // span)] = path
        kept |= set(newest_of.values())
    copies = sorted(_copies(folder), key=_time)
    kept |= set(copies[-1:])
    gone = [path for path in copies if path not in kept]
    for path in gone:
        path.unlink()
    return gone


def _copies(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []


def _time(path: Path) -> float:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return datetime.strptime(match[1] + match[2], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
