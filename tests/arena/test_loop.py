"""The loop on a toy trainer: order of things, control, measuring, saving, failing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from arena.checkpoints import FenceLostError
from arena.jobs import JobFile
from arena.loop import Hooks, run_training
from arena.rundir import Attempt, ControlMessage, Outcome, RunDir
from arena.trainers.contract import Trainer
from realm.errors import ConfigError
from tests.arena.training_kit import ToyTrainer, assert_same_tensors, losses, make_run, records
from vault import manifest as manifests


def run(
    folder: Path, trainer: ToyTrainer | None = None, hooks: Hooks | None = None, **config: Any
) -> tuple[RunDir, Outcome]:
    run_dir, job = make_run(folder, **config)
    return run_dir, run_training(trainer or ToyTrainer(), run_dir, job, hooks)


class Scripted(ToyTrainer):
    """Calls a function before each step, at a moment that a test can name."""

    def __init__(self, script: dict[int, Any]) -> None:
        self.script = script

    def train_step(self, step: int, cursor: int) -> Any:
        if step in self.script:
            self.script.pop(step)()
        return super().train_step(step, cursor)


def test_the_toy_is_a_trainer(tmp_path: Path) -> None:
    trainer = ToyTrainer()
    run(tmp_path / "r", trainer, max_steps=1)
    assert isinstance(trainer, Trainer)


def test_a_run_ends_with_a_final_evaluation_a_final_checkpoint_and_an_outcome(tmp_path: Path) -> None:
    run_dir, outcome = run(tmp_path / "r", max_steps=5, save_every_steps=None)
    assert (outcome.status, outcome.step) == ("completed", 5)
    assert run_dir.outcome() == outcome
    assert [r["step"] for r in records(run_dir, "step")] == [1, 2, 3, 4, 5]
    assert [r["step"] for r in records(run_dir, "validation")] == [5]
    (checkpoint,) = records(run_dir, "checkpoint")
    assert (checkpoint["step"], checkpoint["reason"], checkpoint["name"]) == (5, "final", outcome.checkpoint)
    manifest = manifests.verify(run_dir.path / outcome.checkpoint)
    assert manifest.sha256() == checkpoint["manifest_sha256"]
    assert manifest.card["run_step"] == 5
    assert manifest.card["val_loss"] == records(run_dir, "validation")[0]["val_loss"]
    assert manifest.card["train_loss"] == pytest.approx(sum(losses(run_dir).values()) / 5)
    assert records(run_dir)[-1]["phase"] == "done"


def test_evaluation_comes_before_saving_and_both_at_their_intervals(tmp_path: Path) -> None:
    run_dir, _ = run(tmp_path / "r", max_steps=6, save_every_steps=3, eval_every_steps=2)
    order = [(r["kind"], r["step"]) for r in records(run_dir) if r["kind"] in ("validation", "checkpoint")]
    assert order == [("validation", 2), ("checkpoint", 3), ("validation", 4), ("validation", 6), ("checkpoint", 6)]


def test_hero_steps_count_on_from_earlier_runs(tmp_path: Path) -> None:
    run_dir, outcome = run(tmp_path / "r", max_steps=2, hero_step=1000)
    assert outcome.checkpoint is not None
    assert outcome.checkpoint.startswith("checkpoint-1002-")
    state = json.loads((run_dir.path / outcome.checkpoint / "state.json").read_text())
    assert (state["run_step"], state["hero_step"]) == (2, 1002)


def test_saving_measuring_and_pausing_change_no_bit_of_training(tmp_path: Path) -> None:
    quiet, first = run(tmp_path / "quiet", max_steps=12, save_every_steps=None)
    trainer = Scripted({})
    busy, job = make_run(tmp_path / "busy", max_steps=12, save_every_steps=1, eval_every_steps=1)
    trainer.script = {5: lambda: busy.send(ControlMessage("a", "pause"))}
    hooks = Hooks(sleep=lambda _: busy.send(ControlMessage("b", "resume")))
    second = run_training(trainer, busy, job, hooks)
    assert losses(quiet) == losses(busy)
    assert first.data_hash == second.data_hash
    assert_same_tensors(quiet.path / first.checkpoint, busy.path / second.checkpoint)


def test_pause_saves_holds_in_memory_and_resume_goes_on(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=6, save_every_steps=None)
    trainer = Scripted({2: lambda: run_dir.send(ControlMessage("c1", "pause"))})
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            assert [r["reason"] for r in records(run_dir, "checkpoint")] == ["pause"]
            assert records(run_dir, "phase")[-1]["phase"] == "paused"
            run_dir.send(ControlMessage("c2", "resume"))

    outcome = run_training(trainer, run_dir, job, Hooks(sleep=sleep))
    assert outcome.status == "completed"
    assert [(r["id"], r["verb"], r["step"]) for r in records(run_dir, "control")] == [
        ("c1", "pause", 3),
        ("c2", "resume", 3),
    ]
    assert trainer.updates == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("verb", "status"), [("stop", "stopped"), ("skip", "skipped")])
def test_stop_and_skip_save_and_end(tmp_path: Path, verb: Any, status: str) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=9, save_every_steps=None)
    outcome = run_training(Scripted({3: lambda: run_dir.send(ControlMessage("c1", verb))}), run_dir, job)
    assert (outcome.status, outcome.step) == (status, 4)
    assert manifests.verify(run_dir.path / outcome.checkpoint).card["run_step"] == 4
    assert records(run_dir, "control")[0]["effect"].startswith("saved")


def test_stop_while_paused_ends_without_a_second_save(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=9, save_every_steps=None)
    hooks = Hooks(sleep=lambda _: run_dir.send(ControlMessage("c2", "stop")))
    outcome = run_training(Scripted({1: lambda: run_dir.send(ControlMessage("c1", "pause"))}), run_dir, job, hooks)
    assert outcome.status == "stopped"
    assert len(records(run_dir, "checkpoint")) == 1


def test_sigterm_means_stop(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=9, save_every_steps=None)
    before = signal.getsignal(signal.SIGTERM)
    outcome = run_training(Scripted({3: lambda: os.kill(os.getpid(), signal.SIGTERM)}), run_dir, job)
    assert (outcome.status, outcome.step) == ("stopped", 4)
    assert outcome.checkpoint
    assert signal.getsignal(signal.SIGTERM) == before


def test_save_now_saves_once_for_each_id(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=6, save_every_steps=None)
    ask = ControlMessage("c1", "save")
    outcome = run_training(Scripted({1: lambda: run_dir.send(ask), 3: lambda: run_dir.send(ask)}), run_dir, job)
    assert outcome.status == "completed"
    assert [r["step"] for r in records(run_dir, "checkpoint")] == [2, 6]
    assert len(records(run_dir, "control")) == 1


def test_a_restarted_run_does_not_obey_again_but_stays_paused(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=6, save_every_steps=None)

    class Killed(BaseException):
        pass

    def die(_: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        run_training(Scripted({1: lambda: run_dir.send(ControlMessage("c1", "pause"))}), run_dir, job, Hooks(sleep=die))
    outcome = run_training(
        ToyTrainer(), run_dir, job, Hooks(sleep=lambda _: run_dir.send(ControlMessage("c2", "resume")))
    )
    assert outcome.status == "completed"
    assert [r["id"] for r in records(run_dir, "control")] == ["c1", "c2"]
    phases = [r["phase"] for r in records(run_dir, "phase")]
    assert phases.count("paused") == 2


def test_time_based_saving_follows_the_clock_alone(tmp_path: Path) -> None:
    ticks = iter(range(10**6))
    run_dir, _ = run(
        tmp_path / "r",
        hooks=Hooks(monotonic=lambda: float(next(ticks))),
        max_steps=20,
        save_every_steps=None,
        save_every_s=30.0,
    )
    reasons = [r["reason"] for r in records(run_dir, "checkpoint")]
    assert "time" in reasons
    assert reasons[-1] == "final"


def test_a_bad_job_fails_with_its_code_and_closes_the_trainer(tmp_path: Path) -> None:
    class Refuses(ToyTrainer):
        closed = 0

        def build(self, context: Any) -> None:
            raise ConfigError("The key is wrong.", hint="Use another.")

    trainer = Refuses()
    _, outcome = run(tmp_path / "r", trainer)
    assert outcome.status == "failed"
    assert outcome.error == {"code": "bad_config", "message": "The key is wrong.", "hint": "Use another."}
    assert trainer.closed == 1


def test_an_unexpected_error_is_an_outcome_with_its_traceback_in_the_log(tmp_path: Path, capsys: Any) -> None:
    class Breaks(ToyTrainer):
        def apply_update(self) -> None:
            raise ZeroDivisionError("in the update")

    _, outcome = run(tmp_path / "r", Breaks())
    assert outcome.error is not None
    assert outcome.error["code"] == "trainer_error"
    assert "in the update" in outcome.error["message"]
    assert "Traceback" in capsys.readouterr().err


def test_a_replaced_attempt_commits_nothing(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=9, save_every_steps=4)
    trainer = Scripted({3: lambda: run_dir.write_attempt(Attempt(2, 2, None))})
    with pytest.raises(FenceLostError):
        run_training(trainer, run_dir, job)
    assert run_dir.checkpoints() == []
    assert run_dir.outcome() is None
    assert not list(run_dir.path.glob(".tmp-*"))


def test_the_best_checkpoint_is_kept_by_rotation(tmp_path: Path) -> None:
    class GetsWorse(ToyTrainer):
        def evaluate(self) -> Any:
            from arena.trainers.contract import Measured, Score

            return Measured((), Score("accuracy", -float(len(self.updates))))

    run_dir, _ = run(tmp_path / "r", GetsWorse(), max_steps=10, save_every_steps=2, eval_every_steps=2)
    steps = sorted(manifests.parse_name(path.name)[0] for path in run_dir.checkpoints())
    assert steps == [2, 8, 10]
    deleted = [r["checkpoint"] for r in records(run_dir, "event") if r["name"] == "checkpoint_deleted"]
    assert len(deleted) == 2


def test_memory_pressure_halves_the_micro_batch_and_repeats_the_step(tmp_path: Path) -> None:
    roomy, first = run(tmp_path / "roomy", max_steps=6, save_every_steps=None)
    trainer = ToyTrainer()
    tight, second = run(tmp_path / "tight", trainer, max_steps=6, save_every_steps=None, memory_rows=2)
    assert second.status == "completed"
    assert trainer.updates == [0, 1, 2, 3, 4, 5]
    assert first.data_hash == second.data_hash
    events = [r["micro_batch"] for r in records(tight, "event") if r["name"] == "out_of_memory"]
    assert events == [4, 2]
    assert list(losses(tight).values()) == pytest.approx(list(losses(roomy).values()), rel=1e-5)


def test_too_little_memory_for_one_row_fails_with_advice(tmp_path: Path) -> None:
    _, outcome = run(tmp_path / "r", memory_rows=0)
    assert outcome.error is not None
    assert outcome.error["code"] == "out_of_memory"
    assert "gradient_checkpointing" in outcome.error["hint"]


def test_an_outcome_of_an_earlier_attempt_is_replaced(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=4)
    run_dir.write_outcome(Outcome("failed", 0, 0))
    outcome = run_training(ToyTrainer(), run_dir, job)
    assert run_dir.outcome() == outcome
    assert outcome.fence == 1


def test_a_finished_run_that_is_started_again_only_says_so(tmp_path: Path) -> None:
    run_dir, job = make_run(tmp_path / "r", max_steps=4)
    first = run_training(ToyTrainer(), run_dir, job)
    trainer = ToyTrainer()
    again = run_training(trainer, run_dir, job)
    assert isinstance(job, JobFile)
    assert (again.status, again.checkpoint, again.data_hash) == ("completed", first.checkpoint, first.data_hash)
    assert trainer.updates == []
    assert len(records(run_dir, "checkpoint")) == 2
