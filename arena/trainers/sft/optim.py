"""AdamW and the learning rate as a function of the step.

The schedule belongs to the run and is a pure function, so nothing of it has to be saved; the averages belong to the
hero and travel from run to run by parameter name (safetensors, never pickle).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from arena.trainers.sft.config import SftConfig

OPTIMIZER_FILE = "optimizer.safetensors"
_AVERAGES = ("exp_avg", "exp_avg_sq")


def learning_rate(config: SftConfig, step: int, max_steps: int) -> float:
    """Return the learning rate of update number `step` (0-based) out of `max_steps`."""
    warmup = min(config.warmup_steps, max(1, max_steps // 10))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    low = config.min_lr_ratio
    progress = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    if config.schedule == "constant":
        share = 1.0
    elif config.schedule == "linear":
        share = low + (1 - low) * (1 - progress)
    elif config.schedule == "wsd":
        share = low + (1 - low) * min(1.0, (1 - progress) / 0.2)
    else:
        share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share


def make_optimizer(named: Iterable[tuple[str, nn.Parameter]], config: SftConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters: decay on matrices, none on norms and biases."""
    trainable = [p for _, p in named if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def save_optimizer(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], folder: Path) -> dict[str, int]:
    """Write the averages by parameter name; return each parameter's own count of updates."""
    tensors: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    for name, parameter in named.items():
        state = optimizer.state.get(parameter)
        if not state:
            continue
        steps[name] = int(state["step"])
        for average in _AVERAGES:
            tensors[f"{average}.{name}"] = state[average].contiguous()
    save_file(tensors, folder / OPTIMIZER_FILE)
    return steps


def load_optimizer(
    optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], folder: Path, steps: dict[str, Any]
) -> int:
    """Put saved averages back by name; return how many parameters got theirs. Others begin afresh."""
    restored = 0
    with safe_open(str(folder / OPTIMIZER_FILE), framework="pt") as file:
        names = set(file.keys())
        for name, parameter in named.items():
            keys = [f"{average}.{name}" for average in _AVERAGES]
            if name not in steps or not names.issuperset(keys):
                continue
            values = [file.get_tensor(key) for key in keys]
            if any(value.shape != parameter.shape for value in values):
                continue
            optimizer.state[parameter] = {
                "step": torch.tensor(float(steps[name]), dtype=torch.float32, device=_step_device(parameter)),
                "exp_avg": values[0].to(parameter.device, parameter.dtype),
                "exp_avg_sq": values[1].to(parameter.device, parameter.dtype),
            }
            restored += 1
    return restored


def _step_device(parameter: nn.Parameter) -> torch.device:
    """Fused AdamW counts its updates on the parameter's own device."""
    return parameter.device
