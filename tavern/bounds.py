"""Bounds of everything that a caller may send: numbers, ids, names, page sizes, bodies.

Every integer that can reach SQL is at most 2**53 - 1 (exact in JSON and in a database column), every id is
`[a-z0-9_]{1,80}`, every text has a length and holds neither NUL nor lone surrogates. Routes use these types and no
others; `strict_json` holds bodies to the same rules before a route sees them.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import AfterValidator, Field

MAX_INT = 2**53 - 1
JSON_BODY_BYTES = 1 << 20
JSON_DEPTH = 32
HEADER_BYTES = 16 << 10
QUERY_BYTES = 4 << 10
MAX_POINTS = 1500
ID_PATTERN = r"^[a-z0-9_]{1,80}$"
NAME_PATTERN = r"^[A-Za-z0-9_./@ -]{1,80}$"


class BadJsonError(ValueError):
    """A body that is not JSON within our bounds; the message is fit to be shown."""


def clean_text(text: str) -> str:
    """Return `text` if it holds no control characters and can be encoded. Raises ValueError."""
    if any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise ValueError("must not hold control characters")
    return text


Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Id = Annotated[str, Field(pattern=ID_PATTERN)]
Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(clean_text)]

PathId = Annotated[str, Path(pattern=ID_PATTERN, description="An opaque id.", examples=["job_01jd2v5x8kq3m7t9w0ab"])]
QueryId = Annotated[str | None, Query(pattern=ID_PATTERN)]
QueryName = Annotated[str | None, Query(pattern=NAME_PATTERN)]
Limit = Annotated[int, Query(ge=1, le=200, description="How many to return at most.")]
Cursor = Annotated[int | None, Query(ge=0, le=MAX_INT, description="`next_cursor` of the page before.")]
After = Annotated[int | None, Query(ge=0, le=MAX_INT, description="Only what comes after this number.")]
Points = Annotated[int, Query(ge=2, le=MAX_POINTS, description="Most points to return; each keeps its bucket's range.")]


def strict_json(body: bytes) -> Any:
    """Parse a body: UTF-8, no NaN, no duplicate keys, numbers, texts and depth within bounds. Raises BadJsonError."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except BadJsonError:
        raise
    except RecursionError:
        raise BadJsonError("The body is nested too deeply.") from None
    except ValueError:
        raise BadJsonError("The body is not valid JSON.") from None
    _check(value, 0)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadJsonError("The body names a key twice.")
    return found


def _no_constant(name: str) -> Any:
    raise BadJsonError(f"{name} is not a JSON number.")


def _check(value: Any, depth: int) -> None:
    if depth > JSON_DEPTH:
        raise BadJsonError("The body is nested too deeply.")
    if isinstance(value, str):
        if "\0" in value or any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
            raise BadJsonError("A text holds NUL or half a character.")
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > MAX_INT:
            raise BadJsonError("A number is too large.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BadJsonError("A number is too large.")
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    else:
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
