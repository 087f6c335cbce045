"""How strictly the gatekeepers look, and what they are lent for it by those above them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from arena.formats import DEFAULT_LIMITS, Limits, Row

RowCheck = Callable[[Row], str | None]
"""Returns why a row must not be trained on, or None."""


class Depth(IntEnum):
    """How much is looked at.

    Every depth reads every row, holds it against the known kinds and asks the row checks, because all rows are
    trained on. QUICK judges the content of the first 200; STANDARD of all of them, and looks for exact duplicates;
    DEEP also runs every row through the tokenizer and looks for near duplicates and near copies of evaluation problems.
    """

    QUICK = 0
    STANDARD = 1
    DEEP = 2

    @classmethod
    def of(cls, name: str) -> Depth:
        return cls[name.upper()]


@dataclass(frozen=True)
class Lengths:
    """What a memory estimate needs to know of the rows, in tokens; estimates unless `exact`."""

    rows: int
    longest: int
    mean: float
    exact: bool


@dataclass(frozen=True)
class Policy:
    """What to let in."""

    depth: Depth = Depth.STANDARD
    max_bad_rows: float = 0.05
    """Share of bad rows above which the file is refused."""
    kinds: frozenset[str] | None = None
    """Kinds of rows that are let in; None means every known one."""
    max_tokens: int | None = None
    """Rows beyond are counted and warned of; DEEP turns them down. Needs a tokenizer."""
    tokenizer_dir: Path | None = None
    """The model folder whose tokenizer and template the run will use."""
    profile: str = "plain_sft"
    """How the run will dress the rows."""
    drop_duplicates: bool = False
    """Turn down exact duplicates; otherwise they are counted and trained on as often as they occur."""
    row_checks: Sequence[RowCheck] = ()
    """Checks from above, on every row at every depth. What they turn down is withheld, not bad."""
    held_out_texts: Callable[[], Iterable[str]] | None = None
    """Texts of evaluation problems; DEEP withholds rows that ask one of them in other spacing or case."""
    estimate_memory: Callable[[Lengths], Mapping[str, Any]] | None = None
    """Predicts the memory of the run; its answer goes into the report."""
    limits: Limits = DEFAULT_LIMITS
