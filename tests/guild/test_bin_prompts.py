"""Prompts are read back as they were written, in plain notation and in symbol languages."""

import random

from guild.skills import get_skill, get_trainer
from guild.skills.bin.notation import PLAIN, invent
from guild.skills.bin.problems import OPERATIONS, Problem
from guild.skills.bin.prompts import TAGS, Prompt, find_problems, parse, read_key, render

BIN = get_trainer("bin")


def some_prompts(count=3000):
    rng = random.Random(1)
    for _ in range(count):
        name = rng.choice(sorted(OPERATIONS))
        operands = tuple(rng.randrange(512) for _ in range(2 if name in TWO else 1))
        notation = invent(rng, name) if rng.random() < 0.5 else PLAIN
        yield Prompt(Problem(name, operands), rng.choice(TAGS), notation)


TWO = {"add", "subtract", "multiply", "equals", "less_than", "greater_than", "minimum", "maximum"}


def test_a_prompt_reads_as_the_skill_writes_it():
    assert render(Prompt(Problem("add", (5, 3)))) == "Compute: add(①⓪①, ①①)"
    assert render(Prompt(Problem("increment", (0,)), "trace")) == "Compute: increment(⓪) [trace]"
    assert render(Prompt(Problem("to_binary", (13,)))) == "Compute: to_binary(13)"


def test_prompts_are_read_back():
    for prompt in some_prompts():
        assert parse(render(prompt)) == prompt
        assert find_problems(render(prompt)) == [prompt.problem]


def test_a_notation_is_read_back_from_its_key():
    rng = random.Random(2)
    for _ in range(300):
        notation = invent(rng, "add")
        assert read_key(notation.key_line()) == notation


def test_other_texts_are_no_prompts():
    for text in (
        "Compute: add(①⓪①)",
        "Compute: add(①⓪①, ①①) [hard]",
        "Compute: add(⓪①, ①)",
        "Compute: plus(①, ①)",
        "Key: x = ⓪\nCompute: add(x, x)",
        "Compute: add(①, ①)\n",
        "add(①, ①)",
    ):
        assert parse(text) is None, text


def test_three_in_four_problems_of_level_eight_are_in_a_symbol_language():
    prompts = [row["messages"][0]["content"] for row in BIN.sample(8, 2000, seed=0)]
    assert 0.72 < sum(prompt.startswith("Key: ") for prompt in prompts) / len(prompts) < 0.78
    below = [row["messages"][0]["content"] for row in BIN.sample(7, 500, seed=0)]
    assert not any(prompt.startswith("Key: ") for prompt in below)


def test_a_symbol_answer_uses_the_symbols_of_its_key():
    for row in BIN.sample(8, 300, seed=4):
        prompt, answer = (message["content"] for message in row["messages"])
        if prompt.startswith("Key: "):
            assert "⓪" not in answer and "①" not in answer


def test_operands_fill_the_width_of_the_level_and_no_more():
    for number, rules in get_skill("bin").level_progression.items():
        widths = {
            operand.bit_length()
            for row in BIN.sample(number, 1500, seed=number)
            for operand in find_problems(row["messages"][0]["content"])[0].operands
        }
        assert max(widths) == rules.bits == number + 1
