"""Kill -9 of every process and pairs of them, at random instants, while files are dropped and quests are fought.

Afterwards nothing may be lost, doubled or untold: every file is one completed quest, ledger and folders agree, the
hero's experience is the steps of its runs, and exactly one process of each kind is left.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realm.services import read_services
from tests.system.living import LivingRealm, audit, await_that

VICTIMS = ("weaver", "tavern", "arena", "worker")
DROPPER = """
import pathlib, random, sys, time
from tests.system.living import drop_quest
inbox, number, count, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(number)
for turn in range(count):
    drop_quest(inbox, f"chaos-{number}-{turn}", seed=100 * number + turn, steps=steps, save_every=3)
    time.sleep(rng.uniform(0.0, 1.0))
"""


@pytest.fixture
def living(tmp_path: Path) -> Iterator[LivingRealm]:
    realm = LivingRealm(tmp_path / "home")
    try:
        yield realm
    finally:
        realm.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kills", "droppers", "each", "steps"), [(6, 2, 2, 12), pytest.param(60, 4, 6, 40, marks=pytest.mark.slow)]
)
def test_nothing_is_lost_or_doubled(living: LivingRealm, kills: int, droppers: int, each: int, steps: int) -> None:
    rng = random.Random(7)
    living.up()
    argv = [sys.executable, "-c", DROPPER, str(living.paths.inbox)]
    root = Path(__file__).resolve().parents[2]
    dropping = [subprocess.Popen([*argv, str(number), str(each), str(steps)], cwd=root) for number in range(droppers)]
    names = [f"chaos-{number}-{turn}" for number in range(droppers) for turn in range(each)]
    try:
        for number in range(kills):
            time.sleep(rng.uniform(0.0, 1.5))
            first = VICTIMS[(3 + number) % len(VICTIMS)]
            victims = {first} | ({rng.choice(VICTIMS)} if rng.random() < 0.4 else set())
            living.kill(*victims)
            if "weaver" in victims:  # whoever finds it dead says `realm up` again
                living.up()
    finally:
        assert [dropper.wait() for dropper in dropping] == [0] * droppers
    living.up()
    await_that(lambda: living.ended(len(names)), 60.0 + 20.0 * kills, every_s=0.2)
    await_that(lambda: {s.name: s.state for s in read_services(living.paths)} == {"tavern": "up", "arena": "up"})
    await_that(lambda: living.processes() == {"weaver": 1, "tavern": 1, "arena": 1, "worker": 1})
    status = living.status()
    assert status["battle"] is None
    assert (status["queue"]["waiting"], status["queue"]["failed"]) == (0, 0)
    assert {(service["name"], service["state"]) for service in status["services"]} == {
        ("tavern", "up"),
        ("arena", "up"),
    }
    assert [notice for notice in status["notices"] if notice["level"] == "error"] == []
    await_that(lambda: len(list(living.paths.recently_completed.iterdir())) == len(names))
    living.down()
    audit(living, names)
    assert not living.processes()
