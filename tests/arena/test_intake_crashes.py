"""Crashes of the intake: at every named step and at random instants, no file is lost and none becomes two jobs.

A child process takes files in; it ends itself with SIGKILL at the n-th step, or is killed from outside. Then a new one
goes on. The ledger is the real vault on SQLite.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from arena.intake import Arrival, Intake, RefusedArrival
from realm.files import sha256_file
from realm.paths import RealmPaths
from realm.settings import ArenaSettings
from vault.records import Job, NewJob
from vault.store import Vault

SETTINGS = ArenaSettings(disk_floor_mib=0)


def row(number: int) -> str:
    turns = [{"role": "user", "content": f"add {number}?"}, {"role": "assistant", "content": str(number)}]
    return json.dumps({"messages": turns}) + "\n"


def open_vault(home: Path) -> Vault:
    vault = Vault(f"sqlite:///{home}/vault.db", f"sqlite:///{home}/metrics.db")
    vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="m", model_dir="m", config={})
    return vault


def take_in(home: Path, fault: Callable[[str], None], rounds: int = 3, begun: int | None = None) -> None:
    """What the child does: open everything anew and scan. `begun` is a descriptor on which it says that it begins."""
    vault = open_vault(home)
    if begun is not None:
        os.write(begun, b"!")

    def accept(arrival: Arrival) -> Job:
        data = {"canonical_sha256": arrival.canonical_sha256, "object": str(arrival.object_path)}
        return vault.jobs.submit(NewJob("dio", "sft", arrival.name, arrival.idem_key, data=[data]))[0]

    def refuse(refusal: RefusedArrival) -> Job:
        new = NewJob("dio", "sft", refusal.name, refusal.idem_key)
        return vault.jobs.submit(new, state="refused", reason={"code": refusal.code})[0]

    intake = Intake(RealmPaths(home), SETTINGS, accept, refused=refuse, fault=fault)
    for _ in range(rounds):
        intake.scan(time.time() + 3600)
    vault.close()


def in_child(work: Callable[[], None]) -> int:
    """Start `work` in a child process and return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid: int) -> int:
    """Wait for a child; return 0, its exit code, or minus the signal that ended it."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def settle(folder: Path, files: dict[str, str]) -> None:
    """Put files into the inbox as if they had been moved there long ago."""
    for name, content in files.items():
        path = folder / name
        path.write_text(content)
        os.utime(path, (1_700_000_000, 1_700_000_000))


FILES = {
    "good.jsonl": row(1) + row(2),
    "bad.jsonl": "{broken\n",
    "quest.yaml": "data: rows.jsonl\n",
    "rows.jsonl": row(4),
    "inline.yaml": "data: [{prompt: a, completion: b}]\n",
    "wrong.yaml": "data: theirs.jsonl\nconfig: {epochs: 1}\n",
    "theirs.jsonl": "[not json\n",
}
JOBS = {"good.jsonl", "quest.yaml", "inline.yaml"}
REFUSED = {"bad.jsonl", "wrong.yaml"}


def audit(home: Path) -> None:
    """Everything that was dropped is one job or lies in failed/; everything that a job needs is there and whole."""
    paths = RealmPaths(home)
    vault = open_vault(home)
    try:
        queued = list(vault.jobs.list(("queued",), limit=5000).items)
        refused = list(vault.jobs.list(("refused",), limit=5000).items)
    finally:
        vault.close()
    assert sorted(job.name for job in queued) == sorted(JOBS)
    assert sorted(job.name for job in refused) == sorted(REFUSED)
    for job in queued:
        (data,) = job.data
        canonical = paths.objects / f"{data['canonical_sha256']}.jsonl"
        assert sha256_file(canonical) == data["canonical_sha256"]
        assert sha256_file(Path(data["object"])) == Path(data["object"]).name.partition(".")[0]
    assert [name for name in os.listdir(paths.inbox) if not name.startswith(".upload")] == []
    assert os.listdir(paths.staging) == []
    for name in (*REFUSED, "theirs.jsonl"):
        assert (paths.failed / name).read_text() == FILES[name]
    for name in REFUSED:
        assert (paths.failed / f"{name}.reason.json").exists()


@pytest.fixture(scope="module")
def empty_realm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("empty") / "realm"
    RealmPaths(home).ensure()
    open_vault(home).close()
    return home


@pytest.fixture
def new_home(tmp_path: Path, empty_realm: Path) -> Callable[[str], Path]:
    """Make another realm, empty and with its vault."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(empty_realm, tmp_path / name))

    return make


