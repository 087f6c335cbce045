"""`realm up` and `realm down` with the real services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from realm.cli.local import LocalClient
from realm.cli.remote import RemoteClient
from realm.paths import RealmPaths
from realm.services import read_identity, read_services, weaver_identity
from realm.settings import load_settings
from realm.weaver.control import find_workers
from vault.manifest import verify

NAMES = ("tavern", "arena")


def command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "realm", "--home", str(home), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Path]:
    """The home of a realm that was started on a free port; everything is stopped afterwards."""
    home = tmp_path / "home"
    started = command(home, "--json", "up", "--port", "0")
    try:
        assert started.returncode == 0, started.stderr
        yield home
    finally:
        command(home, "down")
        for worker in find_workers(RealmPaths(home)):
            worker.signal(signal.SIGKILL)


def until(condition: Callable[[], Any], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def states(home: Path) -> dict[str, str]:
    return {service.name: service.state for service in read_services(RealmPaths(home))}


def pids(home: Path) -> list[int]:
    return [service.pid or 0 for service in read_services(RealmPaths(home))]


def test_the_realm_comes_up_survives_kills_and_goes_down(up: Path) -> None:
    paths = RealmPaths(up)
    assert states(up) == {"tavern": "up", "arena": "up"}
    again = command(up, "--json", "up")
    assert again.returncode == 0
    found = json.loads(again.stdout)
    assert found["already_running"]
    with urllib.request.urlopen(found["url"] + "healthz", timeout=5) as answer:
        assert answer.status == 200

    before = pids(up)
    for _ in range(3):  # the services outlive the Weaver and are taken up again
        weaver = weaver_identity(paths)
        assert weaver is not None
        os.kill(weaver.pid, signal.SIGKILL)
        until(lambda: weaver_identity(paths) is None)
        assert command(up, "up").returncode == 0
        assert pids(up) == before

    tavern = read_identity(paths, "tavern")
    assert tavern is not None
    os.kill(tavern.pid, signal.SIGKILL)  # a killed service comes back
    until(lambda: states(up) == {"tavern": "up", "arena": "up"} and pids(up) != before)
    assert pids(up)[1] == before[1]

    settings = load_settings(up)
    url = json.loads(command(up, "--json", "up").stdout)["url"]
    local, remote = LocalClient(settings), RemoteClient(url)
    assert remote.status()["realm"] == local.status()["realm"]
    local.realm.close()

    until(lambda: bool(find_workers(paths)))
    stopped = command(up, "--json", "down")
    assert stopped.returncode == 0, stopped.stderr
    done = json.loads(stopped.stdout)
    assert {"tavern", "arena", "weaver"} <= set(done["ended"])
    assert done["killed"] == []
    assert done["seconds"] < 45
    assert states(up) == {"tavern": "stopped", "arena": "stopped"}
    assert weaver_identity(paths) is None
    assert find_workers(paths) == []
    nothing = command(up, "down")
    assert nothing.returncode == 0
    assert "Nothing was running" in nothing.stdout


@pytest.mark.timeout(300)
def test_going_down_in_the_middle_of_a_battle_saves_and_coming_up_goes_on(up: Path) -> None:
    paths = RealmPaths(up)
    assert command(up, "quest", "make", "bin", "--level", "1", "--count", "8000", "--seed", "1").returncode == 0

    def battle() -> dict[str, Any]:
        return json.loads(command(up, "--json", "status").stdout)["battle"] or {"run_step": 0}

    until(lambda: battle()["run_step"] >= 3, 120.0)
    stopped = command(up, "--json", "down")
    assert stopped.returncode == 0, stopped.stderr
    done = json.loads(stopped.stdout)
    assert done["killed"] == []
    assert done["seconds"] < 45
    (checkpoint,) = paths.runs.glob("*/checkpoint-*")
    saved = verify(checkpoint).card["run_step"]
    assert saved >= 3
    standing = json.loads(command(up, "--json", "status").stdout)
    assert standing["battle"]["state"] == "paused"
    assert "realm up" in {n["code"]: n["action"] for n in standing["notices"]}["realm_stopped"]

    assert command(up, "up", "--port", "0").returncode == 0
    until(lambda: battle()["run_step"] > saved, 120.0)
    kinds = [event["kind"] for event in LocalClient(load_settings(up)).events(after=0, limit=200)]
    assert kinds.count("job_started") >= 1
    assert "job_failed" not in kinds


def test_a_taken_port_is_told_before_anything_is_started(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = command(tmp_path / "home", "up", "--port", str(port))
    assert answer.returncode == 1
    assert f"Port {port} is taken by" in answer.stderr
    assert "realm up --port" in answer.stderr
    assert weaver_identity(RealmPaths(tmp_path / "home")) is None


def test_a_full_disk_is_told_before_anything_is_started(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.yaml").write_text("arena: {disk_floor_mib: 1000000000}\n")
    answer = command(home, "up", "--port", "0")
    assert answer.returncode == 1
    assert "MiB are free" in answer.stderr
    assert weaver_identity(RealmPaths(home)) is None
