"""The Weaver with real processes: small scripts as services, real kills."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from realm.files import durable_write_json
from realm.paths import RealmPaths
from realm.processes import ProcessIdentity
from realm.services import Service, identity_file, read_services, weaver_identity
from realm.weaver import launch

TOY = Path(__file__).with_name("toy_weaver.py")
FAST = "weaver: {check_s: 0.05, backoff_s: 0.02, backoff_max_s: 0.1, broken_starts: 4, broken_retry_s: 30}\n"
SLEEPER = """
import os, signal, sys, time
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
def stop(*_):
    open(sys.argv[1] + ".stopped", "a").write(f"{time.monotonic()}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
while True:
    time.sleep(60)
"""


class Toy:
    """One home with a Weaver process that can be started and killed."""

    def __init__(self, home: Path) -> None:
        self.paths = RealmPaths(home).ensure()
        self.paths.config_yaml.write_text(FAST)
        self.process: subprocess.Popen[bytes] | None = None
        self.services: list[dict[str, Any]] = []

    def add(self, name: str, code: str, **more: Any) -> Path:
        """Add a service; returns the file in which it notes each of its starts."""
        starts = self.paths.home / f"{name}.starts"
        self.services.append({"name": name, "argv": ["-c", code, str(starts)], **more})
        return starts

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        table = self.paths.home / "services.json"
        table.write_text(json.dumps(self.services))
        self.process = subprocess.Popen([sys.executable, str(TOY), str(self.paths.home), str(table), *options])
        return self.process

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End everything that this home started, also what a failed test left behind."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        for entry in self.services:
            service = Service(**(entry | {"argv": tuple(entry["argv"])}))
            identity = launch.find_running(service, self.paths)
            if identity is not None:
                launch.kill(identity)

    def states(self) -> dict[str, str]:
        return {service.name: service.state for service in read_services(self.paths)}

    def pid(self, name: str) -> int | None:
        return next((service.pid for service in read_services(self.paths) if service.name == name), None)

    def detail(self, name: str) -> str:
        return next(service.detail for service in read_services(self.paths) if service.name == name)

    def events(self) -> list[str]:
        path = self.paths.home / "events.jsonl"
        return [json.loads(line)["kind"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path / "home")
    yield toy
    toy.stop()


def until(condition: Callable[[], Any], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_killing_the_weaver_restarts_no_service_and_doubles_none(toy: Toy) -> None:
    starts = [toy.add(name, SLEEPER) for name in ("one", "two")]
    for number in range(12):
        toy.start()
        if number % 3 == 2:  # in the middle of its first look
            until(lambda: weaver_identity(toy.paths) is not None)
        else:
            until(lambda: toy.states() == {"one": "up", "two": "up"} and weaver_identity(toy.paths) is not None)
        toy.kill()
    toy.start()
    until(lambda: toy.states() == {"one": "up", "two": "up"})
    assert [len(lines(path)) for path in starts] == [1, 1]
    assert [toy.pid("one"), toy.pid("two")] == [int(lines(path)[0]) for path in starts]
    assert "service_down" not in toy.events()


def test_a_service_whose_identity_was_never_written_is_found_by_its_lock(toy: Toy) -> None:
    starts = toy.add("one", SLEEPER)
    toy.start()
    until(lambda: toy.states() == {"one": "up"} and lines(starts))
    toy.kill()
    identity_file(toy.paths, "one").unlink()
    toy.start()
    until(lambda: toy.states() == {"one": "up"})
    assert toy.pid("one") == int(lines(starts)[0])
    assert len(lines(starts)) == 1


def test_a_killed_service_is_started_again_and_told_of(toy: Toy) -> None:
    starts = toy.add("one", SLEEPER)
    toy.start()
    until(lambda: toy.states() == {"one": "up"} and lines(starts))
    first = int(lines(starts)[0])
    os.kill(first, signal.SIGKILL)
    until(lambda: len(lines(starts)) == 2 and toy.states() == {"one": "up"})
    assert toy.pid("one") == int(lines(starts)[1]) != first
    assert [kind for kind in toy.events() if kind != "service_up"] == [
        "service_started",
        "service_down",
        "service_started",
    ]


def test_a_service_that_died_while_no_weaver_watched_is_started_again(toy: Toy) -> None:
    starts = toy.add("one", SLEEPER)
    toy.start()
    until(lambda: toy.states() == {"one": "up"} and lines(starts))
    toy.kill()
    os.kill(int(lines(starts)[0]), signal.SIGKILL)
    until(lambda: toy.states() == {"one": "down"})
    toy.start()
    until(lambda: len(lines(starts)) == 2 and toy.states() == {"one": "up"})


def test_a_crash_loop_is_reported_as_broken_with_its_last_words(toy: Toy) -> None:
    code = "import sys; open(sys.argv[1], 'a').write('x\\n'); sys.exit('the oven is cold')"
    starts = toy.add("bad", code)
    well = toy.add("well", SLEEPER)
    toy.start()
    until(lambda: toy.states().get("bad") == "broken")
    assert "the oven is cold" in toy.detail("bad")
    assert "exit code 1" in toy.detail("bad")
    assert len(lines(starts)) == 4
    assert "service_broken" in toy.events()
    toy.kill()
    toy.start()  # a new Weaver remembers
    until(lambda: toy.states().get("well") == "up" and weaver_identity(toy.paths) is not None)
    assert len(lines(starts)) == 4
    assert toy.process is not None
    toy.process.send_signal(signal.SIGHUP)  # a person asked: everything is tried afresh
    until(lambda: len(lines(starts)) > 4)
    assert len(lines(well)) == 1


def test_a_bad_configuration_is_not_tried_again_before_it_changes(toy: Toy) -> None:
    starts = toy.add("picky", "import sys; open(sys.argv[1], 'a').write('x\\n'); sys.exit(78)")
    beat = toy.add("beat", "import sys, time\nwhile 1: open(sys.argv[1], 'a').write('x\\n'); time.sleep(0.05)")
    toy.start()
    until(lambda: toy.states().get("picky") == "broken")
    seen = len(lines(beat))
    until(lambda: len(lines(beat)) > seen + 10)
    assert len(lines(starts)) == 1
    toy.paths.config_yaml.write_text(FAST + "hero: other\n")
    until(lambda: len(lines(starts)) == 2)


def test_services_stop_in_reverse_order_and_save_first(toy: Toy) -> None:
    starts = [toy.add(name, SLEEPER) for name in ("first", "second")]
    process = toy.start()
    until(lambda: all(lines(path) for path in starts) and toy.states() == {"first": "up", "second": "up"})
    process.terminate()
    assert process.wait(20) == 0
    first, second = (float(Path(f"{path}.stopped").read_text()) for path in starts)
    assert second < first
    assert toy.states() == {"first": "stopped", "second": "stopped"}


def test_a_service_that_does_not_listen_is_killed_after_its_time(toy: Toy) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "open(sys.argv[1], 'a').write('x\\n')\nwhile 1: time.sleep(60)"
    starts = toy.add("deaf", code, stop_s=0.2)
    process = toy.start()
    until(lambda: lines(starts) and toy.states() == {"deaf": "up"})
    pid = toy.pid("deaf")
    process.terminate()
    assert process.wait(20) == 0
    assert pid is not None
    assert ProcessIdentity.of(pid) is None


def test_a_second_weaver_refuses(toy: Toy) -> None:
    toy.add("one", SLEEPER)
    toy.start()
    until(lambda: toy.states() == {"one": "up"})
    argv = [sys.executable, str(TOY), str(toy.paths.home), str(toy.paths.home / "services.json")]
    assert subprocess.run(argv, check=False).returncode == 9


def test_a_dead_weaver_does_not_leave_a_dead_service_shown_as_up(toy: Toy) -> None:
    starts = toy.add("one", SLEEPER)
    toy.start()
    until(lambda: toy.states() == {"one": "up"} and lines(starts))
    toy.kill()
    os.kill(int(lines(starts)[0]), signal.SIGKILL)
    until(lambda: toy.states() == {"one": "down"})


def test_a_heartbeat_from_before_the_start_does_not_count(toy: Toy) -> None:
    beat = toy.paths.home / "beat"
    beat.write_text("old")
    os.utime(beat, (1, 1))
    code = "import sys, time, pathlib\nopen(sys.argv[1], 'a').write('x\\n')\n"
    code += "while not pathlib.Path(sys.argv[1] + '.go').exists(): time.sleep(0.01)\n"
    code += f"while 1: pathlib.Path({str(beat)!r}).write_text('now'); time.sleep(0.05)"
    starts = toy.add("slow", code, kind="heartbeat", ready="beat")
    toy.start()
    until(lambda: lines(starts) and toy.states() == {"slow": "starting"})
    Path(f"{starts}.go").touch()
    until(lambda: toy.states() == {"slow": "up"})


def test_a_service_that_hangs_is_killed_and_started_again(toy: Toy) -> None:
    beat = toy.paths.home / "beat"
    code = "import sys, time, pathlib\nopen(sys.argv[1], 'a').write('x\\n')\n"
    code += f"pathlib.Path({str(beat)!r}).write_text('now')\nwhile 1: time.sleep(60)"
    starts = toy.add("hung", code, kind="heartbeat", ready="beat")
    toy.start("0.3")
    until(lambda: toy.states() == {"hung": "up"})
    os.utime(beat, (1, 1))  # it beat once, long ago
    until(lambda: len(lines(starts)) == 2)
    assert "service_down" in toy.events()


def test_a_long_log_is_rotated_while_its_writer_goes_on(tmp_path: Path) -> None:
    paths = RealmPaths(tmp_path).ensure()
    with launch.open_log(paths, "chatty") as log:
        for round_number in range(6):
            log.write(f"round {round_number}\n".encode() * 100)
            log.flush()
            assert launch.rotate_log(paths, "chatty", limit=500)
        log.write(b"the end\n")
        log.flush()
        assert not launch.rotate_log(paths, "chatty", limit=500)
    assert launch.log_file(paths, "chatty").read_text() == "the end\n"
    assert launch.last_lines(paths, "chatty") == "the end"
    kept = sorted(path.name for path in paths.logs.iterdir())
    assert kept == ["chatty.log", "chatty.log.1", "chatty.log.2", "chatty.log.3"]
    assert "round 5" in (paths.logs / "chatty.log.1").read_text()


def test_a_full_disk_does_not_end_the_weaver(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its account and the services' identities are written when there is room again."""
    from realm.services import read_identity
    from realm.settings import load_settings
    from realm.weaver import supervisor

    toy.add("one", SLEEPER)
    service = Service("one", tuple(toy.services[0]["argv"]))
    weaver = supervisor.Weaver(load_settings(toy.paths.home), [service], teller=_Mute())
    full = True

    def write(path: Path, value: Any, *, replace: bool = True) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        durable_write_json(path, value, replace=replace)

    monkeypatch.setattr(supervisor, "durable_write_json", write)
    monkeypatch.setattr(launch, "durable_write_json", write)
    for _ in range(3):
        weaver.tick()
    (watched,) = weaver.watched
    assert watched.identity is not None and watched.identity.is_alive()
    assert watched.record.restarts == 0
    assert read_identity(toy.paths, "one") is None
    full = False
    weaver.tick()
    assert read_identity(toy.paths, "one") == watched.identity
    assert toy.pid("one") == watched.identity.pid
    weaver.stop_all()
    assert watched.identity is None


def test_a_log_that_cannot_be_copied_is_kept_with_all_older_ones(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    log = launch.log_file(toy.paths, "one")
    log.write_text("new" * 100)
    log.with_name("one.log.1").write_text("old")

    def fail(source: Path, target: Path) -> None:
        Path(target).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(launch.shutil, "copyfile", fail)
        assert not launch.rotate_log(toy.paths, "one", limit=100)
    assert {path.name: path.read_text() for path in toy.paths.logs.iterdir()} == {
        "one.log": "new" * 100,
        "one.log.1": "old",
    }
    assert launch.rotate_log(toy.paths, "one", limit=100)
    assert log.read_text() == ""
    assert log.with_name("one.log.2").read_text() == "old"


class _Mute:
    """A teller that tells nobody."""

    def tell(self, kind: str, subject: str, data: dict[str, Any]) -> None: ...

    def flush(self) -> None: ...
