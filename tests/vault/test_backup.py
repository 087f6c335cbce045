"""Copies of the ledger: taken while it is written to, sound, restorable, and thinned."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from realm.errors import RealmError
from realm.paths import RealmPaths
from tests.conftest import new_job
from vault import backup
from vault.database import Database
from vault.store import Vault

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC).timestamp()


def test_a_copy_taken_while_others_write_restores_to_one_consistent_state(paths: RealmPaths, tmp_path: Path) -> None:
    vault = Vault.in_files(paths.vault_db, paths.metrics_db)
    vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="m", model_dir="m", config={})
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            vault.jobs.submit(new_job(f"{number}"))
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    while len(vault.jobs.waiting()) < 10:
        pass
    copy = backup.back_up(vault.database, paths.backups, NOW)
    stop.set()
    writer.join()
    vault.close()
    assert copy is not None and [path.name for path in paths.backups.iterdir()] == ["ledger-20261120-120000.db"]
    restored = Vault.in_files(copy, tmp_path / "m.db")
    names = [job.name for job in restored.jobs.waiting()]
    assert len(names) >= 10 and names == [str(number) for number in range(len(names))]
    assert len(restored.events.list(kinds=["job_queued"], limit=10_000)) == len(names)
    restored.close()


def test_hours_and_days_are_kept_and_the_newest_always(tmp_path: Path) -> None:
    for minutes in range(0, 10 * 24 * 60, 30):
        at = datetime.fromtimestamp(NOW - minutes * 60, UTC)
        (tmp_path / f"ledger-{at:%Y%m%d-%H%M%S}.db").touch()
    (tmp_path / "vault-before-0001-1.db").touch()
    backup.thin_out(tmp_path, NOW)
    left = sorted(path.name for path in tmp_path.glob("ledger-*"))
    assert 24 <= len(left) <= 24 + 8 and left[-1] == "ledger-20261120-120000.db"
    assert (tmp_path / "vault-before-0001-1.db").exists()
    assert backup.newest_at(tmp_path) == NOW
    assert backup.thin_out(tmp_path, NOW + 10**8) and len(list(tmp_path.glob("ledger-*"))) == 1


def test_a_damaged_ledger_gives_no_copy_that_looks_whole(paths: RealmPaths) -> None:
    vault = Vault.in_files(paths.vault_db, paths.metrics_db)
    vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="m", model_dir="m", config={})
    for number in range(300):
        vault.jobs.submit(new_job(f"{number}"))
    vault.database.checkpoint_log()
    vault.close()
    data = bytearray(paths.vault_db.read_bytes())
    for offset in range(8 * 4096, len(data) - 4096, 4096):
        data[offset : offset + 64] = b"\xff" * 64
    paths.vault_db.write_bytes(data)
    for extra in ("-wal", "-shm"):
        paths.vault_db.with_name(paths.vault_db.name + extra).unlink(missing_ok=True)
    database = Database(f"sqlite:///{paths.vault_db}")
    with pytest.raises(RealmError) as caught:
        backup.back_up(database, paths.backups, NOW)
    database.close()
    assert caught.value.code == "ledger_damaged"
    assert list(paths.backups.iterdir()) == []
