"""A process to be killed: `python -m tests.arena.resume_child RUN_DIR TRAINER [KILL_POINT COUNT]`.

With a kill point it kills itself with SIGKILL the COUNT-th time that the loop passes the named point of a save
(`before_manifest`, …) or, for `step`, right before the COUNT-th update.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from arena.jobs import read_job
from arena.loop import Hooks, run_training
from arena.rundir import RunDir
from tests.arena.training_kit import ToyTrainer


def main(folder: str, trainer_name: str, point: str = "", count: str = "0") -> int:
    left = [int(count)]

    def pass_by(reached: str) -> None:
        if reached == point:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    trainer: Any = ToyTrainer()
    if trainer_name == "sft":
        from arena.trainers.sft import SftTrainer

        trainer = SftTrainer()
    update = trainer.apply_update

    def apply_update() -> None:
        pass_by("step")
        update()

    trainer.apply_update = apply_update
    run_dir = RunDir(Path(folder))
    outcome = run_training(trainer, run_dir, read_job(run_dir.path), Hooks(fault=pass_by))
    return 0 if outcome.status == "completed" else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
