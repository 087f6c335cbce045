"""The kill test: does training survive kill -9 at any instant, bit for bit?

Two temporary homes get the same model and the same quests. In one they are trained undisturbed. In the other the
trainer, the daemon or both are killed with SIGKILL again and again, at random steps, in the middle of saves, while
starting up; now and then the newest checkpoint is damaged on disk as well. Then everything is compared: weights,
optimizer state, every loss of every step (also of steps that were repeated), validation, the hash of the data in the
order in which it was consumed, the ledger against the folders, and that no quest was lost or done twice.

It uses what a person uses: `realm arena` as the daemon, the inbox, the ledger. Run it by `realm doctor kill-test`.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm.errors import CorruptFileError, NotFoundError, RealmError
from realm.files import read_json
from realm.processes import ProcessIdentity
from realm.settings import Settings, load_settings, subprocess_environment

if TYPE_CHECKING:
    from realm.wiring import Realm

QUESTS = 3
SAVE_EVERY = 5
BATCH = 2
STEPS_A_KILL = 9
"""Steps planned for each kill, so that there is something left to kill."""
LIMIT_S = 240.0
"""Nothing may take longer than this without any progress."""
CONFIG = """\
arena: {retry_delay_s: 0.0, max_attempts: 1000000, inbox_stable_s: 0.05, threads: 1, worker_idle_s: 60}
"""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One claim and whether it held."""

    name: str
    passed: bool
    words: str


@dataclass
class Verdict:
    """What a kill test found."""

    kills: dict[str, int] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        checks = [vars(check) for check in self.checks]
        return {
            "passed": self.passed,
            "kills": self.kills,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "checks": checks,
        }


