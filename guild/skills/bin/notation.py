"""How BIN writes numbers and names operations: plainly, or in a made-up symbol language.

Plain: circled digits, most significant first, minimal width (`①⓪①` is 5, `⓪` is 0), operations by
their own names. A symbol language renames the two digits (to emoji, or to words joined by dots) and
the operations that its problem uses; the key stands in the prompt:

    Key: 🍎 = ⓪, 🍐 = ①, zorp = add
    Compute: zorp(🍐🍎🍐, 🍐🍐)

Invariant: a notation read back from its own key is equal to it (tests/guild/test_bin_prompts.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

ZERO, ONE = "⓪", "①"

DIGIT_EMOJI = tuple("🍎🍐🍋🍇🍓🌵🌙🌊🔥🌱🐢🐙🦊🐝🎈🎲🔔🔑🧊🪐")
DIGIT_WORDS = ("sun", "moon", "oak", "reed", "salt", "iron", "east", "west", "hawk", "wolf", "mist", "clay")
OPERATION_WORDS = (
    "zorp", "blik", "fend", "quill", "marn", "tove", "drusk", "yarl", "plim", "vask", "nemb", "grell",
)  # fmt: skip


@dataclass(frozen=True)
class Notation:
    """The two digits, what joins them, and the new names of operations."""

    zero: str = ZERO
    one: str = ONE
    joiner: str = ""
    renamed: tuple[tuple[str, str], ...] = ()
    """Pairs of an operation's own name and its name in this language."""

    @property
    def is_plain(self) -> bool:
        return self == PLAIN

    def digits(self, bits: Sequence[int]) -> str:
        """Write bits, most significant first, at the width they come in."""
        return self.joiner.join(self.one if bit else self.zero for bit in bits)

    def operation(self, name: str) -> str:
        return dict(self.renamed).get(name, name)

    def key_line(self) -> str:
        """Return the line of the prompt that explains this language."""
        names = [f"{new} = {own}" for own, new in self.renamed]
        return "Key: " + ", ".join([f"{self.zero} = {ZERO}", f"{self.one} = {ONE}", *names])


PLAIN = Notation()


def invent(rng: random.Random, operation: str) -> Notation:
    """Return a symbol language for one problem."""
    in_words = rng.random() < 0.5
    zero, one = rng.sample(DIGIT_WORDS if in_words else DIGIT_EMOJI, 2)
    return Notation(zero, one, "." if in_words else "", ((operation, rng.choice(OPERATION_WORDS)),))
