"""Training data of a run: canonical rows to token arrays, the fixed split, the order, the batches.

Invariants, each held by a test: which rows are in the validation split depends on their content alone; the order of
rows is a pure function of (seed, epoch, index), independent of library versions; a batch is the same rows however it
is cut into micro-batches, packed or padded; nothing attends across rows of a packed sequence.

Tokens are cached beside the run as plain .npy files, memory-mapped on the next start. The cache's name holds every
input (data hashes, tokenizer, profile, lengths), its content is checked by size and CRC, and it can be deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arena.trainers.sft.chat import ChatTokenizer, Encoded
from arena.trainers.sft.profiles import Profile
from realm.errors import CorruptFileError, RefusedError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CACHE_FORMAT = 1


@dataclass(frozen=True)
class Dataset:
    """Encoded training and validation rows and what was left out of them."""

    train: Encoded
    validation: Encoded
    dropped_long: int
    """Chat rows longer than the longest allowed row."""
    templates: int
    """How many different shapes of conversation (sequence of roles) the rows have."""
    from_cache: bool


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass, as numpy arrays.

    input_ids int64 [B, T]; position_ids int64 [B, T] or None for plain rows padded on the right; labels_at int64 [N]
    index into the flattened [B * T] of positions whose next token carries loss; targets int64 [N] those next tokens.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray | None
    labels_at: np.ndarray
    targets: np.ndarray
    tokens: int
    """Real tokens, padding left out."""
    rows: int
    """Rows of the data, however they are laid out."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read canonical rows. Raises CorruptFileError with the line's number."""
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise CorruptFileError(f"{path.name}, line {number}: not JSON: {error}.", path=str(path)) from error
            if not isinstance(row, dict) or not ("messages" in row or "text" in row):
                raise CorruptFileError(f"{path.name}, line {number}: neither messages nor text.", path=str(path))
            rows.append(row)
    return rows


def load_dataset(
    files: Sequence[tuple[Path, str]],
    tokenizer: ChatTokenizer,
    profile: Profile,
    *,
    max_length: int,
    validation_fraction: float,
    cache: Path | None,
) -> Dataset:
    """Return the dataset of the files, given as (path, sha256), from the cache where it is whole.

    Raises RefusedError when no row is left to train on.
    """
    key = _cache_key([sha for _, sha in files], tokenizer.fingerprint, profile.name, max_length)
    stored = _read_cache(cache / key) if cache is not None else None
    if stored is None:
        rows = [profile.dress(row) for path, _ in files for row in read_rows(path)]
        if not rows:
            raise RefusedError("The data files hold no rows.", code="no_rows")
        shapes = {tuple(m["role"] for m in row["messages"]) if "messages" in row else ("text",) for row in rows}
        encoded = tokenizer.encode(rows, max_length=max_length)
        facts = {"templates": len(shapes)}
        if cache is not None:
            _write_cache(cache / key, encoded, facts)
        from_cache = False
    else:
        encoded, facts = stored
        from_cache = True
    fits = encoded.lengths <= max_length
    held_out = in_validation(encoded.hashes, validation_fraction)
    train, validation = np.flatnonzero(fits & ~held_out), np.flatnonzero(fits & held_out)
    if not len(train):
        raise RefusedError(
            f"No row is left to train on: {int((~fits).sum())} of {len(encoded)} are longer than {max_length} tokens.",
            hint="Raise max_length or add rows.",
            code="no_rows",
        )
    everything = len(train) == len(encoded)
    return Dataset(
        train=encoded if everything else encoded.select(train),
        validation=encoded.select(validation),
        dropped_long=int((~fits).sum()),
        templates=int(facts["templates"]),
        from_cache=from_cache,
    )


