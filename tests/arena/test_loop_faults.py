"""What the loop does with numbers that are not finite and with a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from arena.loop import MAX_ROLLBACKS, Hooks, run_training
from arena.rundir import ControlMessage, RunDir
from tests.arena.training_kit import ToyTrainer, losses, make_run, records
from vault import manifest as manifests

GIB = 1 << 30


def events(run_dir: RunDir, name: str) -> list[dict[str, Any]]:
    return [r for r in records(run_dir, "event") if r["name"] == name]


def test_a_bad_batch_never_touches_the_weights_and_is_passed_over(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=6, bad_batches=[2])
    trainer = ToyTrainer()
    outcome = run_training(trainer, run_dir, job)
    assert (outcome.status, outcome.step) == ("completed", 6)
    assert trainer.updates == [0, 1, 3, 4, 5, 6]
    (event,) = events(run_dir, "nonfinite")
    assert (event["batch"], event["loss"], event["action"]) == (2, "nan", "batch skipped")
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    state = json.loads((run_dir.path / outcome.checkpoint / "state.json").read_text())
    assert (state["loop"]["cursor"], state["loop"]["skipped"]) == (7, [[2, 3]])


def test_three_bad_batches_roll_back_and_go_on_behind_the_data(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=9, save_every_steps=4, bad_batches=[6, 7, 8], keep_checkpoints=9)
    trainer = ToyTrainer()
    outcome = run_training(trainer, run_dir, job)
    assert outcome.status == "completed"
    (event,) = events(run_dir, "rollback")
    assert event["checkpoint"].startswith("checkpoint-4-")
    assert event["skipped_batches"] == [4, 9]
    assert trainer.updates == [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13]
    state = json.loads((run_dir.path / outcome.checkpoint / "state.json").read_text())
    assert state["loop"]["skipped"] == [[4, 9]]
    assert state["loop"]["rollbacks"] == 1


def test_a_rollback_before_the_first_checkpoint_returns_to_the_start(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=4, save_every_steps=None, bad_batches=[1, 2, 3])
    trainer = ToyTrainer()
    outcome = run_training(trainer, run_dir, job)
    assert outcome.status == "completed"
    assert trainer.updates == [0, 4, 5, 6, 7]
    assert events(run_dir, "rollback")[0]["checkpoint"] is None
    # Had batch 0 never been seen, the weights would be these:
    fresh, job = make_run(tmp_path / "fresh", max_steps=4, save_every_steps=None, bad_batches=[0, 1, 2])
    again = run_training(ToyTrainer(), fresh, job)
    first, second = (
        json.loads((d.path / o.checkpoint / "state.json").read_text()) for d, o in ((run_dir, outcome), (fresh, again))
    )
    assert first["loop"]["skipped"] == [[0, 4]]
    assert second["loop"]["skipped"] == [[0, 3]]


def test_a_run_that_stays_bad_fails_after_its_rollbacks(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=9, save_every_steps=2, bad_batches=list(range(3, 999)))
    outcome = run_training(ToyTrainer(), run_dir, job)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error["code"] == "diverged"
    assert len(events(run_dir, "rollback")) == MAX_ROLLBACKS
    assert outcome.checkpoint is not None
    assert manifests.verify(run_dir.path / outcome.checkpoint).card["run_step"] == 2


def test_sick_weights_are_replaced_by_the_last_good_ones(tmp_path: Path) -> None:
    """The weights themselves make every batch bad; only the roll-back can cure that."""
    straight, job = make_run(tmp_path / "straight", max_steps=4, save_every_steps=1)
    trainer = ToyTrainer()
    run_training(trainer, straight, job)
    limit = sum(p.sum().item() for p in trainer.model.parameters()) - 1e-4
    run_dir, job = make_run(tmp_path / "r", max_steps=8, save_every_steps=1, bad_above_weight=limit, keep_checkpoints=9)
    run_training(ToyTrainer(), run_dir, job)
    assert events(run_dir, "rollback")
    for record in records(run_dir, "step"):
        assert record["loss"] is not None


def test_an_infinite_gradient_counts_as_not_finite(tmp_path: Path) -> None:
    class Explodes(ToyTrainer):
        def train_step(self, step: int, cursor: int) -> Any:
            result = super().train_step(step, cursor)
            return type(result)(**{**vars(result), "grad_norm": float("inf")}) if cursor == 1 else result

    run_dir, job = make_run(tmp_path / "r", max_steps=4)
    trainer = Explodes()
    run_training(trainer, run_dir, job)
    assert trainer.updates == [0, 2, 3, 4]
    assert events(run_dir, "nonfinite")[0]["grad_norm"] == "inf"


def test_a_full_disk_pauses_training_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=4, save_every_steps=2)
    room = [0]
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            room[0] = GIB

    outcome = run_training(ToyTrainer(), run_dir, job, Hooks(free=lambda _: room[0], sleep=sleep))
    assert outcome.status == "completed"
    assert len(naps) == 3
    (event,) = events(run_dir, "disk_full")
    assert (event["needed"], event["free"]) == (2000, 0)
    assert len(events(run_dir, "disk_has_room")) == 1
    assert losses(run_dir).keys() == {1, 2, 3, 4}


def test_the_floor_of_the_job_is_not_touched(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=1)
    job = job.model_copy(update={"disk_floor_bytes": 5000})
    free = [6999, 6999, 7001]
    hooks = Hooks(free=lambda _: free[0], sleep=lambda _: free.pop(0) and None)
    assert run_training(ToyTrainer(), run_dir, job, hooks).status == "completed"
    assert events(run_dir, "disk_full")[0]["needed"] == 7000


def test_no_space_in_the_middle_of_a_save_leaves_nothing_behind(tmp_path: Path) -> None:
    class FullOnce(ToyTrainer):
        failures = 1

        def save(self, folder: Path) -> dict[str, Any]:
            (folder / "half.bin").write_bytes(b"x" * 1000)
            if self.failures:
                self.failures -= 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.safetensors"))
            (folder / "half.bin").unlink()
            return super().save(folder)

    run_dir, job = make_run(tmp_path / "r", max_steps=2, save_every_steps=1)
    outcome = run_training(FullOnce(), run_dir, job, Hooks(sleep=lambda _: None))
    assert outcome.status == "completed"
    assert len(events(run_dir, "disk_full")) == 1
    assert not list(run_dir.path.glob(".tmp-*"))
    assert sorted(r["step"] for r in records(run_dir, "checkpoint")) == [1, 2]


def test_stop_is_obeyed_while_the_disk_is_full(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=4, save_every_steps=2)
    hooks = Hooks(free=lambda _: 0, sleep=lambda _: run_dir.send(ControlMessage("c1", "stop")))
    outcome = run_training(ToyTrainer(), run_dir, job, hooks)
    assert (outcome.status, outcome.step, outcome.checkpoint) == ("stopped", 2, None)
    assert "not saved" in records(run_dir, "control")[0]["effect"]


@pytest.mark.needs_root
def test_a_really_full_file_system(tmp_path: Path) -> None:
    """A 1 MiB tmpfs is filled during training; the run waits and goes on when the filler is gone."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], check=True)
    try:
        run_dir, job = make_run(mount / "r", max_steps=6, save_every_steps=2, width=4000)
        filler = mount / "filler"

        class Fills(ToyTrainer):
            def train_step(self, step: int, cursor: int) -> Any:
                if step == 3:
                    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
                        while file.write(b"x" * 4096):
                            pass
                return super().train_step(step, cursor)

        naps = []

        def sleep(_: float) -> None:
            naps.append(1)
            if len(naps) == 2:
                filler.unlink()

        outcome = run_training(Fills(), run_dir, job, Hooks(sleep=sleep))
        assert (outcome.status, outcome.step) == ("completed", 6)
        assert naps
        assert manifests.verify(run_dir.path / outcome.checkpoint)
        assert losses(run_dir).keys() == {1, 2, 3, 4, 5, 6}
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