@pytest.fixture
def home(new_home: Callable[[str], Path]) -> Path:
    return new_home("realm")


def steps_of(home: Path) -> list[str]:
    """Return the steps that an undisturbed intake goes through."""
    settle(RealmPaths(home).inbox, FILES)
    steps: list[str] = []
    take_in(home, steps.append)
    audit(home)
    return steps


def test_every_step_is_named(home: Path) -> None:
    steps = steps_of(home)
    named = {"copied", "inspected", "synced", "stored", "accepted", "recorded", "took", "removed"}
    assert set(steps) == named | {"told", "explained", "moved"}


def test_a_kill_at_every_step_loses_and_doubles_nothing(home: Path, new_home: Callable[[str], Path]) -> None:
    count = len(steps_of(home))
    for killed_at in range(count):
        again = new_home(f"killed-{killed_at}")
        settle(RealmPaths(again).inbox, FILES)
        left = [killed_at]

        def fault(step: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        assert ended(in_child(lambda home=again, fault=fault: take_in(home, fault))) == -signal.SIGKILL  # type: ignore[misc]
        assert ended(in_child(lambda home=again: take_in(home, lambda step: None))) == 0  # type: ignore[misc]
        audit(again)


def test_kills_at_every_step_in_a_row_still_get_there(home: Path) -> None:
    """Each life gets one step further in what it is at; nothing of an earlier life stands in the way of a later."""
    settle(RealmPaths(home).inbox, FILES)
    for length in range(200):
        left = [length // 3]

        def fault(step: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        if ended(in_child(lambda fault=fault: take_in(home, fault))) == 0:  # type: ignore[misc]
            break
    assert ended(in_child(lambda: take_in(home, lambda step: None))) == 0
    audit(home)


def kill_loop(home: Path, wanted: int, per_life: int, seconds_max: float) -> int:
    """Go on dropping files while lives are ended at random; return how many kills hit a life that was at work."""
    chance = random.Random(wanted)
    inbox = RealmPaths(home).inbox
    kills = dropped = 0
    deadline = time.monotonic() + seconds_max
    while kills < wanted and time.monotonic() < deadline:
        if len(os.listdir(inbox)) < 3 * per_life:
            batch = range(dropped, dropped + per_life)
            settle(inbox, {f"{n}.jsonl": "".join(row(n * 50 + k) for k in range(50)) for n in batch})
            dropped = batch.stop
        ready, begun = os.pipe()
        pid = in_child(lambda begun=begun: take_in(home, lambda step: None, rounds=1, begun=begun))  # type: ignore[misc]
        os.read(ready, 1)
        time.sleep(chance.uniform(0.0, 0.006 * per_life))
        os.kill(pid, signal.SIGKILL)
        kills += ended(pid) == -signal.SIGKILL
        os.close(ready)
        os.close(begun)
    assert ended(in_child(lambda: take_in(home, lambda step: None, rounds=100))) == 0
    vault = open_vault(home)
    try:
        names = [job.name for job in vault.jobs.list(("queued",), limit=50_000).items]
    finally:
        vault.close()
    assert sorted(names) == sorted(f"{n}.jsonl" for n in range(dropped))
    assert os.listdir(inbox) == []
    assert os.listdir(RealmPaths(home).staging) == []
    return kills


def test_random_kills_lose_and_double_nothing(home: Path) -> None:
    assert kill_loop(home, 25, 4, 15) >= 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_random_kills_lose_and_double_nothing(new_home: Callable[[str], Path]) -> None:
    assert sum(kill_loop(new_home(f"round-{n}"), 250, 4, 200) for n in range(4)) == 1000
