"""The database: a library without the WAL bug, durable settings, a schema with a history, damage said plainly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import vault.migrations
from realm.errors import ConfigError, RealmError
from vault import migrate, schema
from vault.database import MINIMUM_SQLITE, Database, sqlite_module
from vault.store import Vault


def test_the_sqlite_library_has_no_wal_reset_bug() -> None:
    version = tuple(int(part) for part in sqlite_module().sqlite_version.split("."))
    assert version >= MINIMUM_SQLITE


def test_every_connection_is_durable_and_leaves_the_log_to_the_daemon(vault: Vault) -> None:
    if not vault.database.is_sqlite:
        pytest.skip("PRAGMAs are SQLite's")
    with vault.database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "wal_autocheckpoint": 0}


def test_migrations_lead_to_exactly_the_declared_schema(vault: Vault) -> None:
    with vault.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _of_the_ledger})
        assert compare_metadata(context, schema.ledger) == []
    config = Config()
    config.set_main_option("script_location", str(Path(vault_migrations_folder())))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD


def _of_the_ledger(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or name != schema.point.name


def vault_migrations_folder() -> Path:
    return Path(vault.migrations.__file__).parent


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Vault.in_files(tmp_path / "v.db", tmp_path / "m.db").close()
    database = Database(f"sqlite:///{tmp_path}/v.db")
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(ConfigError, match="newer version"):
        Vault.in_files(tmp_path / "v.db", tmp_path / "m.db")
    assert list((tmp_path / "backups").iterdir())


def test_opening_twice_at_once_is_harmless(tmp_path: Path) -> None:
    files = f"Path('{tmp_path}/v.db'), Path('{tmp_path}/m.db')"
    code = f"from vault.store import Vault; from pathlib import Path; Vault.in_files({files})"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [child.wait(timeout=60) for child in children] == [0] * 4


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "v.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(RealmError, match=r"damaged|not a database"):
        Vault.in_files(tmp_path / "v.db", tmp_path / "m.db")


def test_a_ledger_that_cannot_be_opened_for_writing_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "v.db").mkdir()
    with pytest.raises(RealmError, match="cannot be opened for writing") as caught:
        Vault.in_files(tmp_path / "v.db", tmp_path / "m.db")
    assert caught.value.code == "not_writable"


def test_what_was_acknowledged_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from vault.store import Vault
        from vault.records import NewJob
        vault = Vault.in_files(Path("{tmp_path}/v.db"), Path("{tmp_path}/m.db"))
        vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="m", model_dir="m", config={{}})
        number = len(vault.jobs.waiting())
        while True:
            vault.jobs.submit(NewJob("dio", "sft", f"n{{number}}", f"k{{number}}"))
            print(number, flush=True)
            number += 1
        """
    )
    acknowledged = -1
    for kill in range(6):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                acknowledged = int(line)
                if acknowledged % (7 + kill) == 6:
                    break
            os.kill(child.pid, signal.SIGKILL)
            rest = child.stdout.read().split()
            acknowledged = max([acknowledged, *(int(word) for word in rest if word.isdigit())])
    vault = Vault.in_files(tmp_path / "v.db", tmp_path / "m.db")
    names = [job.name for job in vault.jobs.waiting()]
    vault.close()
    assert names[: acknowledged + 1] == [f"n{number}" for number in range(acknowledged + 1)]
    assert len(names) - (acknowledged + 1) in (0, 1)
