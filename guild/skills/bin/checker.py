"""Recomputes every line of a BIN answer from the prompt alone.

It shares the reading of prompts with the generator, and no arithmetic: columns, carries and partial
results are whole-number formulas here (`(a % 2**i + b % 2**i) >> i` is the carry into column i), and
ripple from digit to digit there. `check` returns what is wrong, line by line; an empty list means that
each line is exactly the one that the prompt asks for.

Checked by 20,000 golden rows without a finding, and by changing them one character, one line, one
order at a time, which is always found (tests/guild/test_bin_checker.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from guild.skills.bin.notation import Notation
from guild.skills.bin.problems import Problem
from guild.skills.bin.prompts import DIRECT, SHOW_WORK, TRACE, VERIFY, parse


def check(prompt: str, answer: str) -> list[str]:
    """Return every fault of an answer, each beginning with its line number."""
    asked = parse(prompt)
    if asked is None:
        return ["prompt: not a BIN prompt"]
    problem, notation = asked.problem, asked.notation
    lines = answer.split("\n")
    work = _work(asked.tag, problem, notation)
    expected = [*work, _equation(prompt, problem, notation)]
    faults = [
        f"line {number}: {got!r} should be {want!r}"
        for number, (want, got) in enumerate(zip(expected, lines, strict=False), start=1)
        if want != got
    ]
    if len(lines) != len(expected):
        faults.append(f"line {min(len(lines), len(expected)) + 1}: {len(lines)} lines instead of {len(expected)}")
    return faults


def _work(tag: str, problem: Problem, notation: Notation) -> list[str]:
    """Return the lines that have to stand above the equation."""
    if tag == VERIFY:
        return [_decimal_statement(problem)]
    if tag == SHOW_WORK:
        grows = problem.operation in ("add", "increment", "subtract", "decrement")
        return [f"{line}:{known}" if grows else line for line, known in _columns(problem, notation)]
    if tag == TRACE:
        columns = enumerate(_columns(problem, notation), start=1)
        return [f"step {number}: {line} so far {known}" for number, (line, known) in columns]
    assert tag == DIRECT, tag
    return []


def _say(number: int, notation: Notation, width: int = 1) -> str:
    """Write a number in the notation of the prompt, with leading zeros up to `width`."""
    bits = format(number, f"0{width}b")
    return notation.joiner.join({"0": notation.zero, "1": notation.one}[bit] for bit in bits)


def _value(problem: Problem) -> int | bool:
    numbers = problem.operands
    a, b = numbers[0], numbers[-1]
    by_name: dict[str, Callable[[], int | bool]] = {
        "add": lambda: a + b,
        "subtract": lambda: a - b,
        "multiply": lambda: a * b,
        "increment": lambda: a + 1,
        "decrement": lambda: a - 1,
        "double": lambda: a << 1,
        "halve": lambda: a >> 1,
        "to_decimal": lambda: a,
        "to_binary": lambda: a,
        "minimum": lambda: min(a, b),
        "maximum": lambda: max(a, b),
        "less_than": lambda: a < b,
        "greater_than": lambda: a > b,
        "equals": lambda: a == b,
    }
    return by_name[problem.operation]()


def _equation(prompt: str, problem: Problem, notation: Notation) -> str:
    """Return the last line: the call as it stands in the prompt, and its value."""
    call = prompt.rpartition("Compute: ")[2].partition(")")[0] + ")"
    value = _value(problem)
    if isinstance(value, bool):
        return f"{call} = {str(value).lower()}"
    return f"{call} = {value if problem.operation == 'to_decimal' else _say(value, notation)}"


def _decimal_statement(problem: Problem) -> str:
    numbers, name, value = problem.operands, problem.operation, _value(problem)
    a, b = numbers[0], numbers[-1]
    order = f"{a} {_relation(a, b)} {b}"
    powers = [str(1 << i) for i in reversed(range(a.bit_length())) if a & (1 << i)] or ["0"]
    statements = {
        "add": f"{a} + {b} = {value}",
        "increment": f"{a} + 1 = {value}",
        "subtract": f"{a} - {b} = {value}",
        "decrement": f"{a} - 1 = {value}",
        "multiply": f"{a} * {b} = {value}",
        "double": f"{a} * 2 = {value}",
        "halve": f"{a} = 2 * {a // 2} + {a % 2}",
        "to_decimal": f"{' + '.join(powers)} = {a}",
        "to_binary": f"{a} = {' + '.join(powers)}",
        "minimum": f"{order}, so {value}",
        "maximum": f"{order}, so {value}",
    }
    return statements.get(name, order)


def _relation(a: int, b: int) -> str:
    return "=" if a == b else "<" if a < b else ">"


def _columns(problem: Problem, notation: Notation) -> Iterator[tuple[str, str]]:
    """Yield each line of work and what is known after it."""
    name, width = problem.operation, max(1, *(number.bit_length() for number in problem.operands))
    if name in ("add", "increment", "subtract", "decrement"):
        lines = _carried(problem, notation, width)
    elif name in ("multiply", "double", "halve"):
        lines = _shifted(problem, notation)
    elif name in ("to_decimal", "to_binary"):
        lines = _converted(problem, notation, width)
    else:
        lines = _compared(problem, notation, width)
    yield from lines


def _carried(problem: Problem, notation: Notation, width: int) -> Iterator[tuple[str, str]]:
    """Sums and differences: what comes into column i is what the columns below it could not hold."""
    adds, one = problem.operation in ("add", "increment"), problem.operation in ("increment", "decrement")
    a, b = problem.operands[0], 0 if one else problem.operands[1]
    sign = "+" if adds else "-"
    if adds:  # one more column where the last one carries
        width = (a + b + int(one)).bit_length() or 1
    for i in range(width):
        column = 1 << i
        low_a, low_b = a % column, b % column + int(one)
        comes_in = (low_a + low_b) >> i if adds else int(low_a < low_b)
        high = a % (2 * column), b % (2 * column) + int(one)
        goes_out = sum(high) >> (i + 1) if adds else int(high[0] < high[1])
        known = (sum(high) if adds else high[0] - high[1]) % (2 * column)
        terms = [a >> i & 1] + ([] if one else [b >> i & 1]) + [comes_in]
        left = sign.join(_say(term, notation) for term in terms)
        right = _say(2 * goes_out + (known >> i), notation, width=2)
        yield f"{left}={right}", _say(known, notation, width=i + 1)


def _shifted(problem: Problem, notation: Notation) -> Iterator[tuple[str, str]]:
    a, b = problem.operands[0], problem.operands[-1]
    if problem.operation == "double":
        yield f"{_say(a, notation)}|{_say(0, notation)}", _say(2 * a, notation)
    elif problem.operation == "halve":
        yield f"{_say(a // 2, notation)}|{_say(a % 2, notation)}", _say(a // 2, notation)
    else:
        for i in range(max(1, b.bit_length())):
            before, after = a * (b % (1 << i)), a * (b % (2 << i))
            summed = f"{_say(before, notation)}+{_say(after - before, notation)}={_say(after, notation)}"
            yield f"{_say(b >> i & 1, notation)}:{summed}", _say(after, notation)


def _converted(problem: Problem, notation: Notation, width: int) -> Iterator[tuple[str, str]]:
    (number,) = problem.operands
    for i in range(width):
        digit, low = _say(number >> i & 1, notation), number % (2 << i)
        if problem.operation == "to_decimal":
            yield f"{digit}*{1 << i}={number & (1 << i)},{low}", str(low)
        else:
            yield f"{number >> i}=2*{number >> (i + 1)}+{digit}", _say(low, notation, width=i + 1)


def _compared(problem: Problem, notation: Notation, width: int) -> Iterator[tuple[str, str]]:
    a, b = problem.operands
    claims = {"less_than": "<", "minimum": "<", "greater_than": ">", "maximum": ">", "equals": "="}
    claim = claims[problem.operation]
    for i in range(width):
        holds = _relation(a % (2 << i), b % (2 << i)) == claim
        left, right = _say(a >> i & 1, notation), _say(b >> i & 1, notation)
        yield f"{left}{claim}{right}={_say(int(holds), notation)}", str(holds).lower()
