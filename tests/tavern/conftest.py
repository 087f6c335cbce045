"""A whole realm on disk behind the Tavern: real databases and files, in a folder of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from realm.settings import Settings, TavernSettings
from realm.wiring import Realm
from tavern.app import Application, create_app
from vault.ledger import Progress
from vault.manifest import Manifest, ManifestFile
from vault.records import NewJob

BASE = "http://127.0.0.1:8888"
EFFECT = {"X-Realm": "1"}


@dataclass(frozen=True)
class World:
    """Ids of what the `world` fixture put into the ledger."""

    hero: str
    waiting: str
    running: str
    failed: str
    run: str
    checkpoint: str
    command: str
    token: str
    upload: str

    def path(self, template: str) -> str:
        """Fill an address template of the access table with ids that exist."""
        values = {"job_id": self.waiting, "run_id": self.run, "checkpoint_id": self.checkpoint, "hero_id": self.hero}
        values |= {"command_id": self.command, "token_id": self.token, "upload_id": self.upload}
        for name, value in values.items():
            template = template.replace("{" + name + "}", value)
        return template.replace("{build}", "0").replace("{name:path}", "login/login.css")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with fresh databases, made once: copying it is quicker than creating the tables for each test."""
    home = tmp_path_factory.mktemp("empty") / "realm-home"
    built = Realm(Settings(home=home))
    assert built.vault.events.latest_seq() == 0
    built.close()
    return home


@pytest.fixture
def realm(tmp_path: Path, empty_home: Path) -> Iterator[Realm]:
    home = tmp_path / "realm-home"
    shutil.copytree(empty_home, home)
    built = Realm(Settings(home=home, tavern=TavernSettings(port=8888, upload_limit_mib=2)))
    yield built
    built.close()


@pytest.fixture
def app(realm: Realm) -> Application:
    """The application as a stranger meets it: nobody's socket can be told."""
    return create_app(realm, peer_uid=lambda client, server: None)


@pytest.fixture
def owners_app(realm: Realm) -> Application:
    """The application as the owner meets it on the same machine."""
    return create_app(realm, peer_uid=lambda client, server: os.geteuid())


@pytest.fixture
def stranger(app: Application) -> Iterator[TestClient]:
    with TestClient(app, base_url=BASE, client=("127.0.0.1", 50000), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def owner(owners_app: Application) -> Iterator[TestClient]:
    with TestClient(owners_app, base_url=BASE, client=("127.0.0.1", 50000), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def bearer(realm: Realm) -> Callable[..., dict[str, str]]:
    """Make a token with the given scopes and return the headers that carry it."""

    def make(*scopes: str, ttl_s: float | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {realm.vault.tokens.create('a test', list(scopes), ttl_s)[1]}"}

    return make


@pytest.fixture
def world(realm: Realm) -> World:
    """A hero with a job that is being trained, one that waits, one that failed, a checkpoint and an evaluation."""
    vault = realm.vault
    vault.ledger.ensure_hero(
        "dio", name="DIO", trainer="sft", model="squire", model_dir="/secret/models/squire", config={}
    )
    jobs = [
        vault.jobs.submit(NewJob("dio", "sft", name, key, report={"rows": 3}, rows=3))[0]
        for name, key in (("failed.jsonl", "k1"), ("running.jsonl", "k2"), ("waiting.jsonl", "k3"))
    ]
    now = time.time()
    first = vault.jobs.claim("test", now, 60.0)
    assert first is not None
    vault.jobs.give_up(first.job.id, first.fence, now, {"code": "worker_died", "message": "It died."})
    claim = vault.jobs.claim("test", now, 60.0)
    assert claim is not None
    run_id = claim.run.id
    vault.metrics.append(run_id, [("loss", step, 3.0 - step / 1000) for step in range(1, 2001)])
    vault.ledger.advance(run_id, Progress(0, 0, 2000, "training", 4000, 1.0, 1.2, 64_000, 10.0))
    card = {"step": 2000, "run_step": 2000, "train_loss": 1.0, "val_loss": 1.2, "created_at": now}
    files = (ManifestFile("model.safetensors", 10, "0" * 64),)
    checkpoint, _ = vault.ledger.record_checkpoint(run_id, "checkpoint-2000-20261120-2200", Manifest(card, files))
    vault.ledger.record_evaluation(
        run_id,
        run_step=2000,
        name="bin/L3/heldout",
        skill="bin",
        level=3,
        split="heldout",
        correct=4,
        total=5,
        details={"wrong": [{"prompt": "<script>alert(1)</script>", "expected": "1", "got": "2"}]},
        at=now,
    )
    command = vault.commands.request("save", by="a test")
    token, _ = vault.tokens.create("world", ["read"])
    upload = "upload_of_the_world"
    folder = realm.paths.control / "uploads"
    folder.mkdir()
    (folder / f"{upload}.json").write_text(
        json.dumps({"id": upload, "name": "a.jsonl", "size": 3, "sha256": "0" * 64, "at": now})
    )
    return World("dio", jobs[2].id, jobs[1].id, jobs[0].id, run_id, checkpoint.id, command.id, token.id, upload)


def problem_of(response: Any) -> dict[str, Any]:
    """Return the body of a problem after checking its shape (RFC 9457)."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code", "hint"} <= body.keys()
    assert body["status"] == response.status_code
    assert body["type"] == f"urn:realm:problem:{body['code']}"
    return body
