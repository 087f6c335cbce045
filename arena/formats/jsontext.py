"""JSON read strictly, and JSON documents read one element at a time.

`parse` refuses what the standard library lets through: duplicate keys, NaN and infinities, nesting beyond the cap, raw
NUL bytes. `elements` walks an array (or the list inside an object) by brackets and strings alone, so that a document of
any size takes the memory of its largest row, and a row that does not parse spoils no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from arena.formats.kinds import BadRowError
from arena.formats.source import Limits, RawRow
from realm.errors import RefusedError

CONTAINER_KEYS = ("data", "rows", "train", "examples", "items", "instances")
"""Keys of an object whose list holds the rows."""

_CHUNK = 1 << 18
_SPACE = b" \t\r\n"
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')
_SCALAR_END = re.compile(rb"[,\]}\s]")
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")


def parse(raw: bytes, limits: Limits) -> Any:
    """Return the value of one JSON text. Raises BadRowError."""
    if b"\0" in raw:
        raise BadRowError("nul_byte")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadRowError("not_utf8", f"byte 0x{raw[error.start]:02x} at position {error.start + 1}") from None
    if raw.count(b"{") + raw.count(b"[") > limits.depth and _depth(raw) > limits.depth:
        raise BadRowError("too_deep", f"deeper than {limits.depth} levels")
    try:
        return _DECODER.decode(text)
    except BadRowError:
        raise
    except RecursionError:
        raise BadRowError("too_deep") from None
    except json.JSONDecodeError as error:
        raise BadRowError("broken_json", f"{error.msg} at column {error.pos + 1}") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadRowError("broken_json", str(error)[:120]) from None


def read_row(line: int, raw: bytes, limits: Limits) -> RawRow:
    """Return the row that one JSON text holds, or the reason why there is none."""
    try:
        return RawRow(line, parse(raw, limits))
    except BadRowError as error:
        return RawRow(line, None, error.reason, error.detail, raw)


def elements(stream: BinaryIO, limits: Limits, notes: list[str]) -> Iterator[RawRow]:
    """Yield the rows of a JSON document. Raises RefusedError where its outline is broken."""
    walker = _Walker(stream, limits)
    opening = walker.peek()
    if opening == b"[":
        yield from walker.array()
    elif opening == b"{":
        yield from walker.object(notes)
    else:
        walker.broken("neither an array nor an object")
    if walker.peek():
        walker.broken("something follows the end of the document")


class _Walker:
    """A window over the document. `self._at` is where we are in the window, `self._line` the line of that place."""

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._window = b""
        self._at = 0
        self._line = 1

    def peek(self) -> bytes:
        """Return the next byte that is not white space, without taking it; empty at the end."""
        while True:
            found = _NOT_SPACE.search(self._window, self._at)
            self._move(found.start() if found else len(self._window))
            if found:
                return self._window[self._at : self._at + 1]
            if not self._more():
                return b""

    def array(self) -> Iterator[RawRow]:
        """Yield the elements of the array that begins here; ends behind its bracket."""
        self._move(self._at + 1)
        while (first := self.peek()) != b"]":
            if not first or first == b",":
                self.broken("an element is missing" if first else "it ends inside the array")
            line = self._line
            raw = self._value(first)
            if raw is None:
                yield RawRow(line, None, "row_too_long", f"more than {self._limits.line_bytes} bytes")
            else:
                yield read_row(line, raw, self._limits)
            following = self.peek()
            if following == b",":
                self._move(self._at + 1)
            elif following != b"]":
                self.broken("a comma or the end of the array is missing")
        self._move(self._at + 1)

    def object(self, notes: list[str]) -> Iterator[RawRow]:
        """Yield the rows of the first list under a known key; where there is none, the object is the only row."""
        line, found, keys, parts = self._line, False, list[str](), list[bytes]()
        kept: int = 0
        self._move(self._at + 1)
        while (first := self.peek()) != b"}":
            if first != b'"':
                self.broken("a key is missing")
            key = self._value(first) or b""
            if self.peek() != b":":
                self.broken("a colon is missing")
            self._move(self._at + 1)
            name = str(_key(key))
            keys.append(name)
            value = self.peek()
            if value == b"[" and name in CONTAINER_KEYS and not found:
                found = True
                yield from self.array()
            else:
                raw = self._value(value)
                kept += len(key) + len(raw or b"") + 2
                if raw is None or kept > self._limits.line_bytes:
                    parts, kept = [], self._limits.line_bytes + 1
                elif not found:
                    parts.append(key + b":" + raw)
            if self.peek() == b",":
                self._move(self._at + 1)
            elif self.peek() != b"}":
                self.broken("a comma or the end of the object is missing")
        self._move(self._at + 1)
        if found and len(keys) > 1:
            notes.append(f"Only one list of the JSON object was read; its keys are {', '.join(keys[:8])}.")
        elif not found and kept > self._limits.line_bytes:
            raise RefusedError(
                "The JSON object holds no list of rows.",
                hint=f"Use one of: {', '.join(CONTAINER_KEYS)}.",
                code="no_rows",
            )
        elif not found:
            yield read_row(line, b"{" + b",".join(parts) + b"}", self._limits)

    def broken(self, why: str) -> NoReturn:
        raise RefusedError(
            f"The JSON document is broken near line {self._line}: {why}.",
            hint="One JSON object a line (.jsonl) would lose only the broken row.",
            code="broken_json",
            line=self._line,
        )

    def _value(self, first: bytes) -> bytes | None:
        """Take the value that begins here and return its bytes; None when it is beyond the cap (taken all the same)."""
        if first not in (b"{", b"[", b'"'):
            return self._scalar()
        parts: list[bytes] = []
        size = depth = 0
        in_string = False
        begin = at = self._at
        while True:
            pattern = _INSIDE if in_string else _OUTSIDE
            found = pattern.search(self._window, at)
            if found is None or (found[0] == b"\\" and found.end() == len(self._window)):
                at = found.start() if found else len(self._window)
                size += at - begin
                parts = [*parts, self._window[begin:at]] if size <= self._limits.line_bytes else []
                self._move(at)
                if not self._more():
                    self.broken("it ends inside a value")
                begin = at = self._at
                continue
            at = found.end()
            mark = found[0]
            if mark == b"\\":
                at += 1
            elif mark == b'"':
                in_string = not in_string
            elif mark in (b"{", b"["):
                depth += 1
            else:
                depth -= 1
            if depth <= 0 and not in_string:
                break
        size += at - begin
        parts.append(self._window[begin:at])
        self._move(at)
        return b"".join(parts) if size <= self._limits.line_bytes else None

    def _scalar(self) -> bytes | None:
        """Take a number or a word."""
        parts: list[bytes] = []
        size = 0
        while True:
            found = _SCALAR_END.search(self._window, self._at)
            end = found.start() if found else len(self._window)
            size += end - self._at
            parts = [*parts, self._window[self._at : end]] if size <= self._limits.line_bytes else []
            self._move(end)
            if found or not self._more():
                break
        if size == 0:
            self.broken("a value is missing")
        return b"".join(parts) if size <= self._limits.line_bytes else None

    def _move(self, to: int) -> None:
        self._line += self._window.count(b"\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Drop what lies behind us and read on; False at the end of the file."""
        chunk = self._stream.read(_CHUNK)
        self._window = self._window[self._at :] + chunk
        self._at = 0
        return bool(chunk)


def _depth(raw: bytes) -> int:
    """Return how deep brackets nest, strings left out."""
    depth = deepest = at = 0
    in_string = False
    while found := (_INSIDE if in_string else _OUTSIDE).search(raw, at):
        at = found.end()
        mark = found[0]
        if mark == b"\\":
            at += 1
        elif mark == b'"':
            in_string = not in_string
        elif mark in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _key(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadRowError("duplicate_key", f"{twice!r:.80}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise BadRowError("not_a_number", name)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
