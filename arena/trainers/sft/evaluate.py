"""Measurements without generation: validation loss, and exact match by teacher forcing.

An answer counts as right when the model's most likely token is the wanted one at every position of the assistant's
turn, its end included, given the wanted tokens before. That is exactly when greedy generation writes the answer: as
long as every token so far was right, both have seen the same text, and the first wrong one fails both
(tests/arena/trainers/test_evaluate.py compares them). One batched forward instead of a generation.

Forward passes are float32, without dropout, at the head only where an answer is; nothing of training changes.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from arena.jobs import EvaluationSet
from arena.trainers.sft.chat import ChatTokenizer, Encoded
from arena.trainers.sft.data import Layout, MicroBatch, micro_batches
from arena.trainers.sft.loss import default_chunk, linear_argmax
from arena.trainers.sft.model import LanguageModel
from arena.trainers.sft.profiles import Profile
from realm.errors import CorruptFileError

MAX_WRONG = 20
_CACHE_SETS = 64
_cache: OrderedDict[tuple[str, str, str], PreparedSet] = OrderedDict()
"""Encoded evaluation sets of this process, by (file hash, tokenizer, profile); the same sets come with every run."""


@dataclass(frozen=True)
class PreparedSet:
    """An evaluation set as tokens. `encoded.mask` is 1 on the answer and the end of its turn alone."""

    encoded: Encoded
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    tags: tuple[str | None, ...]


def prepare(path: Path, tokenizer: ChatTokenizer, profile: Profile) -> PreparedSet:
    """Read and encode an evaluation set, or take it from this process's cache. Raises CorruptFileError."""
    data = path.read_bytes()
    key = (hashlib.sha256(data).hexdigest(), tokenizer.fingerprint, profile.name)
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    try:
        problems = [json.loads(line) for line in data.splitlines() if line.strip()]
        answers = tuple(str(problem["answer"]) for problem in problems)
        rows = [
            profile.dress({"messages": [*p["messages"], {"role": "assistant", "content": a}]})
            for p, a in zip(problems, answers, strict=True)
        ]
        prompts = tuple(
            next((m["content"] for m in reversed(p["messages"]) if m["role"] == "user"), "") for p in problems
        )
        tags = tuple((p.get("metadata") or {}).get("tag") for p in problems)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"{path.name} is not an evaluation set: {error!r}.", path=str(path)) from error
    encoded = tokenizer.encode(rows)
    prepared = PreparedSet(_last_turn_only(encoded), prompts, answers, tags)
    _cache[key] = prepared
    if len(_cache) > _CACHE_SETS:
        _cache.popitem(last=False)
    return prepared


@torch.no_grad()
def exact_match(
    model: LanguageModel,
    info: EvaluationSet,
    prepared: PreparedSet,
    *,
    tokenizer: ChatTokenizer,
    profile: Profile,
    tokens: int,
) -> dict[str, Any]:
    """Return the `evaluation` record of a set: counts, counts by tag, and some of the wrong answers."""
    count = len(prepared.encoded)
    right = np.ones(count, dtype=bool)
    got: dict[int, np.ndarray] = {}
    chunk = default_chunk(model.head_weight.shape[0])
    for rows, batch in _passes(prepared.encoded, tokens, tokenizer.pad):
        hidden = _hidden(model, batch)
        best = linear_argmax(hidden, model.head_weight, chunk=chunk).cpu().numpy()
        row_of = batch.labels_at // batch.input_ids.shape[1]
        hit = best == batch.targets
        right[rows[row_of[~hit]]] = False
        for place in np.unique(row_of[~hit]):
            got[int(rows[place])] = best[row_of == place]
    record: dict[str, Any] = {
        "kind": "evaluation",
        "name": info.name,
        "skill": info.skill,
        "level": info.level,
        "split": info.split,
        "correct": int(right.sum()),
        "total": count,
        "wrong": [
            {
                "prompt": prepared.prompts[index],
                "expected": prepared.answers[index],
                "got": profile.answer(_spoken(got[index], tokenizer)),
            }
            for index in np.flatnonzero(~right)[:MAX_WRONG].tolist()
        ],
    }
    if any(prepared.tags):
        record["by_tag"] = _by_tag(prepared.tags, right)
    if info.space is not None:
        record["space"] = info.space
    return record


@torch.no_grad()
def validation_loss(model: LanguageModel, data: Encoded, tokens: int, pad: int) -> dict[str, Any]:
    """Return the `validation` record of held-out rows: mean loss over their trained tokens, and how many."""
    total, count = 0.0, 0
    chunk = default_chunk(model.head_weight.shape[0])
    for _, batch in _passes(data, tokens, pad):
        hidden = _hidden(model, batch)
        targets = torch.from_numpy(batch.targets).to(hidden.device)
        for part, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = functional.linear(part, model.head_weight.to(part.dtype)).float()
            total += functional.cross_entropy(logits, wanted, reduction="sum").item()
        count += len(batch.targets)
    return {"kind": "validation", "val_loss": total / max(1, count), "tokens": count}


def _hidden(model: LanguageModel, batch: MicroBatch) -> torch.Tensor:
    """Return hidden states at the predicting positions, [N, H]."""
    device = model.head_weight.device
    hidden = model.hidden(torch.from_numpy(batch.input_ids).to(device), None)
    return hidden.index_select(0, torch.from_numpy(batch.labels_at).to(device))


def _passes(data: Encoded, tokens: int, pad: int) -> Iterator[tuple[np.ndarray, MicroBatch]]:
    """Yield (row numbers, padded pass) over all rows, rows of like length together."""
    rows = np.argsort(-data.lengths, kind="stable")
    layout = Layout(packing=False, rows=None, tokens=tokens)
    done = 0
    for batch in micro_batches(data, rows, layout, pad):
        yield rows[done : done + batch.rows], batch
        done += batch.rows


def _last_turn_only(encoded: Encoded) -> Encoded:
    """Return the rows with a mask on their last trained stretch alone."""
    mask = encoded.mask.astype(bool)
    mask[encoded.offsets[:-1]] = False
    begins = np.flatnonzero(mask & ~np.concatenate(([False], mask[:-1])))
    row_of = np.searchsorted(encoded.offsets, begins, side="right") - 1
    last = np.full(len(encoded), len(mask), dtype=np.int64)
    last[row_of] = begins  # later stretches of a row overwrite earlier ones
    keep = mask & (np.arange(len(mask)) >= np.repeat(last, encoded.lengths))
    return Encoded(encoded.ids, keep.astype(np.uint8), encoded.offsets, encoded.hashes)


def _spoken(ids: np.ndarray, tokenizer: ChatTokenizer) -> str:
    """Return the text up to the first end of turn."""
    end = np.flatnonzero(ids == tokenizer.turn_end)
    return tokenizer.decode(ids[: end[0]] if len(end) else ids)


def _by_tag(tags: tuple[str | None, ...], right: np.ndarray) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for tag, hit in zip(tags, right.tolist(), strict=True):
        entry = counts.setdefault(tag or "none", {"correct": 0, "total": 0})
        entry["correct"] += int(hit)
        entry["total"] += 1
    return counts