class Poisoned(ToyTrainer):
    """Batches of a stretch ask for something absurd, and what is learned from them stays."""

    poison = range(0)

    def batch(self, cursor: int) -> Any:
        x, y = super().batch(cursor)
        return (x, y + 30.0) if cursor in self.poison else (x, y)


def test_a_loss_that_jumps_and_stays_up_is_rolled_back_behind_its_data(tmp_path: Path) -> None:
    trainer = Poisoned()
    trainer.poison = range(70, 90)
    run_dir, job = make_run(tmp_path / "r", max_steps=120, save_every_steps=10, dropout=0.0, keep_checkpoints=99)
    outcome = run_training(trainer, run_dir, job)
    assert outcome.status == "completed"
    (spike,) = events(run_dir, "loss_spike")
    (rollback,) = events(run_dir, "rollback")
    assert spike["since"] == 71
    assert rollback["checkpoint"].startswith("checkpoint-70-")
    assert rollback["skipped_batches"] == [70, 90]
    newer = [r["checkpoint"] for r in events(run_dir, "checkpoint_quarantined")]
    assert all(name.startswith(".quarantine-checkpoint-80-") for name in newer)
    assert len(newer) == 1
    assert losses_after(run_dir)[-1] < 1.0


def losses_after(run_dir: RunDir) -> list[float]:
    return [r["loss"] for r in records(run_dir, "step")]


def test_a_short_rise_of_the_loss_is_let_be(tmp_path: Path) -> None:
    trainer = Poisoned()
    trainer.poison = range(70, 72)
    run_dir, job = make_run(tmp_path / "r", max_steps=110, save_every_steps=10, dropout=0.0)
    assert run_training(trainer, run_dir, job).status == "completed"
    assert not events(run_dir, "loss_spike")


def test_a_loss_that_stays_up_whatever_is_done_is_left_alone_in_the_end(tmp_path: Path) -> None:
    class Noise(ToyTrainer):
        def batch(self, cursor: int) -> Any:
            x, y = super().batch(cursor)
            sign = 1.0 if cursor % 2 else -1.0
            return (x, y + 30.0 * sign) if cursor >= 70 else (x, y)

    run_dir, job = make_run(tmp_path / "r", max_steps=160, save_every_steps=10, dropout=0.0)
    outcome = run_training(Noise(), run_dir, job)
    assert (outcome.status, outcome.step) == ("completed", 160)
    assert [r["action"] for r in events(run_dir, "loss_spike")][:4] == ["rolled back"] * 3 + ["left alone"]
