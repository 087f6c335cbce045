"""What BIN asks: an operation on non-negative numbers, its key, and on which side of the split it lies.

The key names a problem and everything equal to it: operands of a commutative operation are sorted, and
`greater_than(a, b)` is `less_than(b, a)`. It does not depend on level, tag, notation or wording. One
fifth of all keys, by SHA-256, is held out for ever; nothing else decides, so a problem held out at one
level is held out at every other.

Invariant: equal problems share a side; the split is a pure function of the key (tests/guild/test_bin_split.py).
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

UNARY = frozenset({"increment", "decrement", "double", "halve", "to_decimal", "to_binary"})
BINARY = frozenset(
    {"add", "subtract", "multiply", "equals", "less_than", "greater_than", "minimum", "maximum"},
)
OPERATIONS = UNARY | BINARY
COMMUTATIVE = frozenset({"add", "multiply", "equals", "minimum", "maximum"})
HELD_OUT_ONE_IN = 5
PREFIX = "bin:"


@dataclass(frozen=True, order=True)
class Problem:
    """An operation and its operands, in the order in which they are asked."""

    operation: str
    operands: tuple[int, ...]

    @property
    def key(self) -> str:
        """Name of the problem and of all that are equal to it, e.g. `bin:add(3,5)`."""
        name, numbers = self.operation, self.operands
        if name == "greater_than":
            name, numbers = "less_than", numbers[::-1]
        elif name in COMMUTATIVE:
            numbers = tuple(sorted(numbers))
        return f"{PREFIX}{name}({','.join(map(str, numbers))})"

    @property
    def held_out(self) -> bool:
        return is_held_out_key(self.key)


def is_held_out_key(key: str) -> bool:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def is_askable(problem: Problem) -> bool:
    """Unsigned numbers: nothing is subtracted from less, and zero has no predecessor."""
    if problem.operation == "subtract":
        return problem.operands[0] >= problem.operands[1]
    return problem.operation != "decrement" or problem.operands[0] > 0


def draw(rng: random.Random, operations: Sequence[str], bits: int) -> Problem:
    """Return a random problem: operation first, so that small spaces are not starved, then operands."""
    operation = rng.choice(operations)
    count = 1 if operation in UNARY else 2
    while True:
        operands = tuple(rng.randrange(2**bits) for _ in range(count))
        if operation == "subtract":
            operands = tuple(sorted(operands, reverse=True))
        problem = Problem(operation, operands)
        if is_askable(problem):
            return problem


def enumerate_space(operations: Sequence[str], bits: int) -> Iterator[Problem]:
    """Yield every problem on numbers of up to `bits` bits, in a fixed order."""
    for operation in operations:
        repeat = 1 if operation in UNARY else 2
        for operands in itertools.product(range(2**bits), repeat=repeat):
            problem = Problem(operation, operands)
            if is_askable(problem):
                yield problem


def space_size(operations: Sequence[str], bits: int) -> int:
    """Return how many problems `enumerate_space` yields, without walking them."""
    numbers: int = 2**bits
    sizes = {
        "subtract": numbers * (numbers + 1) // 2,
        "decrement": numbers - 1,
    }
    return sum(sizes.get(name, numbers if name in UNARY else numbers * numbers) for name in operations)