def run_kill_test(*, kills: int, seed: int, steps: int | None, keep: bool, say: Say) -> Verdict:
    """Carry the test out and return its verdict. Raises RealmError when it cannot be carried out at all."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="realm-kill-test-"))
    quest_steps = -(-(steps or kills * STEPS_A_KILL + 60) // QUESTS)
    verdict = Verdict(steps=quest_steps * QUESTS)
    straight, shaken = Arena(folder / "straight"), Arena(folder / "shaken")
    try:
        say(f"Training {QUESTS} quests of {quest_steps} steps undisturbed.")
        straight.start()
        straight.hand_in(quest_steps, seed)
        straight.await_end()
        straight.stop()
        say(f"The same with {kills} kills.")
        shutil.copytree(straight.settings.paths.models, shaken.settings.paths.models, dirs_exist_ok=True)
        shaken.start()
        shaken.hand_in(quest_steps, seed)
        verdict.kills = Reaper(shaken, random.Random(seed), say).kill(kills)
        shaken.await_end()
        shaken.stop()
        verdict.checks = compare(straight, shaken, verdict.kills, kills)
    finally:
        straight.stop()
        shaken.stop()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if keep:
        say(f"Both homes are left in {folder}.")
    verdict.seconds = time.monotonic() - began
    return verdict


class Arena:
    """One temporary home with its daemon."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True)
        (home / "config.yaml").write_text(CONFIG)
        self.settings: Settings = load_settings(home)
        self.paths = self.settings.paths.ensure()
        self.daemon: subprocess.Popen[bytes] | None = None
        self._realm: Realm | None = None

    @property
    def realm(self) -> Realm:
        from realm.wiring import Realm

        if self._realm is None:
            self._realm = Realm(self.settings)
        return self._realm

    def start(self) -> None:
        """Start the daemon as the Weaver would."""
        with open(self.paths.logs / "arena.log", "ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "realm", "arena"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=subprocess_environment(self.settings.home, PYTHONUNBUFFERED="1"),
            )

    def stop(self) -> None:
        """End daemon and worker; safe to repeat."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None
        worker = self.worker()
        if worker is not None:
            worker.signal(9)
        if self._realm is not None:
            self._realm.close()
            self._realm = None

    def worker(self) -> ProcessIdentity | None:
        """Return the training process if it lives."""
        try:
            found = ProcessIdentity.from_dict(read_json(self.paths.control / "workers" / "local-0" / "worker.json"))
        except (NotFoundError, CorruptFileError):
            return None
        return found if found is not None and found.is_alive() else None

    def hand_in(self, steps: int, seed: int) -> None:
        """Drop the quests into the inbox, each after the one before was entered, so that their order is the same."""
        from guild.quests import make_quest_rows

        for number in range(QUESTS):
            rows = make_quest_rows("bin", 1 + number, steps * BATCH + 40, seed * QUESTS + number)
            lines = "".join(json.dumps({"messages": row["messages"]}, ensure_ascii=False) + "\n" for row in rows)
            name = f"quest-{number}"
            config: dict[str, Any] = {"max_steps": steps, "batch_size": BATCH, "save_every_steps": SAVE_EVERY}
            config |= {"learning_rate": 1e-3, "validation_fraction": 0.05, "eval_every_steps": 4 * SAVE_EVERY}
            spec = {"name": name, "trainer": "sft", "data": f"{name}.jsonl", "config": config}
            (self.paths.inbox / f"{name}.yaml").write_text(json.dumps(spec))  # JSON is YAML
            (self.paths.inbox / f"{name}.jsonl").write_text(lines)
            self._await_jobs(number + 1)

    def ended(self) -> bool:
        counts = self.realm.vault.jobs.counts()
        return sum(counts.values()) >= QUESTS and not counts.get("queued") and not counts.get("processing")

    def await_end(self) -> None:
        """Wait until every quest is over, for as long as there is progress."""
        seen, since = -1, time.monotonic()
        while not self.ended():
            size = sum(path.stat().st_size for path in self.paths.runs.glob("*/metrics.jsonl"))
            if size != seen:
                seen, since = size, time.monotonic()
            self._check_alive(since, "the end of training")
            time.sleep(0.1)

    def run_dirs(self) -> dict[str, Path]:
        """Return quest name to run directory."""
        jobs = self.realm.vault.jobs.list(limit=100).items
        return {job.name: self.paths.runs / job.run_id for job in jobs if job.run_id}

    def _await_jobs(self, count: int) -> None:
        since = time.monotonic()
        while sum(self.realm.vault.jobs.counts().values()) < count:
            self._check_alive(since, "the intake")
            time.sleep(0.05)

    def _check_alive(self, since: float, what: str) -> None:
        dead = self.daemon is not None and self.daemon.poll() is not None
        if dead or time.monotonic() - since > LIMIT_S:
            tail = (self.paths.logs / "arena.log").read_text(errors="replace")[-600:]
            why = "the daemon ended by itself" if dead else f"no progress for {LIMIT_S:.0f} s"
            raise RealmError(f"The kill test cannot go on ({what}): {why}. {tail}", hint="Use --keep and look at it.")


class Reaper:
    """Kills trainer and daemon of an arena by a seeded plan."""

    def __init__(self, arena: Arena, rng: random.Random, say: Say) -> None:
        self._arena = arena
        self._rng = rng
        self._say = say
        self._steps_seen = 0
        self._counted: dict[Path, tuple[int, int]] = {}
        self.done = {"trainer": 0, "daemon": 0, "both": 0, "in a save": 0, "damaged": 0}

    def kill(self, count: int) -> dict[str, int]:
        """Kill `count` times, or until training is over; return what was done."""
        for number in range(count):
            victim = self._rng.choices(("trainer", "daemon", "both"), (6, 3, 1))[0]
            moment = self._rng.choices(("step", "save", "anywhere"), (5, 4, 1))[0]
            if not self._await_moment(moment):
                break
            in_save = self._saving()
            if victim in ("daemon", "both"):
                assert self._arena.daemon is not None
                self._arena.daemon.kill()
            if victim in ("trainer", "both"):
                self._kill_worker()
            self.done[victim] += 1
            self.done["in a save"] += in_save and victim != "daemon"
            if victim != "daemon" and self._rng.random() < 0.1:
                self.done["damaged"] += self._damage_newest()
            if victim in ("daemon", "both"):
                assert self._arena.daemon is not None
                self._arena.daemon.wait()
                self._arena.start()
            if (number + 1) % 10 == 0:
                self._say(f"  {number + 1} kills, step {self._total_steps()}")
        return self.done

    def _await_moment(self, moment: str) -> bool:
        """Wait for the instant to strike; False when there is nothing left to kill."""
        deadline = time.monotonic() + LIMIT_S
        if moment == "anywhere":
            deadline = time.monotonic() + self._rng.uniform(0.0, 6.0)
        goal = self._total_steps() + self._rng.randint(1, 2 * SAVE_EVERY)
        look_again = 0.0
        while time.monotonic() < deadline:
            if time.monotonic() > look_again:
                if self._arena.ended():
                    return False
                look_again = time.monotonic() + 0.5
            if moment == "step" and self._total_steps() >= goal:
                return True
            if moment == "save" and self._total_steps() > self._steps_seen and self._saving():
                self._steps_seen = self._total_steps()
                time.sleep(self._rng.uniform(0.0, 0.06))
                return True
            time.sleep(0.003)
        if moment != "anywhere":
            raise RealmError("The kill test cannot go on: nothing was trained between two kills.", hint="Use --keep.")
        return True

    def _kill_worker(self) -> None:
        worker = self._arena.worker()
        if worker is not None:
            worker.signal(9)
            while worker.is_alive():
                time.sleep(0.002)

    def _saving(self) -> bool:
        return any(True for _ in self._arena.paths.runs.glob("*/.tmp-*"))

    def _total_steps(self) -> int:
        """Count step records, repeated ones too: a measure of how much was done."""
        for path in self._arena.paths.runs.glob("*/metrics.jsonl"):
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                if self._counted.get(path, (-1, 0))[0] != size:
                    self._counted[path] = (size, path.read_bytes().count(b'"kind":"step"'))
        return sum(count for _, count in self._counted.values())

    def _damage_newest(self) -> bool:
        """Turn one bit of the newest checkpoint that is not a quest's last."""
        found = [path for path in self._arena.paths.runs.glob("*/checkpoint-*/model.safetensors") if path.is_file()]
        found = [path for path in found if not (path.parent.parent / "outcome.json").exists()]
        if not found:
            return False
        victim = max(found, key=lambda path: path.stat().st_mtime_ns)
        with open(victim, "r+b") as file:
            place = self._rng.randrange(victim.stat().st_size)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1]))
        return True


