"""Shared fixtures: real parts on a temporary folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from realm.paths import RealmPaths
from realm.settings import Settings
from vault.records import NewJob
from vault.store import Vault

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty home."""
    settings = Settings(home=tmp_path / "realm-home")
    settings.paths.ensure()
    return settings


@pytest.fixture
def paths(settings: Settings) -> RealmPaths:
    return settings.paths


@pytest.fixture
def vault(paths: RealmPaths) -> Iterator[Vault]:
    """An empty vault in files, with one hero."""
    vault = Vault.in_files(paths.vault_db, paths.metrics_db)
    vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="squire", model_dir="models/squire", config={})
    yield vault
    vault.close()


def new_job(name: str = "quest.jsonl", **fields: object) -> NewJob:
    """A job request with a key of its own."""
    values: dict[str, object] = {"hero_id": "dio", "trainer": "sft", "name": name, "idem_key": f"key of {name}"}
    return NewJob(**(values | fields))  # type: ignore[arg-type]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests in a browser last: its driver keeps an event loop running in the main thread until the end."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
