"""What a fresh process loads: nothing heavy before it is needed, and `realm status` answers quickly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from realm.settings import load_settings
from realm.wiring import Realm

ROOT = Path(__file__).parents[2]
LIGHT = [
    "realm.cli",
    "realm.wiring",
    "realm.weaver.supervisor",
    "realm.weaver.control",
    "realm.doctor",
    "realm.killtest",
    "realm.watchtower",
    "realm.sentinels",
    "vault.store",
    "guild.quests",
    "guild.heroes",
    "arena.daemon",
    "arena.queue",
    "arena.control",
    "arena.intake",
    "arena.status",
    "arena.worker",
    "tavern.app",
    "tavern.server",
]
HEAVY = ("torch", "transformers", "peft")
STATUS_S = 0.4
REFERENCE_S = 0.22
"""Processor time of importing SQLAlchemy and pydantic on the machine for which STATUS_S was set."""


def loaded(code: str) -> set[str]:
    """Return the top-level packages that a fresh process has loaded after `code`."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_a_service_or_command_does_not_load_torch(module: str) -> None:
    assert loaded(f"import {module}").isdisjoint(HEAVY)


def test_the_package_itself_loads_nothing_of_ours() -> None:
    script = "import realm, sys; print([m for m in sys.modules if m.startswith(('realm.', 'vault', 'arena'))])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    realm = Realm(load_settings(tmp_path / "home"))
    realm.vault.events.record("service_up", "test", {})
    realm.close()
    return tmp_path / "home"


def test_status_loads_neither_the_web_nor_the_migrations(home: Path) -> None:
    code = f"from realm.cli import main\nassert main(['--home', {str(home)!r}, '--json', 'status']) == 0"
    found = loaded(code)
    assert found.isdisjoint({*HEAVY, "fastapi", "starlette", "uvicorn", "alembic", "pyarrow", "httpx", "numpy"})
    assert "sqlalchemy" in found  # it did read the ledger


def processor_s(*argv: str) -> float:
    """Return the least processor time of three runs of a Python process."""
    spans = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, *argv], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        spans.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(spans)


def test_status_answers_quickly(home: Path) -> None:
    """Without a Tavern to ask, the slower way; on a slower or busier machine it may take as much longer as that is."""
    slowness = max(1.0, processor_s("-c", "import sqlalchemy, pydantic.main") / REFERENCE_S)
    assert processor_s("-m", "realm", "--home", str(home), "status") <= STATUS_S * slowness