def compare(straight: Arena, shaken: Arena, done: dict[str, int], wanted: int) -> list[Check]:
    """Compare the two homes and return one check for each claim."""
    total = done["trainer"] + done["daemon"] + done["both"]
    told = ", ".join(f"{number} {name}" for name, number in done.items())
    enough = total >= wanted
    checks = [Check("kills", enough, f"{total} of {wanted}: {told}." + ("" if enough else " Training was over."))]
    checks += [_jobs(shaken), _completions(shaken)]
    first, second = straight.run_dirs(), shaken.run_dirs()
    checks.append(_same("data order", {n: _outcome(p) for n, p in first.items()}, second, _outcome))
    checks.append(
        _same("losses of every step", {n: _curve(p, "step", "loss") for n, p in first.items()}, second, _losses)
    )
    checks.append(
        _same("validation", {n: _curve(p, "validation", "val_loss") for n, p in first.items()}, second, _values)
    )
    checks.append(_same("weights", {n: _final_hash(p, "model") for n, p in first.items()}, second, _weights))
    checks.append(_same("optimizer", {n: _final_hash(p, "optimizer") for n, p in first.items()}, second, _optimizer))
    return [*checks, *_ledger(shaken)]


def _jobs(arena: Arena) -> Check:
    counts = arena.realm.vault.jobs.counts()
    words = ", ".join(f"{number} {state}" for state, number in counts.items())
    return Check("no quest lost", counts.get("completed") == QUESTS == sum(counts.values()), f"{words} of {QUESTS}.")


