"""The state of every random generator that training may use, as JSON: torch on CPU and CUDA, numpy, random.

States are bytes and numbers in base64; no pickle. `capture` then `restore` gives the same stream, in any process with
the same versions (tests/arena/test_loop_resume.py).
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """Return the state of all generators."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "torch": _encode(torch.get_rng_state().numpy().tobytes()),
        "python": [version, _encode(np.array(words, dtype=np.uint64).tobytes()), gauss],
        "numpy": {
            "key": _encode(numpy_state["state"]["key"].tobytes()),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
    }
    if torch.cuda.is_available():
        state["cuda"] = [_encode(one.numpy().tobytes()) for one in torch.cuda.get_rng_state_all()]
    return state


def restore(state: dict[str, Any]) -> None:
    """Put all generators where `capture` found them. CUDA states are left out where there are other devices."""
    torch.set_rng_state(_tensor(state["torch"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(np.frombuffer(base64.b64decode(words), dtype=np.uint64).tolist()), gauss))
    saved = state["numpy"]
    key = np.frombuffer(base64.b64decode(saved["key"]), dtype=np.uint32)
    np.random.set_state(("MT19937", key, saved["pos"], saved["has_gauss"], saved["gauss"]))
    devices = state.get("cuda", [])
    if devices and torch.cuda.is_available() and torch.cuda.device_count() == len(devices):
        torch.cuda.set_rng_state_all([_tensor(one) for one in devices])


def seed_everything(seed: int) -> None:
    """Begin every stream at a seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Leave torch's streams as they were found."""
    before = snapshot()
    try:
        yield
    finally:
        rewind(before)


def snapshot() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return torch's streams for `rewind`: a few microseconds."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda


def rewind(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
