"""A tiny and a small squire, made once for all trainer tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from arena.squire import build_squire
from arena.trainers.sft.chat import ChatTokenizer
from arena.trainers.sft.warm import WARM
from tests.arena.training_kit import squire_corpus


@pytest.fixture(scope="session")
def squire_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of the size `tiny`, with its tokenizer."""
    return build_squire(tmp_path_factory.mktemp("models") / "squire", squire_corpus(), size="tiny", seed=0)


@pytest.fixture(scope="session")
def tokenizer(squire_dir: Path) -> ChatTokenizer:
    return ChatTokenizer(squire_dir)


@pytest.fixture(autouse=True)
def cold() -> Iterator[None]:
    """Each test begins with nothing in memory and leaves torch as it found it."""
    WARM.clear()
    yield
    WARM.clear()
    assert not torch.are_deterministic_algorithms_enabled()
