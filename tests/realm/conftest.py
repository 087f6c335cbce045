"""Homes for command tests: a real ledger on disk, without services."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from realm.cli import main
from realm.settings import load_settings
from realm.wiring import Realm
from vault.records import NewJob


@dataclass(frozen=True)
class Answer:
    """What a command line gave back."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    """A realm with a hero and nothing done yet."""
    realm = Realm(load_settings(tmp_path / "home"))
    realm.vault.ledger.ensure_hero(
        "dio", name="DIO", trainer="sft", model="squire", model_dir="models/squire", config={}
    )
    yield realm
    realm.close()


@pytest.fixture
def run(realm: Realm) -> Callable[..., Answer]:
    """Run a command line on that realm, in this process."""

    def call(*words: str) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["--home", str(realm.settings.home), *words])
        return Answer(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def submit(realm: Realm) -> Callable[..., str]:
    """Enter a job as the intake does and return its id."""

    def enter(name: str, **more: Any) -> str:
        job, _ = realm.vault.jobs.submit(NewJob(hero_id="dio", trainer="sft", name=name, idem_key=name, rows=7, **more))
        return job.id

    return enter
