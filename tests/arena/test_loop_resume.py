"""Resumption is exact: N steps, kill -9, N steps equal 2N steps bit for bit, wherever the kill falls.

Kills are real: a forked child runs the loop and kills itself with SIGKILL at a named point. The parent has imported
torch and made one update, so that a child costs milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arena.jobs import JobFile
from arena.loop import Hooks, run_training
from arena.rundir import Attempt, RunDir
from arena.trainers import rng
from tests.arena.training_kit import ToyTrainer, assert_same_tensors, losses, make_run, records
from vault import manifest as manifests

SAVE_POINTS = [
    "before_files",
    "after_files",
    "before_manifest",
    "after_manifest",
    "before_rename",
    "after_rename",
    "after_commit",
    "before_delete",
    "after_delete",
]
CONFIG: dict[str, Any] = {"max_steps": 12, "save_every_steps": 3, "eval_every_steps": 4}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Any]:
    """The run that nothing interrupts."""
    run_dir, job = make_run(tmp_path_factory.mktemp("straight") / "r", **CONFIG)
    return run_dir, run_training(ToyTrainer(), run_dir, job)


def run_and_die(run_dir: RunDir, job: JobFile, point: str, count: int) -> bool:
    """Run in a forked child that dies the `count`-th time it passes `point`; return whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            left = [count]

            def pass_by(reached: str) -> None:
                if reached == point:
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            class Dies(ToyTrainer):
                def apply_update(self) -> None:
                    pass_by("step")
                    super().apply_update()

                def evaluate(self) -> Any:
                    pass_by("evaluate")
                    return super().evaluate()

            run_training(Dies(), run_dir, job, Hooks(fault=pass_by))
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def assert_as_if_uninterrupted(run_dir: RunDir, outcome: Any, straight: tuple[RunDir, Any]) -> None:
    assert outcome.status == "completed"
    assert outcome.data_hash == straight[1].data_hash
    assert losses(run_dir) == losses(straight[0])
    assert_same_tensors(run_dir.path / outcome.checkpoint, straight[0].path / straight[1].checkpoint)
    assert not list(run_dir.path.glob(".tmp-*"))
    measured = {r["step"]: r["val_loss"] for r in records(run_dir, "validation")}
    assert measured == {r["step"]: r["val_loss"] for r in records(straight[0], "validation")}


@pytest.mark.parametrize(
    ("point", "count"),
    [("step", 1), ("step", 2), ("step", 5), ("step", 12), ("evaluate", 2)]
    + [(point, 2) for point in SAVE_POINTS[:7]]
    + [(point, 1) for point in SAVE_POINTS[7:]],
)
def test_a_kill_anywhere_changes_nothing(tmp_path: Path, straight: tuple[RunDir, Any], point: str, count: int) -> None:
    run_dir, job = make_run(tmp_path / "r", **CONFIG)
    assert run_and_die(run_dir, job, point, count)
    run_dir.write_attempt(Attempt(2, 2, None))
    outcome = run_training(ToyTrainer(), run_dir, job)
    assert_as_if_uninterrupted(run_dir, outcome, straight)


def test_many_kills_in_one_run_change_nothing(tmp_path: Path, straight: tuple[RunDir, Any]) -> None:
    chance = random.Random(3)
    run_dir, job = make_run(tmp_path / "r", **CONFIG)
    for attempt in range(1, 7):
        run_dir.write_attempt(Attempt(attempt, attempt, None))
        run_and_die(run_dir, job, chance.choice(["step", "step", *SAVE_POINTS]), chance.randint(1, 3))
    run_dir.write_attempt(Attempt(99, 99, None))
    outcome = run_training(ToyTrainer(), run_dir, job)
    assert_as_if_uninterrupted(run_dir, outcome, straight)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_hundred_kills_change_nothing(tmp_path: Path, straight: tuple[RunDir, Any]) -> None:
    chance = random.Random(1)
    kills = 0
    number = 0
    while kills < 300:
        number += 1
        run_dir, job = make_run(tmp_path / f"r{number}", **CONFIG)
        for attempt in range(1, 6):
            run_dir.write_attempt(Attempt(attempt, attempt, None))
            kills += run_and_die(run_dir, job, chance.choice(["step", "evaluate", *SAVE_POINTS]), chance.randint(1, 4))
        run_dir.write_attempt(Attempt(99, 99, None))
        outcome = run_training(ToyTrainer(), run_dir, job)
        assert_as_if_uninterrupted(run_dir, outcome, straight)


def test_a_damaged_newest_checkpoint_costs_only_its_steps(tmp_path: Path, straight: tuple[RunDir, Any]) -> None:
    run_dir, job = make_run(tmp_path / "r", **CONFIG)
    assert run_and_die(run_dir, job, "step", 8)
    newest = max(run_dir.checkpoints(), key=lambda path: manifests.read_manifest(path).card["run_step"])
    with open(newest / "optimizer.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    outcome = run_training(ToyTrainer(), run_dir, job)
    assert_as_if_uninterrupted(run_dir, outcome, straight)
    assert [r["checkpoint"] for r in records(run_dir, "event") if r["name"] == "checkpoint_quarantined"] == [
        f".quarantine-{newest.name}"
    ]


def test_rollback_and_kill_together_are_still_exact(tmp_path: Path) -> None:
    config = {**CONFIG, "bad_batches": [4, 7, 8]}
    whole, job = make_run(tmp_path / "whole", **config)
    expected = run_training(ToyTrainer(), whole, job)
    assert any(r["name"] == "rollback" for r in records(whole, "event"))
    for count in (6, 9, 11):
        run_dir, job = make_run(tmp_path / f"killed{count}", **config)
        assert run_and_die(run_dir, job, "step", count)
        outcome = run_training(ToyTrainer(), run_dir, job)
        assert outcome.data_hash == expected.data_hash
        assert_same_tensors(run_dir.path / outcome.checkpoint, whole.path / expected.checkpoint)


def test_random_states_survive_as_json() -> None:
    before = rng.capture()
    rng.seed_everything(5)
    random.gauss(0, 1)
    np.random.standard_normal(3)
    saved = rng.capture()
    drawn = (torch.rand(4).tolist(), random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist())
    rng.seed_everything(6)
    rng.restore(json.loads(json.dumps(saved)))
    again = (torch.rand(4).tolist(), random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist())
    assert drawn == again
    rng.restore(before)


def test_a_new_process_resumes_what_another_began(tmp_path: Path, straight: tuple[RunDir, Any]) -> None:
    """Not a fork: a fresh interpreter, with fresh hash seeds, is killed and another one finishes."""
    run_dir, job = make_run(tmp_path / "r", **CONFIG)
    command = [sys.executable, "-m", "tests.arena.resume_child", str(run_dir.path), "toy"]
    killed = subprocess.run([*command, "before_rename", "2"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert subprocess.run(command, check=False).returncode == 0
    assert job.config["max_steps"] == CONFIG["max_steps"]
    assert_as_if_uninterrupted(run_dir, run_dir.outcome(), straight)
