"""Power cuts: what was acknowledged is there afterwards, and nothing half-written is taken for whole.

A small ext4 in a file is shut down under a writing process by EXT4_IOC_SHUTDOWN without flushing its journal: all that
was not synced is gone, as after pulling the plug. The disk's own lies about its cache are out of this rig's reach. The
control at the end shows that the rig bites: the same work with `synchronous=NORMAL` loses what it acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena.checkpoints import CheckpointStore
from vault.manifest import verify
from vault.store import Vault

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

WRITER = """
import os, sys
from pathlib import Path
from arena.checkpoints import CheckpointStore
from realm.files import durable_write
from vault.records import NewJob
from vault.store import Vault

root, first, pragma = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
vault = Vault.in_files(root / "vault.db", root / "metrics.db")
vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="m", model_dir="m", config={})
if pragma:
    from sqlalchemy import event
    event.listen(vault.database.engine, "checkout", lambda c, *_: c.execute(pragma))
store = CheckpointStore(root / "run")
def write(folder):
    (folder / "model.safetensors").write_bytes(os.urandom(40_000))
    (folder / "state.json").write_text("{}")
number = first
print("ready", flush=True)
while True:
    vault.jobs.submit(NewJob("dio", "sft", f"n{number}", f"k{number}"))
    print(f"job {number}", flush=True)
    if number % 3 == 0:
        made = store.save({"step": number, "run_step": number}, write)
        print(f"checkpoint {made.name}", flush=True)
        store.rotate(made, best=None)
    if number % 4 == 0:
        durable_write(root / f"file{number % 40}", str(number).encode() * 500)
        print(f"file {number}", flush=True)
    number += 1
"""


class Disk:
    """A small ext4 that can lose its power."""

    def __init__(self, folder: Path) -> None:
        self.image, self.root = folder / "image", folder / "disk"
        with open(self.image, "wb") as file:
            file.truncate(48 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.image)], check=True)
        self.root.mkdir()
        self.mounted = False
        self.plug_in()
        (self.root / "run").mkdir()

    def plug_in(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.root)], check=True)
        self.mounted = True

    def pull_the_plug(self) -> None:
        descriptor = os.open(self.root, os.O_RDONLY)
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(descriptor)

    def unplug(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.root)], check=True)
            self.mounted = False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    try:
        disk = Disk(tmp_path)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop mounts here: {error}")
    yield disk
    disk.unplug()


def write_until_cut(disk: Disk, first: int, lines: int, pragma: str = "") -> list[str]:
    """Let the writer work for so many acknowledgements, pull the plug, and return all that it acknowledged."""
    command = [sys.executable, "-c", WRITER, str(disk.root), str(first), pragma]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        told = []
        for line in child.stdout:
            told.append(line.strip())
            if len(told) > lines:
                break
        disk.pull_the_plug()
        told += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.kill()
    disk.unplug()
    disk.plug_in()
    assert told[0] == "ready"
    return told[1:]


@pytest.mark.needs_root
@pytest.mark.timeout(600)
@pytest.mark.parametrize("cuts", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost_and_nothing_torn_is_used(disk: Disk, cuts: int) -> None:
    rng = random.Random(11)
    jobs: set[str] = set()
    for _ in range(cuts):
        told = write_until_cut(disk, first=len(jobs), lines=rng.randrange(5, 60))
        jobs |= {f"n{line.split()[1]}" for line in told if line.startswith("job ")}
        vault = Vault.in_files(disk.root / "vault.db", disk.root / "metrics.db")
        assert vault.database.check() == []
        present = {job.name for job in vault.jobs.waiting(100_000)}
        assert jobs <= present
        jobs = present
        vault.close()
        run = disk.root / "run"
        saved = [line.split()[1] for line in told if line.startswith("checkpoint ")]
        for name in saved[-2:]:
            verify(run / name)
        newest, quarantined = CheckpointStore(run).newest_verified()
        assert quarantined == [] and (not saved or newest is not None)
        for line in told:
            if line.startswith("file ") and not any(
                later.startswith("file ") for later in told[told.index(line) + 1 :]
            ):
                number = line.split()[1]
                assert (disk.root / f"file{int(number) % 40}").read_text() == number * 500


@pytest.mark.needs_root
@pytest.mark.timeout(120)
def test_the_rig_bites_when_commits_are_not_synced(disk: Disk) -> None:
    told = write_until_cut(disk, first=0, lines=40, pragma="PRAGMA synchronous=NORMAL")
    acknowledged = {f"n{line.split()[1]}" for line in told if line.startswith("job ")}
    vault = Vault.in_files(disk.root / "vault.db", disk.root / "metrics.db")
    present = {job.name for job in vault.jobs.waiting(100_000)}
    vault.close()
    assert acknowledged - present
