"""What every trainer must keep, as one function per promise: call them from a test with a way to make a built trainer.

`make()` returns a new trainer on which `build` was called, always for the same job, on a CPU. The promises are those
in the text of `arena.trainers.contract`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from arena.trainers import rng
from arena.trainers.contract import Declares, Measured, StepResult, Trainer
from tests.arena.training_kit import assert_same_tensors, tensors

Make = Callable[[], Any]


def saved(trainer: Any, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    state = trainer.save(folder)
    assert isinstance(state, dict)
    return state


def has_the_members(make: Make, folder: Path) -> None:
    trainer = make()
    assert isinstance(trainer, Trainer)
    assert issubclass(type(trainer).config_model, BaseModel)
    assert isinstance(type(trainer).declares, Declares)
    assert trainer.max_steps > 0
    assert trainer.checkpoint_bytes > 0
    trainer.close()


def a_step_changes_nothing_until_it_is_applied(make: Make, folder: Path) -> None:
    trainer = make()
    trainer.train_step(0, 0)  # whatever is made lazily is there now
    trainer.apply_update()
    saved(trainer, folder / "before")
    result = trainer.train_step(1, 1)
    assert isinstance(result, StepResult)
    assert result.finite
    assert len(result.samples) % 8 == 0
    assert len(result.samples) > 0
    trainer.discard_update()
    saved(trainer, folder / "after")
    assert_same_tensors(folder / "before", folder / "after")
    trainer.train_step(1, 1)
    trainer.apply_update()
    saved(trainer, folder / "applied")
    same = [torch.equal(a, b) for a, b in zip(_all(folder / "after"), _all(folder / "applied"), strict=True)]
    assert not all(same)
    trainer.close()


def the_same_cursor_is_the_same_batch(make: Make, folder: Path) -> None:
    first, second = make(), make()
    rng.seed_everything(1)
    forward = [first.train_step(0, cursor).samples for cursor in range(4)]
    rng.seed_everything(2)
    backward = [second.train_step(0, cursor).samples for cursor in reversed(range(4))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 4
    for trainer in (second, first):  # the last one built is the first to go, as nested settings ask
        trainer.discard_update()
        trainer.close()


def restoring_gives_the_same_bits(make: Make, folder: Path) -> None:
    trainer = make()
    rng.seed_everything(3)
    for step in range(3):
        trainer.train_step(step, step)
        trainer.apply_update()
    state = saved(trainer, folder / "middle")
    streams = rng.capture()
    for step in range(3, 6):
        trainer.train_step(step, step)
        trainer.apply_update()
    saved(trainer, folder / "straight")
    trainer.close()
    other = make()
    other.restore(folder / "middle", state)
    rng.restore(streams)
    for step in range(3, 6):
        other.train_step(step, step)
        other.apply_update()
    saved(other, folder / "resumed")
    other.close()
    assert_same_tensors(folder / "straight", folder / "resumed")


def measuring_changes_nothing_that_training_sees(make: Make, folder: Path) -> None:
    trainer = make()
    trainer.train_step(0, 0)
    trainer.apply_update()
    saved(trainer, folder / "before")
    with rng.preserved():
        measured = trainer.evaluate()
        trainer.card(1)
    assert isinstance(measured, Measured)
    assert all("kind" in record for record in measured.records)
    saved(trainer, folder / "after")
    assert_same_tensors(folder / "before", folder / "after")
    trainer.close()


def resetting_is_building_again(make: Make, folder: Path) -> None:
    trainer, fresh = make(), make()
    for step in range(2):
        trainer.train_step(step, step)
        trainer.apply_update()
    trainer.reset()
    for one in (trainer, fresh):
        rng.seed_everything(4)
        one.train_step(0, 0)
        one.apply_update()
    saved(trainer, folder / "reset")
    saved(fresh, folder / "fresh")
    fresh.close()
    trainer.close()
    assert_same_tensors(folder / "reset", folder / "fresh")


def shrinking_ends_and_keeps_the_batch(make: Make, folder: Path) -> None:
    trainer = make()
    wanted = trainer.train_step(0, 0)
    trainer.discard_update()
    rounds = 0
    while (changed := trainer.shrink()) is not None:
        assert changed
        rounds += 1
        assert rounds < 40
        result = trainer.train_step(0, 0)
        trainer.discard_update()
        assert (result.samples, result.loss_tokens) == (wanted.samples, wanted.loss_tokens)
    trainer.close()


def only_plain_files_are_written(make: Make, folder: Path) -> None:
    trainer = make()
    trainer.train_step(0, 0)
    trainer.apply_update()
    saved(trainer, folder / "checkpoint")
    (folder / "export").mkdir()
    trainer.export(folder / "export")
    trainer.close()
    written = [path for part in ("checkpoint", "export") for path in (folder / part).rglob("*")]
    assert not {path.suffix for path in written} & {".pt", ".pth", ".bin", ".pkl", ".ckpt", ".npy"}
    assert list((folder / "export").iterdir())


def closing_leaves_no_settings_behind(make: Make, folder: Path) -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), np.geterr(), random.getstate()[0])
    make().close()
    assert before == (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        np.geterr(),
        random.getstate()[0],
    )


PROMISES = [
    has_the_members,
    a_step_changes_nothing_until_it_is_applied,
    the_same_cursor_is_the_same_batch,
    restoring_gives_the_same_bits,
    measuring_changes_nothing_that_training_sees,
    resetting_is_building_again,
    shrinking_ends_and_keeps_the_batch,
    only_plain_files_are_written,
    closing_leaves_no_settings_behind,
]


def _all(folder: Path) -> list[torch.Tensor]:
    return list(tensors(folder).values())
