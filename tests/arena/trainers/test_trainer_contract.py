"""The contract suite against the trainers of the arena: the toy, and sft whole and with adapters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from arena.trainers.contract import RunContext
from arena.trainers.sft import SftTrainer
from tests.arena.trainers.contract_suite import PROMISES
from tests.arena.training_kit import ToyTrainer, addition_rows, make_run

CONFIGS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "toy": (ToyTrainer, {}),
    "sft": (SftTrainer, {"validation_fraction": 0.2}),
    "sft with adapters": (SftTrainer, {"lora": {"r": 4, "alpha": 8, "dropout": 0.2}}),
    "sft packed": (SftTrainer, {"packing": True, "micro_batch_tokens": 128}),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promise(
    tmp_path: Path, squire_dir: Path, name: str, promise: Callable[[Callable[[], Any], Path], None]
) -> None:
    kind, options = CONFIGS[name]
    number = itertools.count()

    def make() -> Any:
        config = options
        if kind is SftTrainer:
            config = {"device": "cpu", "max_steps": 8, "batch_size": 8, "max_length": 64, **options}
        run_dir, job = make_run(
            tmp_path / f"run{next(number)}",
            rows=addition_rows(60),
            evaluation=addition_rows(10, seed=4),
            model_dir=squire_dir,
            **config,
        )
        torch.manual_seed(job.seed)
        trainer = kind()
        trainer.build(RunContext(run_dir.path, job, lambda *_, **__: None, device="cpu"))
        return trainer

    promise(make, tmp_path)
