"""A whole realm in a temporary home, as a person starts it, and the audit of what it holds afterwards."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from realm.processes import ProcessIdentity
from realm.services import read_identity, weaver_identity
from realm.settings import load_settings
from realm.weaver.control import find_workers
from realm.wiring import Realm
from vault.manifest import verify

CONFIG = """\
arena: {retry_delay_s: 0.0, max_attempts: 1000000, inbox_stable_s: 0.05, rescan_s: 0.5, threads: 1, disk_floor_mib: 0}
weaver: {backoff_s: 0.05, backoff_max_s: 0.5, broken_starts: 1000000, check_s: 0.2}
"""
SERVICES = ("tavern", "arena")


class LivingRealm:
    """One home and the processes that serve it; `close` stops everything it started."""

    def __init__(self, home: Path, config: str = CONFIG) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        (home / "config.yaml").write_text(config)
        self.settings = load_settings(home)
        self.paths = self.settings.paths

    def command(self, *words: str, limit_s: float = 100.0) -> subprocess.CompletedProcess[str]:
        """Run `realm` on this home."""
        argv = [sys.executable, "-m", "realm", "--home", str(self.home), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False)

    def up(self) -> None:
        started = self.command("up", "--port", "0")
        assert started.returncode == 0, started.stderr

    def down(self) -> None:
        stopped = self.command("down")
        assert stopped.returncode == 0, stopped.stderr

    def close(self) -> None:
        self.command("down")
        for worker in find_workers(self.paths):
            worker.signal(signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        answer = self.command("--json", "status")
        assert answer.stdout, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def process(self, name: str) -> ProcessIdentity | None:
        """Return the Weaver, a service or the training process, if it lives."""
        if name == "weaver":
            return weaver_identity(self.paths)
        if name == "worker":
            return next(iter(find_workers(self.paths)), None)
        return read_identity(self.paths, name)

    def kill(self, *names: str) -> None:
        """Kill processes with SIGKILL, all at once, and wait until they are gone."""
        victims = [victim for name in names if (victim := self.process(name)) is not None]
        for victim in victims:
            victim.signal(signal.SIGKILL)
        await_that(lambda: not any(victim.is_alive() for victim in victims), 10.0)

    def processes(self) -> Counter[str]:
        """Return how many processes of each kind serve this home now."""
        found: Counter[str] = Counter()
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                mine = str(self.home) in words or process.environ().get("REALM_HOME") == str(self.home)
                alive = process.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:
                continue
            if mine and alive and "-m" in words:
                rest = words[words.index("-m") + 1 :]
                if rest[0] == "realm.weaver" and "--daemon" in rest:
                    found["weaver"] += 1
                elif rest[0] == "realm" and len(rest) > 1 and rest[1] in (*SERVICES, "worker"):
                    found[rest[1]] += 1
        return found

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state, straight from the ledger."""
        realm = Realm(self.settings)
        try:
            return realm.vault.jobs.counts()
        finally:
            realm.close()

    def ended(self, count: int) -> bool:
        """Tell whether `count` jobs came and none waits or runs any more."""
        counts = self.counts()
        return sum(counts.values()) >= count and not counts.get("queued") and not counts.get("processing")


def await_that(condition: Callable[[], Any], limit_s: float = 60.0, every_s: float = 0.05) -> None:
    """Wait for a condition. Fails when it does not come about in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(every_s)


def quest_rows(seed: int, rows: int) -> str:
    """Return a small data file: sums, so that there is something to learn."""
    rng = random.Random(seed)
    lines = []
    for number in range(rows):
        a, b = rng.randrange(1000), rng.randrange(1000)
        turns = [{"role": "user", "content": f"{a}+{b} ({number})"}, {"role": "assistant", "content": str(a + b)}]
        lines.append(json.dumps({"messages": turns}) + "\n")
    return "".join(lines)


def drop_quest(inbox: Path, name: str, *, seed: int, steps: int, save_every: int, rows: int = 24) -> None:
    """Put a quest file and its data into the inbox, the data last."""
    config = {"max_steps": steps, "batch_size": 2, "save_every_steps": save_every, "validation_fraction": 0.1}
    spec = {"name": name, "trainer": "sft", "data": f"{name}.jsonl", "config": config}
    (inbox / f"{name}.yaml").write_text(json.dumps(spec))  # JSON is YAML
    (inbox / f"{name}.jsonl").write_text(quest_rows(seed, rows))


def audit(living: LivingRealm, names: Iterable[str]) -> None:
    """Compare what was dropped with ledger, folders and records. Every quest must have been completed."""
    expected = sorted(names)
    realm = Realm(living.settings)
    try:
        jobs = realm.vault.jobs.list(limit=10_000).items
        assert sorted(job.name for job in jobs) == expected
        assert {job.state for job in jobs} == {"completed"}
        done = [event.subject for event in realm.vault.events.list(kinds=("job_completed",), limit=10_000)]
        assert sorted(done) == sorted(job.id for job in jobs)
        left = [path.name for path in living.paths.inbox.rglob("*") if path.is_file()]
        assert left == []
        statuses = ("verified", "quarantined", "deleted", "missing")
        rows = realm.vault.ledger.checkpoints(statuses=statuses, limit=100_000).items
        entered = {(row.run_id, row.name) for row in rows if row.status == "verified"}
        folders = set()
        for folder in living.paths.runs.glob("*/checkpoint-*"):
            verify(folder)
            folders.add((folder.parent.name, folder.name))
        assert entered == folders
        assert list(living.paths.runs.glob("*/.tmp-*")) == []
        stats = realm.vault.ledger.stats(living.settings.hero)
        assert stats.completed == len(expected)
        ends = []
        for job in jobs:
            assert job.run_id is not None
            outcome = json.loads((living.paths.runs / job.run_id / "outcome.json").read_text())
            assert outcome["status"] == "completed"
            ends.append(outcome["step"])
        assert stats.xp == sum(ends)
        latest = realm.vault.ledger.latest(living.settings.hero)
        assert latest is not None and latest.step == stats.xp
    finally:
        realm.close()
    pointers = [path.name for path in living.paths.recently_completed.iterdir()]
    assert len(pointers) == min(len(expected), 200)
    waiting = [
        living.paths.processing,
        living.paths.failed,
        *(living.paths.queue(p) for p in ("high", "normal", "low")),
    ]
    assert [path.name for folder in waiting for path in folder.iterdir()] == []
