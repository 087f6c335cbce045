"""Checks before the first step: is what carries loss what should carry loss?

Each check either passes, leaves a warning, or refuses the run with the numbers that it saw. The reason for all of
them: a run that trains on its own instructions looks healthy from outside, and its loss is lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from arena.trainers.sft.chat import TURN_END, TURN_START, ChatTokenizer, Encoded
from arena.trainers.sft.config import SftConfig
from arena.trainers.sft.data import BatchPlan, Dataset, Layout, micro_batches
from realm.errors import RefusedError


@dataclass(frozen=True)
class MaskReport:
    """What the checks saw."""

    rows: int
    validation_rows: int
    dropped_long: int
    templates: int
    tokens: int
    masked_share: float
    distinct_labels: int
    top_label_share: float
    warnings: tuple[str, ...]


def check(data: Dataset, tokenizer: ChatTokenizer, config: SftConfig) -> MaskReport:
    """Run every check. Raises RefusedError with code `masking_…` or `rows_too_long`."""
    train = data.train
    total = len(train) + len(data.validation) + data.dropped_long
    if data.dropped_long > config.dropped_rows_limit * total:
        raise RefusedError(
            f"{data.dropped_long} of {total} rows are longer than max_length {config.max_length} tokens.",
            hint="Raise max_length, shorten the rows, or raise dropped_rows_limit.",
            code="rows_too_long",
            dropped=data.dropped_long,
        )
    plain_text = bool(train.mask.all())
    masked = 1.0 - float(train.mask.mean(dtype=np.float64))
    warnings = []
    if not plain_text:
        warnings += _check_share(masked, config)
        _check_turns(train, tokenizer)
    if data.dropped_long:
        warnings.append(f"{data.dropped_long} rows are longer than {config.max_length} tokens and left out")
    if data.templates > 16:
        warnings.append(f"the rows have {data.templates} different sequences of roles")
    labels = train.ids[train.mask.astype(bool)]
    counts = np.bincount(labels, minlength=1)
    ordinary = counts.copy()
    ordinary[tokenizer.turn_end] = 0
    top = float(ordinary.max() / max(1, ordinary.sum()))
    if not ordinary.sum():
        raise RefusedError(
            "Nothing but end-of-turn tokens would be trained: all answers are empty.", code="masking_empty"
        )
    if top > 0.9:
        warnings.append(f"one token makes up {top:.0%} of what is trained")
    _check_packed(train, tokenizer, config)
    return MaskReport(
        rows=len(train),
        validation_rows=len(data.validation),
        dropped_long=data.dropped_long,
        templates=data.templates,
        tokens=len(train.ids),
        masked_share=masked,
        distinct_labels=int((counts > 0).sum()),
        top_label_share=top,
        warnings=tuple(warnings),
    )


def _check_share(masked: float, config: SftConfig) -> list[str]:
    limits = config.masking
    if masked < limits.min_share:
        raise RefusedError(
            f"Only {masked:.1%} of the tokens are masked, at least {limits.min_share:.0%} are expected: instructions "
            "seem to be trained.",
            hint="Look at the token preview; answers far longer than their questions may lower masking.min_share.",
            code="masking_share",
            masked_share=masked,
        )
    if masked < limits.warn_below:
        return [f"only {masked:.1%} of the tokens are masked"]
    if masked > limits.warn_above:
        return [f"{masked:.1%} of the tokens are masked: little of each row is trained"]
    return []


def _check_turns(train: Encoded, tokenizer: ChatTokenizer) -> None:
    """Every row trains something, no trained token is a turn's start, and every trained stretch ends a turn."""
    mask = train.mask.astype(bool)
    per_row = np.add.reduceat(mask.astype(np.int64), train.offsets[:-1])
    silent = np.flatnonzero(per_row == 0)
    if len(silent):
        raise RefusedError(
            f"{len(silent)} rows train nothing: they have no assistant turn.",
            hint="Each row needs at least one assistant message.",
            code="masking_silent_rows",
            count=len(silent),
        )
    if (train.ids[mask] == tokenizer.turn_start).any():
        raise RefusedError(f"{TURN_START} would be trained: the mask runs over a turn's end.", code="masking_turns")
    stretch_ends = np.flatnonzero(mask & ~np.append(mask[1:], False))
    if (train.ids[stretch_ends] != tokenizer.turn_end).any():
        raise RefusedError(f"A trained stretch does not end with {TURN_END}.", code="masking_turns")
    stretches = len(stretch_ends)
    headers = int((train.ids == tokenizer.turn_end).sum())
    if stretches > headers:
        raise RefusedError("There are more trained stretches than turns.", code="masking_turns")


def _check_packed(train: Encoded, tokenizer: ChatTokenizer, config: SftConfig) -> None:
    """The first batch, packed, trains exactly the tokens that its rows train on their own."""
    plan = BatchPlan(train.lengths, 0, batch_rows=min(config.batch_size, 64))
    rows = plan.rows(0)
    expected = int(sum(train.row(int(r))[1][1:].sum() for r in rows))
    for packing in (True, False):
        layout = Layout(packing=packing, rows=None, tokens=max(config.max_length, int(train.lengths[rows].max())))
        batches = micro_batches(train, rows, layout, tokenizer.pad)
        trained = sum(len(batch.targets) for batch in batches)
        if trained != expected:
            raise RefusedError(
                f"A {'packed' if packing else 'padded'} batch trains {trained} tokens, its rows train {expected}.",
                code="masking_packed",
            )
