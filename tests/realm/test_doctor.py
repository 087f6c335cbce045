"""The doctor's checks, the sentinels' patrol and the watchtower's gaze."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from realm import doctor
from realm.settings import load_settings
from realm.wiring import Realm


def test_a_sound_machine_has_no_failures(tmp_path: Path) -> None:
    findings = doctor.examine(load_settings(tmp_path / "home", {"tavern.port": 0}))
    assert doctor.worst(findings) != "fail"
    assert {"python", "sqlite", "disk", "fsync", "home", "gpu", "torch", "port"} <= {f.name for f in findings}
    assert list(tmp_path.iterdir()) == []  # nothing was left behind


def test_a_check_that_breaks_is_a_warning_and_not_the_end(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def broken(*_: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(doctor.shutil, "disk_usage", broken)
    findings = {finding.name: finding for finding in doctor.examine(load_settings(tmp_path / "home"))}
    assert findings["disk"].level == "warn"
    assert findings["python"].level == "ok"


def test_a_full_disk_fails(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "home", {"arena.disk_floor_mib": 1 << 40})
    assert doctor.check_disk(settings).level == "fail"


def test_a_taken_port_is_told_with_its_holder_and_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = doctor.check_port(load_settings(tmp_path / "home", {"tavern.port": port}))
    assert finding.level == "warn"
    assert f"Port {port} is taken by" in finding.words
    assert "--port" in finding.advice


def test_a_patrol_of_a_new_realm_is_all_clear(realm: Realm) -> None:
    patrol = realm.sentinels.inspector.full_patrol()
    assert patrol.is_all_clear
    assert {"ledger", "metrics", "checkpoints", "battle", "disk"} <= {finding.name for finding in patrol.findings}


def test_a_patrol_finds_a_checkpoint_that_is_in_the_ledger_but_not_on_disk(
    realm: Realm, submit: Callable[..., str]
) -> None:
    from vault.manifest import Manifest

    submit("practice")
    claim = realm.vault.jobs.claim("test", 1e9, 30)
    assert claim is not None
    manifest = Manifest({"step": 5, "run_step": 5}, ())
    realm.vault.ledger.record_checkpoint(claim.run.id, "checkpoint-5-20260101-0000", manifest)
    patrol = realm.sentinels.inspector.full_patrol()
    assert not patrol.is_all_clear
    assert [finding.name for finding in patrol.findings if finding.level == "fail"] == ["checkpoints"]
    assert any(finding.name == "battle" and finding.level == "warn" for finding in patrol.troubles)


def test_the_pool_shows_an_idle_and_a_fighting_realm(realm: Realm, submit: Callable[..., str]) -> None:
    assert realm.watchtower.pool.gaze().battle_state == "idle"
    submit("practice")
    assert realm.watchtower.pool.gaze().waiting == 1
    assert realm.vault.jobs.claim("test", 1e9, 30) is not None
    gaze = realm.watchtower.pool.gaze()
    assert gaze.is_fighting
    assert gaze.battle_state != "idle"
    assert gaze.battle is not None and gaze.battle["name"] == "practice"
