"""How a BIN answer is worked out: columns of digits, as on paper.

All arithmetic here is done on lists of digits, least significant first, by the methods that the answer
shows; the checker (`checker.py`) does it on whole numbers by other formulas. Every operation is a
`Working`: the lines of `[show-work]`, the partial results that `[trace]` adds, the decimal check of
`[verify]`, and the result.

Lines, for 4-bit numbers:

    add, increment        ①+①+⓪=①⓪:⓪    digit + digit + carry = carry and digit : result so far
    subtract, decrement   ⓪-①-⓪=①①:①    digit - digit - borrow = borrow and digit : result so far
    less_than, minimum    ⓪<①=①         does the claim hold up to this column? ① yes, ⓪ no
    greater_than, maximum ⓪>①=⓪
    equals                ⓪=①=⓪
    multiply              ①:⓪①⓪+①⓪①⓪⓪=①①⓪①⓪   digit: total + shifted number = new total
    double                ①⓪①|⓪         the number | the digit put behind it
    halve                 ①⓪|①          the number | the digit taken off its end
    to_decimal            ①*4=4,5       digit * weight = value, total
    to_binary             13=2*6+①      number = 2 * half + digit

Columns go from the right because that is where the carry starts; a comparison too, since then one
mechanism (take the next digit of each) serves all of them. The highest column that differs has the last
word; minimum and maximum take the first number where the claim holds, else the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from guild.skills.bin.notation import Notation
from guild.skills.bin.problems import Problem

Digits = list[int]
"""Binary digits, least significant first."""


@dataclass(frozen=True)
class Step:
    """One line of work, and what is known after it."""

    line: str
    so_far: str
    shows_so_far: bool = False
    """Whether `[show-work]` has what is known so far behind the line too: where the result grows digit by
    digit, it saves the last line from having to be read off a column of digits backwards."""


@dataclass(frozen=True)
class Working:
    steps: tuple[Step, ...]
    result: str
    check: str
    """The same statement in decimals."""


def work_out(problem: Problem, notation: Notation) -> Working:
    """Return the answer to a problem with everything that leads to it."""
    operation, numbers = problem.operation, [_digits(n) for n in problem.operands]
    return _METHODS[operation](operation, numbers, notation)


def _digits(number: int) -> Digits:
    return [int(bit) for bit in reversed(f"{number:b}")]


def _trim(digits: Digits) -> Digits:
    """Drop leading zeros, which are at the end here; keep one digit."""
    end = len(digits)
    while end > 1 and not digits[end - 1]:
        end -= 1
    return digits[:end]


def _write(digits: Digits, notation: Notation) -> str:
    return notation.digits(digits[::-1])


def _decimal(digits: Digits) -> int:
    value = 0
    for digit in reversed(digits):
        value = 2 * value + digit
    return value


def _pad(numbers: list[Digits]) -> list[Digits]:
    width = max(map(len, numbers))
    return [digits + [0] * (width - len(digits)) for digits in numbers]


def _add(operation: str, numbers: list[Digits], notation: Notation) -> Working:
    """Add two numbers, or one to a number: the first carry is the one that is added."""
    carry = int(operation == "increment")
    steps: list[Step] = []
    result: Digits = []
    columns = [list(column) for column in zip(*_pad(numbers), strict=True)]
    while columns or carry:
        terms = [*(columns.pop(0) if columns else [0] * len(numbers)), carry]
        ones = sum(terms)
        carry, digit = int(ones > 1), ones % 2
        result.append(digit)
        steps.append(_column("+", terms, [carry, digit], result, notation))
    total = _trim(result)
    left = [_decimal(digits) for digits in numbers] + ([1] if operation == "increment" else [])
    return Working(tuple(steps), _write(total, notation), f"{left[0]} + {left[1]} = {_decimal(total)}")


def _column(sign: str, terms: list[int], gives: list[int], result: Digits, notation: Notation) -> Step:
    """Write one column and the digits found so far, most significant first."""
    line, so_far = sign.join(notation.digits([term]) for term in terms), _write(result, notation)
    return Step(f"{line}={notation.digits(gives)}", so_far, shows_so_far=True)


def _subtract(operation: str, numbers: list[Digits], notation: Notation) -> Working:
    """Take the second number, or one, from the first."""
    borrow = int(operation == "decrement")
    steps, result = [], []
    for column in zip(*_pad(numbers), strict=True):
        terms = [*column, borrow]
        rest = terms[0] - sum(terms[1:])
        borrow, digit = int(rest < 0), rest % 2
        result.append(digit)
        steps.append(_column("-", terms, [borrow, digit], result, notation))
    total = _trim(result)
    left = [_decimal(digits) for digits in numbers] + ([1] if operation == "decrement" else [])
    return Working(tuple(steps), _write(total, notation), f"{left[0]} - {left[1]} = {_decimal(total)}")


_CLAIMS = {"less_than": "<", "minimum": "<", "greater_than": ">", "maximum": ">", "equals": "="}


def _compare(operation: str, numbers: list[Digits], notation: Notation) -> Working:
    """Say for every column whether the claim holds for the numbers up to it."""
    claim = _CLAIMS[operation]
    holds = claim == "="
    steps = []
    for x, y in zip(*_pad(numbers), strict=True):
        if claim == "=":
            holds = holds and x == y
        elif x != y:
            holds = (x < y) == (claim == "<")
        line = f"{notation.digits([x])}{claim}{notation.digits([y])}={notation.digits([holds])}"
        steps.append(Step(line, "true" if holds else "false"))
    a, b = (_decimal(digits) for digits in numbers)
    order = f"{a} {'=' if a == b else '<' if a < b else '>'} {b}"
    if operation in ("minimum", "maximum"):
        chosen = numbers[0] if holds else numbers[1]
        return Working(tuple(steps), _write(chosen, notation), f"{order}, so {_decimal(chosen)}")
    return Working(tuple(steps), "true" if holds else "false", order)


def _multiply(operation: str, numbers: list[Digits], notation: Notation) -> Working:
    """Add the first number, shifted, for every one in the second."""
    first, second = numbers
    total: Digits = [0]
    steps = []
    for place, digit in enumerate(second):
        part = _trim([0] * place + first) if digit else [0]
        before = _write(total, notation)
        total = _sum(total, part)
        line = f"{notation.digits([digit])}:{before}+{_write(part, notation)}={_write(total, notation)}"
        steps.append(Step(line, _write(total, notation)))
    check = f"{_decimal(first)} * {_decimal(second)} = {_decimal(total)}"
    return Working(tuple(steps), _write(total, notation), check)


def _sum(a: Digits, b: Digits) -> Digits:
    carry, result = 0, []
    for x, y in zip(*_pad([a, b]), strict=True):
        ones = x + y + carry
        carry = int(ones > 1)
        result.append(ones % 2)
    return _trim([*result, carry])


def _double(operation: str, numbers: list[Digits], notation: Notation) -> Working:
    (number,) = numbers
    result = _trim([0, *number])
    step = Step(f"{_write(number, notation)}|{notation.digits([0])}", _write(result, notation))
    check = f"{_decimal(number)} * 2 = {_decimal(result)}"
    return Working((step,), _write(result, notation), check)


def _halve(operation: str, numbers: list[Digits], notation: Notation) -> Working:
    """Drop the last digit: half, rounded down."""
    (number,) = numbers
    result = number[1:] or [0]
    last = notation.digits(number[:1])
    step = Step(f"{_write(result, notation)}|{last}", _write(result, notation))
    check = f"{_decimal(number)} = 2 * {_decimal(result)} + {number[0]}"
    return Working((step,), _write(result, notation), check)


def _to_decimal(operation: str, numbers: list[Digits], notation: Notation) -> Working:
    (number,) = numbers
    total, weight = 0, 1
    steps, parts = [], []
    for digit in number:
        value = weight if digit else 0
        total += value
        if digit:
            parts.append(str(value))
        steps.append(Step(f"{notation.digits([digit])}*{weight}={value},{total}", str(total)))
        weight += weight
    check = f"{' + '.join(reversed(parts)) or '0'} = {total}"
    return Working(tuple(steps), str(total), check)


def _to_binary(operation: str, numbers: list[Digits], notation: Notation) -> Working:
    (number,) = numbers
    steps, parts = [], []
    rest, result, weight = number, list[int](), 1
    while True:
        half = rest[1:] or [0]
        result.append(rest[0])
        line = f"{_decimal(rest)}=2*{_decimal(half)}+{notation.digits(rest[:1])}"
        steps.append(Step(line, _write(result, notation)))
        if rest[0]:
            parts.append(str(weight))
        weight += weight
        rest = half
        if rest == [0]:
            break
    check = f"{_decimal(number)} = {' + '.join(reversed(parts)) or '0'}"
    return Working(tuple(steps), _write(number, notation), check)


_METHODS: dict[str, Callable[[str, list[Digits], Notation], Working]] = {
    "add": _add,
    "increment": _add,
    "subtract": _subtract,
    "decrement": _subtract,
    "less_than": _compare,
    "greater_than": _compare,
    "equals": _compare,
    "minimum": _compare,
    "maximum": _compare,
    "multiply": _multiply,
    "double": _double,
    "halve": _halve,
    "to_decimal": _to_decimal,
    "to_binary": _to_binary,
}
