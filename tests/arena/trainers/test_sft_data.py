"""Order, split, batches, packing, cache, and the checks before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena.trainers.sft import guards
from arena.trainers.sft.chat import ChatTokenizer, Encoded
from arena.trainers.sft.config import SftConfig, parse_config, read_config
from arena.trainers.sft.data import BatchPlan, Dataset, Layout, in_validation, load_dataset, micro_batches, order, pack
from arena.trainers.sft.profiles import get_profile
from realm.errors import ConfigError, CorruptFileError, RefusedError
from tests.arena.training_kit import addition_rows, write_rows

PLAIN = get_profile("plain_sft")


def dataset(tokenizer: ChatTokenizer, folder: Path, rows: list[dict[str, Any]], **options: Any) -> Dataset:
    sha = write_rows(folder / "rows.jsonl", rows)
    values: dict[str, Any] = {"max_length": 128, "validation_fraction": 0.0, "cache": None}
    return load_dataset([(folder / "rows.jsonl", sha)], tokenizer, PLAIN, **(values | options))


def test_the_order_is_a_known_function_of_seed_and_epoch() -> None:
    """The numbers are part of the format: a resumed run of another version must see the same order."""
    assert order(8, 0, 0).tolist() == [5, 7, 1, 4, 2, 0, 6, 3]
    assert order(1000, 1, 0).tolist() != order(1000, 0, 0).tolist()
    assert order(1000, 0, 1).tolist() != order(1000, 0, 0).tolist()
    assert sorted(order(1000, 3, 7).tolist()) == list(range(1000))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=50),
    seed=st.integers(0, 5),
    rows=st.integers(1, 9),
    tokens=st.none() | st.integers(1, 150),
)
def test_each_epoch_has_every_row_once_whatever_the_batches(
    lengths: list[int], seed: int, rows: int, tokens: int | None
) -> None:
    plan = BatchPlan(np.array(lengths), seed, batch_rows=rows, batch_tokens=tokens)
    batch = 0
    for epoch in range(3):
        seen: list[int] = []
        while len(seen) < len(lengths):
            part = plan.rows(batch).tolist()
            assert plan.locate(batch)[0] == epoch
            assert len(part) <= rows or tokens is not None
            assert tokens is None or len(part) == 1 or sum(lengths[i] for i in part) <= tokens
            seen += part
            batch += 1
        assert sorted(seen) == list(range(len(lengths)))
        assert batch == plan.batches_in(epoch + 1)
    again = BatchPlan(np.array(lengths), seed, batch_rows=rows, batch_tokens=tokens)
    assert again.rows(batch - 1).tolist() == plan.rows(batch - 1).tolist()  # asked for out of order


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    capacity=st.integers(40, 90),
    most=st.none() | st.integers(1, 4),
)
def test_packing_puts_each_row_into_one_bin_that_holds_it(lengths: list[int], capacity: int, most: int | None) -> None:
    ordered = np.array(sorted(lengths, reverse=True))
    bins = pack(ordered, capacity, most)
    assert sorted(i for group in bins for i in group) == list(range(len(lengths)))
    assert all(sum(ordered[i] for i in group) <= capacity for group in bins)
    assert most is None or max(map(len, bins)) <= most


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(
    "limit", [{"rows": None, "tokens": 4096}, {"rows": 3, "tokens": 4096}, {"rows": None, "tokens": 70}]
)
def test_a_batch_trains_the_same_tokens_however_it_is_cut(
    tokenizer: ChatTokenizer, packing: bool, limit: dict[str, Any]
) -> None:
    data = tokenizer.encode(addition_rows(17, bits=5))
    rows = np.arange(len(data))
    wanted = sorted(
        (int(ids[i - 1]), int(ids[i])) for ids, mask in map(data.row, rows) for i in range(1, len(ids)) if mask[i]
    )
    for pad_to in (1, 16):
        batches = micro_batches(data, rows, Layout(packing=packing, pad_to=pad_to, **limit), tokenizer.pad)
        got = sorted(
            (int(b.input_ids.reshape(-1)[at]), int(target))
            for b in batches
            for at, target in zip(b.labels_at, b.targets, strict=True)
        )
        assert got == wanted
        assert sum(b.rows for b in batches) == len(rows)
        assert sum(b.tokens for b in batches) == len(data.ids)
        assert all(b.input_ids.shape[1] % pad_to == 0 for b in batches)


def test_packed_positions_restart_with_every_row(tokenizer: ChatTokenizer) -> None:
    data = tokenizer.encode(addition_rows(4))
    (batch,) = micro_batches(data, np.arange(4), Layout(True, None, 4096, pad_to=64), tokenizer.pad)
    assert batch.position_ids is not None
    starts = np.flatnonzero(batch.position_ids[0] == 0)
    assert len(starts) == 5  # four rows and the padding behind them
    assert (
        np.diff(batch.position_ids[0])[np.setdiff1d(np.arange(batch.input_ids.size - 1), starts[1:] - 1)] == 1
    ).all()


def test_the_split_depends_on_content_alone(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    rows = addition_rows(300, bits=6)
    forward = dataset(tokenizer, tmp_path / "a", rows, validation_fraction=0.2)
    backward = dataset(tokenizer, tmp_path / "b", rows[::-1], validation_fraction=0.2)
    more = dataset(tokenizer, tmp_path / "c", rows + addition_rows(50, seed=9, bits=6), validation_fraction=0.2)
    held = set(forward.validation.hashes.tolist())
    assert held == set(backward.validation.hashes.tolist())
    assert held <= set(more.validation.hashes.tolist())
    assert not held & set(more.train.hashes.tolist())
    assert 0.1 < len(forward.validation) / 300 < 0.3


def test_a_larger_share_keeps_what_a_smaller_one_held_out() -> None:
    hashes = np.arange(10_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    small, large = in_validation(hashes, 0.05), in_validation(hashes, 0.2)
    assert (large | ~small).all()
    assert abs(large.mean() - 0.2) < 0.02


def test_the_cache_gives_the_same_and_heals_itself(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    rows = addition_rows(60)
    cache = tmp_path / "tokens"
    first = dataset(tokenizer, tmp_path, rows, cache=cache)
    second = dataset(tokenizer, tmp_path, rows, cache=cache)
    assert (first.from_cache, second.from_cache) == (False, True)
    for name in ("ids", "mask", "offsets", "hashes"):
        assert np.array_equal(getattr(first.train, name), getattr(second.train, name))
    ids = next(cache.glob("*/ids.npy"))
    data = bytearray(ids.read_bytes())
    data[-1] ^= 1
    ids.write_bytes(data)
    third = dataset(tokenizer, tmp_path, rows, cache=cache)
    assert not third.from_cache
    assert np.array_equal(third.train.ids, first.train.ids)
    assert dataset(tokenizer, tmp_path, rows, cache=cache).from_cache
    assert not dataset(tokenizer, tmp_path, rows, cache=cache, max_length=64).from_cache
    assert not dataset(tokenizer, tmp_path, rows[1:], cache=cache).from_cache


def test_rows_that_are_too_long_are_left_out_and_counted(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "1" * 300}, {"role": "assistant", "content": "1"}]}
    data = dataset(tokenizer, tmp_path, [*addition_rows(40), long])
    assert (len(data.train), data.dropped_long) == (40, 1)
    with pytest.raises(RefusedError) as caught:
        dataset(tokenizer, tmp_path, [long])
    assert caught.value.code == "no_rows"
    with pytest.raises(RefusedError) as caught:
        guards.check(dataset(tokenizer, tmp_path, [*addition_rows(5), long]), tokenizer, SftConfig(max_length=128))
    assert caught.value.code == "rows_too_long"


def test_a_broken_data_file_names_its_line(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(addition_rows(1)[0]) + "\n{broken\n")
    with pytest.raises(CorruptFileError, match="line 2"):
        load_dataset(
            [(tmp_path / "rows.jsonl", "x")], tokenizer, PLAIN, max_length=9, validation_fraction=0, cache=None
        )


# The checks


def checked(tokenizer: ChatTokenizer, folder: Path, rows: list[dict[str, Any]], **config: Any) -> guards.MaskReport:
    return guards.check(dataset(tokenizer, folder, rows), tokenizer, SftConfig(max_length=128, **config))


def test_good_rows_pass_without_a_warning(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    report = checked(tokenizer, tmp_path, addition_rows(50, bits=6))
    assert report.warnings == ()
    assert 0.30 <= report.masked_share <= 0.85
    assert (report.rows, report.templates) == (50, 1)


def test_too_small_a_masked_share_is_refused(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "101 " * 20}]}] * 5
    with pytest.raises(RefusedError) as caught:
        checked(tokenizer, tmp_path, rows)
    assert caught.value.code == "masking_share"
    assert caught.value.data["masked_share"] < 0.25


def test_the_old_trap_is_caught_when_only_the_first_instruction_is_masked(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    """With packing the predecessor masked up to the first answer and trained every later instruction."""
    data = dataset(tokenizer, tmp_path, addition_rows(40))
    good = data.train
    assert guards.check(data, tokenizer, SftConfig(max_length=128))
    packed_ids = good.ids
    first_answer = int(np.flatnonzero(good.mask)[0])
    wrong_mask = np.zeros_like(good.mask)
    wrong_mask[first_answer:] = 1
    wrong = Encoded(packed_ids, wrong_mask, np.array([0, len(packed_ids)]), good.hashes[:1])
    trapped = Dataset(wrong, good.select(np.array([], dtype=np.int64)), 0, 1, False)
    with pytest.raises(RefusedError) as caught:
        guards.check(trapped, tokenizer, SftConfig(max_length=128))
    assert caught.value.code == "masking_share"
    lenient = SftConfig(max_length=128, masking={"min_share": 0.0, "warn_below": 0.0, "warn_above": 1.0})
    with pytest.raises(RefusedError) as caught:
        guards.check(trapped, tokenizer, lenient)
    assert caught.value.code == "masking_turns"


def test_rows_without_an_answer_are_refused(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    silent = {"messages": [{"role": "user", "content": "Hello?"}]}
    with pytest.raises(RefusedError) as caught:
        checked(tokenizer, tmp_path, [*addition_rows(10), silent])
    assert caught.value.code == "masking_silent_rows"
    empty = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": ""}]}
    with pytest.raises(RefusedError) as caught:
        checked(tokenizer, tmp_path, [empty] * 3)
    assert caught.value.code == "masking_empty"


def test_a_lopsided_label_distribution_is_warned_of(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "1"}]} for i in range(9)
    ]
    assert any("one token" in warning for warning in checked(tokenizer, tmp_path, rows).warnings)


# Configuration


def test_unknown_keys_and_contradictions_are_errors_that_name_them() -> None:
    with pytest.raises(ConfigError, match="learnin_rate"):
        parse_config({"learnin_rate": 1e-3}, source="quest.yaml")
    with pytest.raises(ConfigError, match=r"micro_batch_size 8 .* batch_size 4"):
        parse_config({"micro_batch_size": 8, "batch_size": 4})
    with pytest.raises(ConfigError, match=r"micro_batch_tokens 64 .* max_length 128"):
        parse_config({"micro_batch_tokens": 64, "max_length": 128})
    with pytest.raises(ConfigError, match=r"lora\.r"):
        parse_config({"lora": {"r": 0}})
    config, dropped = read_config({"batch_size": 4, "from_long_ago": 1})
    assert (config.batch_size, dropped) == (4, ["from_long_ago"])
    assert SftConfig(batch_size=16, micro_batch_size=1).gradient_accumulation == 16
