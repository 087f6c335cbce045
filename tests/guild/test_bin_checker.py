"""Every line of every golden answer is right, and no change to one goes unnoticed."""

import itertools
import random
import re
from pathlib import Path

import pytest

from guild.skills import get_skill, get_trainer
from guild.skills.bin import checker
from guild.skills.bin.prompts import TAGS

BIN = get_trainer("bin")
LEVELS = range(1, get_skill("bin").max_level + 1)
EVERY_TAG = dict.fromkeys(TAGS, 1.0)


def golden(level, count, seed=0):
    return [
        tuple(message["content"] for message in row["messages"])
        for row in BIN.sample(level, count, seed=seed, mix=EVERY_TAG)
    ]


@pytest.mark.parametrize("level", LEVELS)
def test_golden_answers_have_no_fault(level):
    # 2,500 a level: 20,000 over the eight levels.
    faults = [(prompt, found) for prompt, answer in golden(level, 2500) if (found := BIN.check(prompt, answer))]
    assert faults == []


def test_every_operation_and_tag_was_among_them():
    rows = [row["metadata"] for level in LEVELS for row in BIN.sample(level, 2500, seed=0, mix=EVERY_TAG)]
    operations = {name for rules in get_skill("bin").level_progression.values() for name in rules.operations}
    assert {(row["op"], row["tag"]) for row in rows} == {(name, tag) for name in operations for tag in TAGS}


@pytest.mark.parametrize("level", LEVELS)
def test_any_changed_character_is_found(level):
    rng = random.Random(level)
    alphabet = "⓪①0123456789<>=+-*?|:,. so far"
    for prompt, answer in golden(level, 150):
        place = rng.randrange(len(answer))
        other = rng.choice([c for c in alphabet if c != answer[place]])
        for changed in (
            answer[:place] + other + answer[place + 1 :],
            answer[:place] + answer[place + 1 :],
            answer[:place] + other + answer[place:],
        ):
            if changed != answer:
                assert BIN.check(prompt, changed), (prompt, answer, changed)


@pytest.mark.parametrize("level", LEVELS)
def test_lines_left_out_doubled_or_swapped_are_found(level):
    for prompt, answer in golden(level, 150):
        lines = answer.split("\n")
        for place in range(len(lines)):
            assert BIN.check(prompt, "\n".join(lines[:place] + lines[place + 1 :]))
            assert BIN.check(prompt, "\n".join(lines[: place + 1] + lines[place:]))
        swapped = [*lines[1:], lines[0]]
        if swapped != lines:
            assert BIN.check(prompt, "\n".join(swapped))


def test_the_answer_to_another_prompt_is_found():
    pairs = golden(3, 60)
    for (prompt, _), (other, answer) in itertools.pairwise(pairs):
        if prompt != other:
            assert BIN.check(prompt, answer)


def test_a_fault_names_its_line():
    assert BIN.check("Compute: add(①⓪①, ①①) [verify]", "5 + 3 = 9\nadd(①⓪①, ①①) = ①⓪⓪⓪") == [
        "line 1: '5 + 3 = 9' should be '5 + 3 = 8'"
    ]


def test_a_text_that_is_no_prompt_is_said_to_be_none():
    assert BIN.check("What is 5 + 3?", "8") == ["prompt: not a BIN prompt"]


def test_the_checker_takes_no_arithmetic_from_the_generator():
    source = Path(checker.__file__).read_text(encoding="utf-8")
    assert not re.search(r"bin.(working|answers|generator)", source)
