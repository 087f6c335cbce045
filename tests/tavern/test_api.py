"""The resources: what they answer, page by page, and what the effects do to the ledger and the inbox."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from arena.formats.quests import read_quest
from vault.records import NewJob

from .conftest import EFFECT, World, problem_of

RAW = EFFECT | {"Content-Type": "application/octet-stream"}


def test_jobs_come_page_by_page_each_once(owner: TestClient, realm: Any, world: World) -> None:
    for number in range(23):
        realm.vault.jobs.submit(NewJob("dio", "sft", f"job {number}", f"page {number}"))
    seen: list[str] = []
    cursor = None
    while True:
        page = owner.get("/api/v1/jobs", params={"limit": 7} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["items"]) <= 7
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 26
    assert owner.get("/api/v1/jobs?state=failed&state=processing").json()["items"][0]["id"] == world.running
    assert owner.get("/api/v1/jobs?limit=201").status_code == 422


def test_a_job_is_moved_cancelled_and_tried_again(owner: TestClient, realm: Any, world: World) -> None:
    path = f"/api/v1/jobs/{world.waiting}"
    assert owner.patch(path, headers=EFFECT, json={"priority": "high"}).json()["priority"] == "high"
    assert owner.post(f"{path}/cancel", headers=EFFECT).json()["state"] == "cancelled"
    again = owner.post(f"{path}/cancel", headers=EFFECT)
    assert again.status_code == 409
    assert problem_of(again)["code"] == "not_waiting"
    assert owner.post(f"{path}/retry", headers=EFFECT).json()["state"] == "queued"
    moved = [event for event in realm.vault.events.list() if event.kind == "job_moved"]
    assert moved[0].data["by"] == "the owner"
    assert owner.patch(path, headers=EFFECT, json={"priority": "urgent"}).status_code == 422
    assert owner.patch(path, headers=EFFECT, json={"state": "completed"}).status_code == 422


def test_reports_and_previews(owner: TestClient, world: World) -> None:
    assert owner.get(f"/api/v1/jobs/{world.waiting}/report").json()["report"]["rows"] == 3
    assert problem_of(owner.get(f"/api/v1/jobs/{world.waiting}/preview"))["code"] == "preview_not_found"
    assert problem_of(owner.get("/api/v1/jobs/job_none/report"))["code"] == "job_not_found"


def test_a_command_is_accepted_and_followed(owner: TestClient, realm: Any, world: World) -> None:
    asked = owner.post("/api/v1/commands", headers=EFFECT | {"Idempotency-Key": "press-1"}, json={"verb": "pause"})
    assert asked.status_code == 202
    assert asked.json()["state"] == "pending"
    twice = owner.post("/api/v1/commands", headers=EFFECT | {"Idempotency-Key": "press-1"}, json={"verb": "pause"})
    assert twice.json()["id"] == asked.json()["id"]
    other = owner.post("/api/v1/commands", headers=EFFECT | {"Idempotency-Key": "press-2"}, json={"verb": "pause"})
    assert other.json()["id"] != asked.json()["id"]
    realm.vault.commands.settle(asked.json()["id"], "done", {"effect": "paused", "step": 7})
    settled = owner.get(asked.headers["location"]).json()
    assert (settled["state"], settled["effect"]["step"]) == ("done", 7)
    assert owner.post("/api/v1/commands", headers=EFFECT, json={"verb": "explode"}).status_code == 422


def test_a_file_is_safe_in_the_inbox_when_201_comes(owner: TestClient, realm: Any) -> None:
    content = b'{"text": "hello"}\n' * 1000
    made = owner.post("/api/v1/jobs?name=words.jsonl&priority=high", headers=RAW, content=content)
    assert made.status_code == 201
    assert made.json()["sha256"] == hashlib.sha256(content).hexdigest()
    assert (realm.paths.inbox / "high" / "words.jsonl").read_bytes() == content
    assert owner.get(made.headers["location"]).json()["state"] == "arriving"


def test_what_became_of_an_upload(owner: TestClient, realm: Any, world: World) -> None:
    made = owner.post("/api/v1/jobs?name=words.jsonl", headers=RAW, content=b"x\n").json()
    file = {"sha256": made["sha256"], "name": "words.jsonl"}
    job, _ = realm.vault.jobs.submit(NewJob("dio", "sft", "words.jsonl", "k", data=[file]))
    found = owner.get(f"/api/v1/uploads/{made['id']}").json()
    assert (found["state"], found["job"]["id"]) == ("accepted", job.id)
    assert owner.get("/api/v1/uploads/upload_none").status_code == 404


def test_the_same_key_sends_a_file_once(owner: TestClient, realm: Any) -> None:
    headers = RAW | {"Idempotency-Key": "drop-1"}
    first = owner.post("/api/v1/jobs?name=a.txt", headers=headers, content=b"one")
    second = owner.post("/api/v1/jobs?name=a.txt", headers=headers, content=b"one")
    assert first.json() == second.json()
    assert [path.name for path in realm.paths.inbox.iterdir() if path.is_file()] == ["a.txt"]


def test_names_that_meet_do_not_overwrite(owner: TestClient, realm: Any) -> None:
    names = [owner.post("/api/v1/jobs?name=a.txt", headers=RAW, content=b"%d" % n).json()["name"] for n in range(3)]
    assert len(set(names)) == 3
    assert {(realm.paths.inbox / name).read_bytes() for name in names} == {b"0", b"1", b"2"}


def test_an_empty_file_is_refused_and_leaves_nothing(owner: TestClient, realm: Any) -> None:
    assert problem_of(owner.post("/api/v1/jobs?name=a.txt", headers=RAW, content=b""))["code"] == "empty_file"
    assert [path for path in realm.paths.inbox.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "few", "rows": [{"text": "hé\u2028llo \x7f <b>"}], "config": {"learning_rate": 1e-05}},
        {"generate": {"skill": "bin", "level": 3, "count": 20}, "priority": "high", "again": True},
    ],
)
def test_a_request_in_json_becomes_a_quest_file(owner: TestClient, realm: Any, spec: dict[str, Any]) -> None:
    made = owner.post("/api/v1/jobs", headers=EFFECT, json=spec)
    assert made.status_code == 201, made.text
    (file,) = [path for path in realm.paths.inbox.rglob("*") if path.is_file()]
    assert file.parent.name == ("high" if "priority" in spec else "inbox")
    quest = read_quest(file.read_bytes(), file.name)
    assert quest.name == made.json()["name"]
    assert quest.config == spec.get("config", {})
    assert quest.again is spec.get("again", False)
    if "rows" in spec:
        assert quest.data == spec["rows"]
    else:
        assert yaml.safe_load(file.read_bytes())["data"] == spec["generate"]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"rows": []},
        {"rows": [{"text": "x"}], "generate": {"skill": "bin", "level": 1, "count": 1}},
        {"generate": {"skill": "../x", "level": 1, "count": 1}},
        {"generate": {"skill": "bin", "level": 0, "count": 1}},
        {"name": "../../x", "rows": [{"text": "x"}]},
        {"rows": [{"text": "x"}], "trust_remote_code": True},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(owner: TestClient, realm: Any, spec: dict[str, Any]) -> None:
    assert owner.post("/api/v1/jobs", headers=EFFECT, json=spec).status_code == 422
    assert [path for path in realm.paths.inbox.rglob("*") if path.is_file()] == []


def test_metrics_of_a_run_are_thinned_with_their_range(owner: TestClient, world: World) -> None:
    path = f"/api/v1/runs/{world.run}/metrics"
    whole = owner.get(path).json()["points"]
    assert len(whole) <= 1500
    assert (whole[0][2], whole[-1][3]) == (pytest.approx(1.0, abs=2), pytest.approx(1.0, abs=0.01))
    few = owner.get(path, params={"max_points": 10}).json()["points"]
    assert len(few) == 10
    assert min(point[2] for point in few) == pytest.approx(1.0)
    assert max(point[3] for point in few) == pytest.approx(2.999)
    assert len(owner.get(path, params={"after": 1990}).json()["points"]) == 10
    assert owner.get(path, params={"max_points": 1501}).status_code == 422
    assert owner.get(path, params={"name": "../x"}).json()["points"] == []
    detail = owner.get(f"/api/v1/runs/{world.run}").json()
    assert detail["metrics"] == ["loss"]
    assert len(detail["attempts"]) == 1


def test_heroes_checkpoints_evaluations_and_the_champion(owner: TestClient, realm: Any, world: World) -> None:
    (hero,) = owner.get("/api/v1/heroes").json()
    assert hero["stats"]["xp"] == 2000
    assert hero["stats"]["acc"] == pytest.approx(0.8)
    (checkpoint,) = owner.get("/api/v1/checkpoints", params={"hero": "dio"}).json()["items"]
    assert checkpoint["id"] == world.checkpoint
    assert owner.get(f"/api/v1/checkpoints/{world.checkpoint}").json()["card"]["step"] == 2000
    (evaluation,) = owner.get("/api/v1/evaluations", params={"name": "bin/L3/heldout"}).json()["items"]
    assert evaluation["accuracy"] == pytest.approx(0.8)
    assert owner.post(f"/api/v1/checkpoints/{world.checkpoint}/promote", headers=EFFECT).status_code == 200
    assert owner.get("/api/v1/heroes/dio").json()["champion_by"] == "the owner"
    realm.vault.ledger.set_checkpoint_status(world.checkpoint, "quarantined")
    assert owner.post(f"/api/v1/checkpoints/{world.checkpoint}/promote", headers=EFFECT).status_code == 409


def test_the_log_goes_back_page_by_page_in_words(owner: TestClient, realm: Any, world: World) -> None:
    seen, cursor = [], None
    while True:
        page = owner.get("/api/v1/log", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [entry["seq"] for entry in page["items"]]
        assert all(entry["words"]["title"] for entry in page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == list(range(realm.vault.events.latest_seq(), 0, -1))
    kinds = owner.get("/api/v1/log?kind=job_failed&kind=checkpoint_saved").json()["items"]
    assert {entry["kind"] for entry in kinds} == {"job_failed", "checkpoint_saved"}


def test_status_is_the_snapshot(owner: TestClient, world: World) -> None:
    status = owner.get("/api/v1/status").json()
    assert status["battle"]["run_id"] == world.run
    assert status["queue"]["jobs"][0]["id"] == world.waiting


def test_meters(owner: TestClient, world: World) -> None:
    owner.get("/api/v1/jobs/job_none")
    text = owner.get("/metrics").text
    assert 'realm_hero_step{hero="dio"} 2000.0' in text
    assert 'realm_train_loss{hero="dio"} 1.0' in text
    assert 'realm_jobs{state="queued"} 1.0' in text
    assert 'realm_run_state{state="training"} 1.0' in text
    assert 'realm_http_request_seconds_count{method="GET",path="/api/v1/jobs/{job_id}",status="404"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert "job_none" not in text


def test_health_asks_nobody_and_readiness_asks_the_disk(
    owner: TestClient, realm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert owner.get("/readyz").json() == {"status": "ready"}
    monkeypatch.setattr("tavern.api.system.free_bytes", lambda path: 1)
    assert problem_of(owner.get("/readyz"))["code"] == "disk_floor"
    realm.close()
    assert owner.get("/healthz").json() == {"status": "ok"}
