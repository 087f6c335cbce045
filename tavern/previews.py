"""Which parts of a job's first examples are trained and which are masked, by the tokenizer of the job's own hero.

Loads a tokenizer but never torch. Where there is none, or an example cannot be tokenized, there is no preview.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from arena.gatekeepers.preview import TokenCounter
from realm.errors import RealmError
from vault.records import Hero, Job

Preview = list[list[tuple[str, bool]]]
ROWS = 2
SHOWN_CHARACTERS = 4000


def token_preview(job: Job, hero: Hero, home: Path) -> Preview:
    """Return for each of the first examples its text in stretches: (text, trained)."""
    examples = [row for row in (job.report or {}).get("examples") or [] if isinstance(row, dict)]
    folder = home / hero.model_dir
    if not examples or not (folder / "tokenizer.json").is_file():
        return []
    try:
        counter = _counter(folder, (folder / "tokenizer.json").stat().st_mtime_ns)
        return [_stretches(counter.preview(row)) for row in examples[:ROWS]]
    except (RealmError, OSError, ValueError, KeyError, TypeError):
        return []


@lru_cache(maxsize=4)
def _counter(folder: Path, _changed_ns: int) -> TokenCounter:
    return TokenCounter(folder)


def _stretches(tokens: list[Any]) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    left = SHOWN_CHARACTERS
    for trained, group in groupby(tokens, key=lambda pair: bool(pair[1])):
        text = "".join(str(pair[0]) for pair in group)
        if left <= 0:
            return [*found, ("…", False)]
        found.append((text[:left], trained))
        left -= len(text)
    return found
