"""Identifiers: opaque, sortable by time of creation, `[a-z0-9_]` only, so they are safe in names and addresses."""

from __future__ import annotations

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_SHAPE = re.compile(r"[a-z0-9_]{1,80}")


def new_id(prefix: str) -> str:
    """Return `prefix_` + 10 characters of milliseconds + 10 random ones (50 bits), Crockford base 32."""
    return f"{prefix}_{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(50), 10)}"


def is_id(text: str) -> bool:
    """Tell whether `text` has the shape of an identifier (which does not mean that it exists)."""
    return _SHAPE.fullmatch(text) is not None


def _base32(number: int, width: int) -> str:
    letters = []
    for _ in range(width):
        letters.append(_ALPHABET[number & 31])
        number >>= 5
    return "".join(reversed(letters))
