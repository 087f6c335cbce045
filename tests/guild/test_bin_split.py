"""Held-out problems stay held out, and so do their equals."""

import itertools

import pytest

from guild.skills import get_skill, get_trainer
from guild.skills.bin.problems import (
    OPERATIONS,
    Problem,
    enumerate_space,
    is_held_out_key,
    space_size,
)

BIN = get_trainer("bin")
LEVELS = range(1, get_skill("bin").max_level + 1)

# Recorded once: held-out numbers are comparable only while these stand.
HELD_OUT_SUMS = [
    "bin:add(0,0)",
    "bin:add(0,2)",
    "bin:add(0,3)",
    "bin:add(1,5)",
    "bin:add(2,2)",
    "bin:add(2,3)",
    "bin:add(3,3)",
    "bin:add(6,7)",
]


def test_equal_problems_have_one_key():
    for a, b in itertools.product(range(16), repeat=2):
        for name in ("add", "multiply", "equals", "minimum", "maximum"):
            assert Problem(name, (a, b)).key == Problem(name, (b, a)).key
        assert Problem("greater_than", (a, b)).key == Problem("less_than", (b, a)).key


def test_problems_that_are_not_equal_have_keys_of_their_own():
    assert Problem("subtract", (3, 1)).key != Problem("subtract", (1, 3)).key
    assert Problem("less_than", (3, 1)).key != Problem("less_than", (1, 3)).key
    assert Problem("minimum", (3, 1)).key != Problem("maximum", (3, 1)).key


def test_the_split_never_changes():
    held_out = [key for key in (f"bin:add({a},{b})" for a in range(8) for b in range(a, 8)) if is_held_out_key(key)]
    assert held_out == HELD_OUT_SUMS


def test_one_fifth_is_held_out():
    keys = [Problem("add", (a, b)).key for a in range(100) for b in range(a, 100)]
    assert 0.18 < sum(map(is_held_out_key, keys)) / len(keys) < 0.22


@pytest.mark.parametrize("level", LEVELS)
def test_training_rows_share_no_problem_with_held_out_rows(level):
    trained = {row["metadata"]["problem"] for row in BIN.sample(level, 2000, seed=level)}
    examined = {row["metadata"]["problem"] for row in BIN.evaluation_set(level, "heldout", count=500).rows}
    assert examined and not trained & examined
    assert all(map(is_held_out_key, examined))
    assert not any(map(is_held_out_key, trained))


@pytest.mark.parametrize("level", LEVELS)
def test_a_training_row_of_any_level_is_no_evaluation_row_of_another(level):
    prompts = [row["messages"][0]["content"] for row in BIN.sample(level, 500, seed=3)]
    assert not any(BIN.is_held_out(prompt) for prompt in prompts)


def test_held_out_rows_can_be_asked_for_by_name_only():
    rows = BIN.sample(3, 50, seed=0, split="heldout")
    assert all(BIN.is_held_out(row["messages"][0]["content"]) for row in rows)
    assert all(row["metadata"]["split"] == "heldout" for row in rows)


def test_a_held_out_problem_is_recognised_in_any_wording():
    row = BIN.evaluation_set(3, "heldout").rows[0]
    call = row["answer"].rpartition(" = ")[0].rpartition("\n")[2]
    for text in (call, f"Please tell me: {call} = ⓪. Is this correct?", f"a\n\n{call}", call.replace(", ", ",")):
        assert BIN.is_held_out(text), text


def test_source_code_is_no_problem_of_this_skill():
    assert BIN.problem_key("print(add(1, 0), minimum(0, 1))") is None
    assert BIN.problem_key("Hello (you), how are things?") is None


@pytest.mark.parametrize(("level", "split"), [(1, "known"), (1, "heldout"), (2, "heldout")])
def test_a_small_space_is_examined_whole_and_says_its_size(level, split):
    chosen = BIN.evaluation_set(level, split)
    assert len(chosen.rows) == chosen.space < 128
    assert len({row["messages"][0]["content"] for row in chosen.rows}) == len(chosen.rows)


def test_an_evaluation_set_has_no_prompt_twice():
    for level in LEVELS:
        rows = BIN.evaluation_set(level, "known").rows
        assert len({row["messages"][0]["content"] for row in rows}) == len(rows)


def test_space_sizes_agree_with_the_spaces():
    for bits in (1, 2, 3, 4):
        assert space_size(sorted(OPERATIONS), bits) == sum(1 for _ in enumerate_space(sorted(OPERATIONS), bits))
