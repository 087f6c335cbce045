"""The content layer: checks of single rows, and of each row against all the others."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from arena.formats import BadRowError, Row


def check_turns(row: Row) -> None:
    """Roles must take turns, system first, and no turn of a person or the assistant is empty. Raises BadRowError."""
    messages = row.get("messages")
    if messages is None:
        return
    expected = "user"
    for place, message in enumerate(messages):
        role = message["role"]
        if role == "system" and place == 0:
            continue
        if role != expected:
            raise BadRowError("role_order", f"message {place + 1} is from the {role}, not the {expected}")
        if not message["content"].strip():
            raise BadRowError("empty_turn", f"message {place + 1}, from the {role}")
        expected = "assistant" if role == "user" else "user"
    if expected == "assistant":
        raise BadRowError("role_order", "the last message is from the user")


class DigestSet:
    """A set of 64-bit numbers in 16 to 32 bytes each, where Python's own takes 80. Beyond `limit` it learns no more."""

    def __init__(self, limit: int = 1 << 23) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0
        self._limit = limit

    @property
    def is_full(self) -> bool:
        return self._count >= self._limit

    def add(self, number: int) -> bool:
        """Add a number and return whether it was there already."""
        number = (number & 0xFFFFFFFFFFFFFFFF) or 1
        slots = self._slots
        mask = len(slots) - 1
        at = number & mask
        while slots[at]:
            if slots[at] == number:
                return True
            at = (at + 1) & mask
        if self._count < self._limit:
            slots[at] = number
            self._count += 1
            if 2 * self._count > len(slots):
                self._grow()
        return False

    def __contains__(self, number: int) -> bool:
        number = (number & 0xFFFFFFFFFFFFFFFF) or 1
        mask = len(self._slots) - 1
        at = number & mask
        while self._slots[at]:
            if self._slots[at] == number:
                return True
            at = (at + 1) & mask
        return False

    def _grow(self) -> None:
        old = self._slots
        slots = self._slots = array("Q", bytes(8 * 2 * len(old)))
        mask = len(slots) - 1
        for number in old:
            if number:
                at = number & mask
                while slots[at]:
                    at = (at + 1) & mask
                slots[at] = number


def loose(text: str) -> str:
    """Return a text without what near duplicates differ in: case, spacing, a closing mark.

    Nothing else is taken away: in mathematics and in invented alphabets every sign is content.
    """
    return " ".join(text.casefold().split()).rstrip(".!?… ")


def loose_digest(row: Row) -> int:
    """Return a number that near duplicates share."""
    if "text" in row:
        return hash(loose(row["text"]))
    return hash("\0".join(f"{message['role']}:{loose(message['content'])}" for message in row["messages"]))


class NearHeldOut:
    """Withholds rows that ask an evaluation problem in another guise."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._digests = DigestSet()
        for text in texts:
            self._digests.add(hash(loose(text)))

    def check(self, row: Row) -> str | None:
        """Return why the row is withheld, or None."""
        asked = [m["content"] for m in row.get("messages", ()) if m["role"] == "user"] or [row.get("text", "")]
        if any(hash(loose(text)) in self._digests for text in asked):
            return "it asks a problem of an evaluation; only case, spacing or the closing mark differ"
        return None
