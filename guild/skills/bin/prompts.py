"""BIN prompts: written from a problem, and problems found again in any text.

    Compute: add(①⓪①, ①①) [show-work]

`render` writes a prompt, `parse` reads one back exactly. `find_problems` is for gatekeepers: it finds
every BIN expression in a text of any wording, in circled digits or in the symbol language that the text
explains, so that a held-out problem is recognised in a file that somebody drops. ASCII digits are left
alone: `add(1, 0)` in a listing of source code is no problem of this skill.

Invariant: parse(render(x)) == x, and find_problems finds x in it (tests/guild/test_bin_prompts.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from guild.skills.bin.notation import ONE, PLAIN, ZERO, Notation
from guild.skills.bin.problems import OPERATIONS, UNARY, Problem

DIRECT, VERIFY, SHOW_WORK, TRACE = "direct", "verify", "show-work", "trace"
TAGS = (DIRECT, VERIFY, SHOW_WORK, TRACE)
DIFFICULTY = {"easy": DIRECT, "none": DIRECT, "medium": VERIFY, "hard": SHOW_WORK, "expert": TRACE}

_EXPRESSION = re.compile(r"([^\s(),:=]+)\(([^()\n]*)\)")
_PROMPT = re.compile(r"(?:(Key: [^\n]+)\n)?Compute: ([^\n]*?\))(?: \[([a-z-]+)\])?")
_KEY = re.compile(r"^\s*Key:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    problem: Problem
    tag: str = DIRECT
    notation: Notation = PLAIN


def render(prompt: Prompt) -> str:
    """Return the user's turn."""
    key = "" if prompt.notation.is_plain else prompt.notation.key_line() + "\n"
    tag = "" if prompt.tag == DIRECT else f" [{prompt.tag}]"
    return f"{key}Compute: {expression(prompt.problem, prompt.notation)}{tag}"


def expression(problem: Problem, notation: Notation) -> str:
    """Return the functional notation of a problem, e.g. `add(①⓪①, ①①)`."""
    if problem.operation == "to_binary":
        operands = [str(number) for number in problem.operands]
    else:
        operands = [notation.digits([int(bit) for bit in f"{number:b}"]) for number in problem.operands]
    return f"{notation.operation(problem.operation)}({', '.join(operands)})"


def parse(text: str) -> Prompt | None:
    """Return the prompt that `render` wrote, or None for any other text."""
    match = _PROMPT.fullmatch(text)
    if match is None:
        return None
    key, call, tag = match.groups()
    notation = read_key(key) if key else PLAIN
    if notation is None or tag == DIRECT or (tag or DIRECT) not in TAGS:
        return None
    problem = _read_expression(call, notation)
    if problem is None:
        return None
    prompt = Prompt(problem, tag or DIRECT, notation)
    return prompt if render(prompt) == text else None


def find_problems(text: str) -> list[Problem]:
    """Return every problem of this skill that a text contains, in order, without repeats."""
    notations = [PLAIN]
    for line in _KEY.findall(text):
        notation = read_key("Key: " + line)
        if notation is not None:
            notations.insert(0, notation)
    found: dict[Problem, None] = {}
    for match in _EXPRESSION.finditer(text):
        for notation in notations:
            problem = _read_expression(match.group(0), notation)
            if problem is not None:
                found.setdefault(problem)
                break
    return list(found)


def read_key(line: str) -> Notation | None:
    """Return the notation that a key line explains."""
    pairs: dict[str, str] = {}
    for part in line.removeprefix("Key: ").split(","):
        new, equals, own = (side.strip() for side in part.partition("="))
        if not equals or not new or not own:
            return None
        pairs[own] = new
    zero, one = pairs.pop(ZERO, None), pairs.pop(ONE, None)
    if zero is None or one is None or zero == one or not set(pairs) <= OPERATIONS:
        return None
    joiner = "." if zero.isalpha() and zero.isascii() else ""
    return Notation(zero, one, joiner, tuple(pairs.items()))


def _read_expression(call: str, notation: Notation) -> Problem | None:
    match = _EXPRESSION.fullmatch(call)
    if match is None:
        return None
    name, inside = match.groups()
    own = {new: old for old, new in notation.renamed}.get(name, name)
    parts = [part.strip() for part in inside.split(",")]
    if own not in OPERATIONS or len(parts) != (1 if own in UNARY else 2):
        return None
    if own == "to_binary":
        return Problem(own, (int(parts[0]),)) if parts[0].isascii() and parts[0].isdigit() else None
    numbers = [read_number(part, notation) for part in parts]
    return None if None in numbers else Problem(own, tuple(n for n in numbers if n is not None))


def read_number(text: str, notation: Notation) -> int | None:
    """Return the number, leading zeros allowed, or None where the text is not one in this notation."""
    symbols = text.split(notation.joiner) if notation.joiner else _split(text, notation)
    number = 0
    for symbol in symbols or [""]:
        if symbol not in (notation.zero, notation.one):
            return None
        number = number * 2 + (symbol == notation.one)
    return number


def _split(text: str, notation: Notation) -> list[str]:
    symbols = re.findall(f"{re.escape(notation.zero)}|{re.escape(notation.one)}", text)
    return symbols if "".join(symbols) == text else []
