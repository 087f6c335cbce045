"""An executor whose runs do what the test says, on a real run directory with real records and checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from arena.executors.contract import Handle, Standing
from arena.jobs import read_job
from arena.rundir import Attempt, ControlMessage, MetricsWriter, Outcome, RunDir
from vault.manifest import canonical_name, write_manifest


class ScriptedExecutor:
    """Keeps runs "running" until the test lets them end or die."""

    def __init__(self) -> None:
        self.started: list[Handle] = []
        self.dead: set[int] = set()
        self.killed: list[int] = []

    def start(self, run_dir: Path, attempt: int, fence: int) -> Handle:
        RunDir(run_dir).write_attempt(Attempt(attempt, fence, None))
        handle = Handle(run_dir, fence, None)
        self.started.append(handle)
        return handle

    def adopt(self, run_dir: Path, fence: int) -> Handle | None:
        return next((h for h in self.started if h.fence == fence and h.fence not in self.dead), None)

    def poll(self, handle: Handle) -> Standing:
        outcome = RunDir(handle.run_dir).outcome()
        if outcome is not None and outcome.fence == handle.fence:
            return "ended"
        known = any(started.fence == handle.fence for started in self.started)
        return "lost" if handle.fence in self.dead or not known else "running"

    def terminate(self, handle: Handle) -> None:
        self.dead.add(handle.fence)

    def kill(self, handle: Handle) -> None:
        self.killed.append(handle.fence)
        self.dead.add(handle.fence)

    def tick(self, now: float) -> None: ...

    def close(self) -> None: ...

    # What the "trainer" does

    @property
    def last(self) -> ScriptedTrainer:
        return ScriptedTrainer(self.started[-1])


class ScriptedTrainer:
    """The hand that writes a run directory as a trainer would."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.run_dir = RunDir(handle.run_dir)

    def say(self, *records: dict[str, Any]) -> None:
        writer = MetricsWriter(self.run_dir.metrics_path)
        for record in records:
            writer.append(record["kind"], **{k: v for k, v in record.items() if k != "kind"})
        writer.close()

    def steps(self, first: int, last: int, loss: float = 1.0) -> None:
        self.say(
            *({"kind": "step", "step": s, "loss": loss, "lr": 1e-3, "step_s": 0.1} for s in range(first, last + 1))
        )

    def checkpoint(self, step: int, **card: Any) -> str:
        job = read_job(self.run_dir.path)
        hero_step = job.hero_step_start + step
        name = canonical_name(hero_step, time.time())
        folder = self.run_dir.path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(f"weights of {hero_step}".encode())
        body = {"step": hero_step, "run_step": step, "created_at": time.time()} | card
        manifest = write_manifest(folder, body)
        self.say({"kind": "checkpoint", "step": step, "name": name, "manifest_sha256": manifest.sha256()})
        return name

    def end(self, status: str, step: int, checkpoint: str | None = None, error: dict[str, str] | None = None) -> None:
        outcome = Outcome(status, step, self.handle.fence, checkpoint, error, "hash")  # type: ignore[arg-type]
        self.run_dir.write_outcome(outcome)

    def complete(self, steps: int = 3, **card: Any) -> None:
        self.steps(1, steps)
        self.end("completed", steps, self.checkpoint(steps, **card))

    def told(self) -> list[ControlMessage]:
        return self.run_dir.control_messages()

    def answer(self, message: ControlMessage, effect: str = "done") -> None:
        self.say({"kind": "control", "id": message.id, "verb": message.verb, "effect": effect})
