"""A living realm on a disk that fills up completely, and has room again later.

Filled in the middle of training, with services killed while there is not one free byte: the newest checkpoint stays
whole, what was dropped stays in the inbox, everything that was acknowledged is carried out once there is room again,
the status says what to do, and no process needs a hand.
"""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.living import CONFIG, LivingRealm, audit, await_that, drop_quest, quest_rows
from vault.manifest import verify

SIZE_MIB = 96


@pytest.fixture
def living(tmp_path: Path) -> Iterator[LivingRealm]:
    home = tmp_path / "home"
    home.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "realm-test", str(home)]
    if subprocess.run(mounted, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    realm = LivingRealm(home, CONFIG.replace("disk_floor_mib: 0", "disk_floor_mib: 1, hang_s: 5"))
    try:
        yield realm
    finally:
        realm.close()
        subprocess.run(["umount", str(home)], check=True)


def fill(living: LivingRealm) -> list[Path]:
    """Use up every byte; what a failed save gives back is taken by the next call."""
    files = []
    for block in (1 << 20, 1 << 12):
        path = living.home / f"filler-{len(list(living.home.glob('filler-*')))}"
        files.append(path)
        with open(path, "wb", buffering=0) as file:
            try:
                while file.write(b"x" * block) == block:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return files


def notices(living: LivingRealm) -> dict[str, str]:
    return {notice["code"]: notice["action"] for notice in living.status()["notices"]}


def run_step(living: LivingRealm) -> int:
    battle = living.status()["battle"]
    return int(battle["run_step"]) if battle else 0


@pytest.mark.needs_root
@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", [(), ("tavern", "arena", "worker"), ("weaver", "arena")])
def test_a_full_disk_loses_nothing_and_ends_nothing(living: LivingRealm, killed: tuple[str, ...]) -> None:
    living.up()
    drop_quest(living.paths.inbox, "before", seed=1, steps=400, save_every=20, rows=120)
    await_that(lambda: run_step(living) >= 60, 90.0)
    (living.paths.inbox / "late.jsonl").write_text(quest_rows(2, 30))
    worker = living.process("worker")
    await_that(lambda: fill(living) and "disk_full" in notices(living), 60.0)
    assert "Free some space" in notices(living)["disk_full"]
    for folder in living.paths.runs.glob("*/checkpoint-*"):
        verify(folder)

    full_since = time.monotonic()  # a trainer that cannot write a word for longer than `hang_s` is not hung
    await_that(lambda: fill(living) and (killed or time.monotonic() > full_since + 8.0), 30.0)
    assert living.process("worker") == worker
    living.kill(*killed)
    await_that(lambda: fill(living) and living.processes()["tavern"] == 1, 30.0)
    if "weaver" in killed:
        await_that(lambda: "realm up" in notices(living).get("weaver_down", ""), 30.0)
    else:
        await_that(lambda: fill(living) and living.processes()["arena"] == 1, 30.0)
        assert living.process("weaver") is not None

    for path in living.home.glob("filler-*"):
        path.unlink()
    if "weaver" in killed:
        living.up()
    await_that(lambda: living.ended(2), 120.0, every_s=0.3)
    await_that(lambda: {s["name"]: s["state"] for s in living.status()["services"]} == {"tavern": "up", "arena": "up"})
    assert not {"disk_full", "save_waits", "weaver_down"} & notices(living).keys()
    assert living.processes() == {"weaver": 1, "tavern": 1, "arena": 1, "worker": 1}
    await_that(lambda: len(list(living.paths.recently_completed.iterdir())) == 2)
    living.down()
    audit(living, ["before", "late.jsonl"])