def _completions(arena: Arena) -> Check:
    completed = arena.realm.vault.events.list(kinds=("job_completed",), limit=1000)
    stats = arena.realm.vault.ledger.stats(arena.settings.hero)
    once = len(completed) == QUESTS == len({event.subject for event in completed}) == stats.completed
    return Check("no quest doubled", once, f"{len(completed)} completions, {stats.gold} gold, {stats.xp} steps earned.")


def _same(name: str, expected: dict[str, Any], found: dict[str, Path], read: Callable[[Path], Any]) -> Check:
    different = []
    for quest, value in expected.items():
        try:
            same = quest in found and value is not None and read(found[quest]) == value
        except (RealmError, OSError) as error:
            different.append(f"{quest}: {error}")
            continue
        if not same:
            different.append(quest)
    size = sum(len(value) if isinstance(value, dict) else 1 for value in expected.values())
    words = f"Different: {', '.join(different)}." if different else f"Bit-identical ({size} values)."
    return Check(name, not different and size >= QUESTS, words)


def _outcome(run_dir: Path) -> Any:
    outcome = read_json(run_dir / "outcome.json")
    return (outcome["data_hash"], outcome["step"], outcome["status"])


def _curve(run_dir: Path, kind: str, key: str) -> dict[int, float]:
    """Return step to value. Raises CorruptFileError when a repeated step had another value."""
    from arena.rundir import read_records

    found: dict[int, float] = {}
    for record in read_records(run_dir / "metrics.jsonl"):
        if record["kind"] == kind and found.setdefault(record["step"], record[key]) != record[key]:
            raise CorruptFileError(f"step {record['step']} was repeated with another {key}")
    return found


def _losses(run_dir: Path) -> dict[int, float]:
    return _curve(run_dir, "step", "loss")


def _values(run_dir: Path) -> dict[int, float]:
    return _curve(run_dir, "validation", "val_loss")


def _final_hash(run_dir: Path, part: str) -> str | None:
    """Return the SHA-256 of a part of the last checkpoint, after verifying the whole of it."""
    from vault.manifest import verify

    manifest = verify(run_dir / str(read_json(run_dir / "outcome.json")["checkpoint"]))
    return next((file.sha256 for file in manifest.files if file.name == f"{part}.safetensors"), None)


def _weights(run_dir: Path) -> str | None:
    return _final_hash(run_dir, "model")


def _optimizer(run_dir: Path) -> str | None:
    return _final_hash(run_dir, "optimizer")


def _ledger(arena: Arena) -> list[Check]:
    """Compare the ledger's rows with the folders, and see what every resumption began from."""
    from arena.rundir import read_records
    from vault.manifest import verify

    statuses = ("verified", "quarantined", "deleted", "missing")
    rows = arena.realm.vault.ledger.checkpoints(statuses=statuses, limit=100_000).items
    verified = {(row.run_id, row.name) for row in rows if row.status == "verified"}
    bad = {(row.run_id, row.name) for row in rows if row.status == "quarantined"}
    folders, torn = set(), []
    for folder in arena.paths.runs.glob("*/checkpoint-*"):
        try:
            verify(folder)
            folders.add((folder.parent.name, folder.name))
        except CorruptFileError as error:
            torn.append(error.message)
    same = verified == folders and not torn
    words = f"{len(verified)} rows, {len(folders)} folders" + (f", torn: {torn[0]}" if torn else "")
    resumed = []
    for run_dir in arena.paths.runs.iterdir():
        records = read_records(run_dir / "metrics.jsonl")
        names = [r["checkpoint"] for r in records if r["kind"] == "event" and r["name"] == "resumed"]
        resumed += [(run_dir.name, name) for name in names]
    known = {(row.run_id, row.name) for row in rows}
    strangers = [name for name in resumed if name not in known]
    used = f"{len(resumed)} resumptions, {len(strangers)} from unknown ones; {len(bad)} damaged ones were set aside."
    return [Check("ledger rows = checkpoints", same, f"{words}."), Check("verified only", not strangers, used)]
