"""Which tokens of a row are trained and which are masked, before anything runs.

The rule is the trainer's own: its tokenizer, template, profile and mask are used as they are, so that what is shown is
what will be trained. They stand on `tokenizers` and numpy alone and are loaded only when a tokenizer is at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arena.formats import Row
from realm.errors import ConfigError, RealmError


def preview(row: Row, tokenizer_dir: Path, *, profile: str = "plain_sft") -> list[tuple[str, bool]]:
    """Return (text, trained) for every token of a canonical row; the texts joined are what the model reads.

    Raises RealmError as a run would: no tokenizer, no ChatML, content that spells a marker.
    """
    return TokenCounter(tokenizer_dir, profile).preview(row)


def preview_rows(
    rows: Sequence[Row], tokenizer_dir: Path, *, max_rows: int = 3, profile: str = "plain_sft"
) -> list[list[tuple[str, bool]]]:
    """Return the previews of the first rows."""
    counter = TokenCounter(tokenizer_dir, profile)
    return [counter.preview(row) for row in rows[:max_rows]]


class TokenCounter:
    """The tokenizer that a run will use. Raises RealmError where there is none."""

    def __init__(self, tokenizer_dir: Path, profile: str = "plain_sft") -> None:
        try:
            from arena.trainers.sft.chat import ChatTokenizer
            from arena.trainers.sft.profiles import get_profile
        except ImportError as error:
            raise ConfigError(
                f"Tokens cannot be counted here: {error}.", hint="Install the train extra.", code="missing_package"
            ) from error
        self._tokenizer: Any = ChatTokenizer(tokenizer_dir)
        self._dress: Any = get_profile(profile).dress

    def preview(self, row: Row) -> list[tuple[str, bool]]:
        return [(str(text), bool(trained)) for text, trained in self._tokenizer.preview(self._dress(row))]

    def count(self, rows: Sequence[Row]) -> list[tuple[int, int] | str]:
        """Return for each row its tokens and how many of them are trained, or why the run would refuse it."""
        try:
            return self._count([self._dress(row) for row in rows])
        except RealmError:
            return [self._count_one(row) for row in rows]

    def _count_one(self, row: Row) -> tuple[int, int] | str:
        try:
            return self._count([self._dress(row)])[0]
        except RealmError as error:
            return error.message

    def _count(self, rows: Sequence[Row]) -> list[tuple[int, int] | str]:
        encoded = self._tokenizer.encode(rows)
        counts: list[tuple[int, int] | str] = []
        for index in range(len(encoded)):
            ids, mask = encoded.row(index)
            counts.append((len(ids), int(mask.sum())))
        return counts