def in_validation(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """Tell for each row's identity whether it is kept out of training; nothing but the identity and the share count."""
    if not fraction:
        return np.zeros(len(hashes), dtype=bool)
    return _mix(hashes ^ np.uint64(0x5EED5A117)) < np.uint64(int(fraction * float(2**64)))


def order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of rows in an epoch: sorted by a hash of (seed, epoch, index), int64."""
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed], dtype=np.int64).astype(np.uint64) * _GOLDEN + np.uint64(epoch))[0]
        return np.argsort(_mix(np.arange(rows, dtype=np.uint64) + key), kind="stable")


class BatchPlan:
    """Which rows make up batch k, for every k from 0 on: epochs follow each other, each in its own order.

    `batch_rows` rows to a batch (the last of an epoch may be smaller), or with `batch_tokens` as many as fit.
    """

    def __init__(self, lengths: np.ndarray, seed: int, *, batch_rows: int, batch_tokens: int | None = None) -> None:
        self.lengths = lengths
        self.seed = seed
        self.batch_rows = batch_rows
        self.batch_tokens = batch_tokens
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._first_batch = [0]
        """Number of the first batch of each epoch known so far."""

    def batches_in(self, epochs: float) -> int:
        """Return how many batches make up so many epochs, at least one."""
        whole = int(epochs)
        part = epochs - whole
        count = self._begin(whole)
        if part > 0:
            count += round(part * (len(self._epoch(whole)[1]) - 1))
        return max(1, count)

    def locate(self, batch: int) -> tuple[int, int]:
        """Return (epoch, batch within it)."""
        epoch = 0
        if self.batch_tokens is None:
            per_epoch = -(-len(self.lengths) // self.batch_rows)
            return batch // per_epoch, batch % per_epoch
        while self._begin(epoch + 1) <= batch:
            epoch += 1
        return epoch, batch - self._begin(epoch)

    def rows(self, batch: int) -> np.ndarray:
        """Return the row numbers of a batch, in order."""
        epoch, within = self.locate(batch)
        rows, cuts = self._epoch(epoch)
        return rows[cuts[within] : cuts[within + 1]]

    def epoch_at(self, batch: int) -> float:
        """Return how many epochs are behind before this batch."""
        epoch, within = self.locate(batch)
        return epoch + within / (len(self._epoch(epoch)[1]) - 1)

    def _begin(self, epoch: int) -> int:
        if self.batch_tokens is None:
            return epoch * -(-len(self.lengths) // self.batch_rows)
        while len(self._first_batch) <= epoch:
            last = len(self._first_batch) - 1
            self._first_batch.append(self._first_batch[-1] + len(self._epoch(last)[1]) - 1)
        return self._first_batch[epoch]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (order of rows, cuts between batches); the two latest epochs are kept."""
        if epoch not in self._epochs:
            rows = order(len(self.lengths), self.seed, epoch)
            if self.batch_tokens is None:
                cuts = np.append(np.arange(0, len(rows), self.batch_rows), len(rows))
            else:
                cuts = _cut_by_tokens(self.lengths[rows], self.batch_tokens)
            if len(self._epochs) >= 2:
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = (rows, cuts)
        return self._epochs[epoch]


@dataclass(frozen=True)
class Layout:
    """How a batch is cut into forward passes; it never changes what the batch is."""

    packing: bool
    rows: int | None
    """Most rows in one pass, None for no limit."""
    tokens: int
    """Most tokens in one pass, padding included; a single row may always be a pass of its own."""
    pad_to: int = 1
    """Widths are rounded up to a multiple of this, so that compiled kernels see few shapes."""

    def halved(self, rows_now: int, tokens_now: int) -> Layout | None:
        """Return the layout for half of a pass of so many rows and tokens, or None when one row is already alone."""
        if rows_now <= 1:
            return None
        if self.packing:
            return Layout(True, -(-rows_now // 2), max(1, tokens_now // 2), self.pad_to)
        return Layout(False, rows_now // 2, self.tokens, self.pad_to)


def micro_batches(data: Encoded, rows: np.ndarray, layout: Layout, pad: int) -> list[MicroBatch]:
    """Cut a batch into forward passes. Longest rows first, so that a pass that does not fit into memory fails early."""
    lengths = data.lengths_of(rows)
    longest_first = np.argsort(-lengths, kind="stable")
    rows, lengths = rows[longest_first], lengths[longest_first]
    if layout.packing:
        return [_packed(data, rows[group], layout.pad_to, pad) for group in pack(lengths, layout.tokens, layout.rows)]
    return [_padded(data, rows[begin:end], layout.pad_to, pad) for begin, end in _groups(lengths, layout)]


def pack(lengths: np.ndarray, capacity: int, most: int | None = None) -> list[list[int]]:
    """Best-fit decreasing: put each of the lengths (longest first) into the fullest bin that still holds it.

    Returns the bins as lists of indices into `lengths`. Ties go to the older bin, so the result is a function of the
    lengths alone.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index, length in enumerate(lengths.tolist()):
        best = -1
        for candidate, left in enumerate(room):
            if length <= left and (best < 0 or left < room[best]) and (most is None or len(bins[candidate]) < most):
                best = candidate
        if best < 0:
            bins.append([index])
            room.append(capacity - length)
        else:
            bins[best].append(index)
            room[best] -= length
    return bins


def _groups(lengths: np.ndarray, layout: Layout) -> Iterable[tuple[int, int]]:
    """Yield [begin, end) of passes of padded rows. A pass also ends where padding would be more than a third of it."""
    begin = 0
    real = 0
    for index, length in enumerate(lengths.tolist()):
        width = -(-int(lengths[begin]) // layout.pad_to) * layout.pad_to
        count = index - begin + 1
        full = count * width > layout.tokens or (layout.rows is not None and count > layout.rows)
        wasteful = count > 8 and count * width > 1.5 * (real + length)
        if index > begin and (full or wasteful):
            yield begin, index
            begin, real = index, 0
        real += length
    if len(lengths):
        yield begin, len(lengths)


def _padded(data: Encoded, rows: np.ndarray, pad_to: int, pad: int) -> MicroBatch:
    part = data.select(rows)
    lengths = part.lengths
    width = int(-(-lengths.max() // pad_to) * pad_to)
    input_ids = np.full((len(rows), width), pad, dtype=np.int64)
    starts = np.repeat(np.arange(len(rows)) * width - part.offsets[:-1], lengths)
    where = starts + np.arange(len(part.ids))
    input_ids.reshape(-1)[where] = part.ids
    labels_at, targets = _labels(part, where)
    return MicroBatch(input_ids, None, labels_at, targets, len(part.ids), len(rows))


def _packed(data: Encoded, rows: np.ndarray, pad_to: int, pad: int) -> MicroBatch:
    part = data.select(rows)
    count = len(part.ids)
    width = -(-count // pad_to) * pad_to
    input_ids = np.full((1, width), pad, dtype=np.int64)
    input_ids[0, :count] = part.ids
    position_ids = np.zeros((1, width), dtype=np.int64)
    position_ids[0, :count] = np.arange(count) - np.repeat(part.offsets[:-1], part.lengths)
    position_ids[0, count:] = np.arange(width - count)  # padding is a segment of its own
    labels_at, targets = _labels(part, np.arange(count))
    return MicroBatch(input_ids, position_ids, labels_at, targets, count, len(rows))


def _labels(part: Encoded, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (flat position that predicts, token to predict) of every trained token; a row's first is never one."""
    trained = part.mask.astype(bool)
    trained[part.offsets[:-1]] = False
    at = np.flatnonzero(trained)
    return where[at - 1], part.ids[at].astype(np.int64)


def _cut_by_tokens(lengths: np.ndarray, budget: int) -> np.ndarray:
    cuts = [0]
    total = 0
    for index, length in enumerate(lengths.tolist()):
        if total and total + length > budget:
            cuts.append(index)
            total = 0
        total += length
    cuts.append(len(lengths))
    return np.array(cuts)


def _mix(value: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, uint64."""
    with np.errstate(over="ignore"):
        value = value + _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


# The cache

_ARRAYS = ("ids", "mask", "offsets", "hashes")


def _cache_key(hashes: Sequence[str], tokenizer: str, profile: str, max_length: int) -> str:
    value = json.dumps([_CACHE_FORMAT, list(hashes), tokenizer, profile, max_length])
    return hashlib.sha256(value.encode()).hexdigest()[:24]


def _write_cache(folder: Path, encoded: Encoded, facts: dict[str, Any]) -> None:
    """Write the arrays beside and rename; a cache that cannot be written is no reason to stop."""
    unfinished = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        crc = {}
        for name in _ARRAYS:
            array = np.ascontiguousarray(getattr(encoded, name))
            np.save(unfinished / f"{name}.npy", array, allow_pickle=False)
            crc[name] = zlib.crc32(array)
        (unfinished / "facts.json").write_text(json.dumps({**facts, "crc": crc}))
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)


def _read_cache(folder: Path) -> tuple[Encoded, dict[str, Any]] | None:
    """Return what a cache holds, memory-mapped, or None when it is not there or not whole."""
    try:
        facts = json.loads((folder / "facts.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
        if any(zlib.crc32(arrays[name]) != facts["crc"][name] for name in _ARRAYS):
            return None
        return Encoded(**arrays), facts
    except (OSError, ValueError, KeyError, TypeError):
        return None
