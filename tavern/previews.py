"""Which parts of a job's first examples are trained and which are masked, by the tokenizer of the job's own hero.

Loads a tokenizer but never torch. A tokenizer comes from outside: whatever it does, the answer is a preview or an error
in words. tests/tavern/test_previews.py.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from arena.gatekeepers.preview import TokenCounter
from realm.errors import ConflictError, NotFoundError, RealmError
from tavern.problems import scrub
from vault.records import Hero, Job

Preview = list[list[tuple[str, bool]]]
ROWS = 2
SHOWN_CHARACTERS = 4000


def token_preview(job: Job, hero: Hero, home: Path) -> Preview:
    """Return for each of the first examples its text in stretches: (text, trained).

    Raises NotFoundError when the job kept no example, ConflictError when there is no tokenizer yet or it fails.
    """
    report = job.report or {}
    examples = [row for row in report.get("examples") or [] if isinstance(row, dict)]
    if not examples:
        raise NotFoundError(
            "This job has no preview: its report holds no example.",
            code="preview_not_found",
            hint="Rows that passed the gatekeepers are shown here.",
        )
    folder = home / hero.model_dir
    if not (folder / "tokenizer.json").is_file():
        raise ConflictError(
            f"{hero.name} has no tokenizer yet, so nobody can say which parts of a row are trained.",
            code="no_tokenizer",
            hint="It comes with the base model, which is made before the first run.",
        )
    profile = str({**hero.config, **job.config}.get("profile") or "plain_sft")
    try:
        counter = _counter(folder, profile, (folder / "tokenizer.json").stat().st_mtime_ns)
        return [_stretches(counter.preview(row)) for row in examples[:ROWS]]
    except RealmError as error:
        raise ConflictError(scrub(error.message), code="preview_failed", hint=scrub(error.hint)) from None
    except Exception as error:
        raise ConflictError(
            "The tokenizer cannot read these rows.", code="preview_failed", hint=type(error).__name__
        ) from None


@lru_cache(maxsize=4)
def _counter(folder: Path, profile: str, _changed_ns: int) -> TokenCounter:
    return TokenCounter(folder, profile)


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
