"""The storage tests run on SQLite and, where a server is named, on PostgreSQL: the same tests, another URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, make_url

from realm.paths import RealmPaths
from vault.store import Vault

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def vault(request: pytest.FixtureRequest, paths: RealmPaths) -> Iterator[Vault]:
    """An empty vault with one hero, on each kind of database."""
    if request.param == "sqlite":
        yield from _with_hero(Vault.in_files(paths.vault_db, paths.metrics_db))
        return
    if not POSTGRES_URL:
        pytest.skip("TEST_POSTGRES_URL names no server (scripts/test_postgres.sh starts one)")
    name = f"realm_{uuid.uuid4().hex[:12]}"
    admin = create_engine(POSTGRES_URL, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    url = make_url(POSTGRES_URL).set(database=name).render_as_string(hide_password=False)
    yield from _with_hero(Vault(url, url))
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    admin.dispose()


def _with_hero(vault: Vault) -> Iterator[Vault]:
    vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="squire", model_dir="models/squire", config={})
    yield vault
    vault.close()
