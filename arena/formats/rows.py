"""A file as a stream of rows: one reader per container, all with the same outcome.

Each reader yields `RawRow`s: a value, or the reason why that row has none. It raises RefusedError only where the
outline of the file is broken so that rows would be lost unseen.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from arena.formats import jsontext
from arena.formats.kinds import KINDS
from arena.formats.sniff import Format, sniff
from arena.formats.source import DEFAULT_LIMITS, Limits, RawRow, lines, open_source
from realm.errors import RefusedError

PIECE_BYTES = 16 << 10
"""Plain text is cut at the first blank line behind so many bytes."""
_PIECE_MAX = 64 << 10
_PARQUET_BATCH = 32
_CSV_JSON_COLUMNS = ("messages", "conversations", "metadata", "history")


@dataclass
class RowStream:
    """Rows of one file, in order. `notes` grows while it is read."""

    format: Format
    rows: Iterator[RawRow]
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[RawRow]:
        return self.rows


def open_rows(path: Path, name: str | None = None, limits: Limits = DEFAULT_LIMITS) -> RowStream:
    """Return the rows of a file. Raises RefusedError, here and while the rows are read."""
    kind = sniff(path, name, limits)
    notes = []
    if kind.encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"The file was read as {kind.encoding.upper()}.")
    if kind.cr_only:
        notes.append("The lines end in bare carriage returns.")
    if kind.container == "quest":
        raise RefusedError("This is a quest file, not data.", code="unknown_format")
    return RowStream(kind, _read(path, kind, limits, notes), notes)


def rows_from_values(values: Iterable[Any]) -> Iterator[RawRow]:
    """Return rows for values that are there already, counted from 1."""
    return (RawRow(number, value) for number, value in enumerate(values, start=1))


def _read(path: Path, kind: Format, limits: Limits, notes: list[str]) -> Iterator[RawRow]:
    if kind.container == "parquet":
        yield from _parquet(path, limits)
        return
    with open_source(path, gzipped=kind.gzipped, encoding=kind.encoding, cr_only=kind.cr_only, limits=limits) as stream:
        if kind.container == "jsonl":
            yield from _jsonl(stream, limits)
        elif kind.container == "json":
            yield from jsontext.elements(stream, limits, notes)
        elif kind.container == "text":
            yield from _text(stream, limits)
        else:
            yield from _table(stream, "\t" if kind.container == "tsv" else None, limits)


def _jsonl(stream: BinaryIO, limits: Limits) -> Iterator[RawRow]:
    for number, line in lines(stream, limits):
        if line is None:
            yield RawRow(number, None, "line_too_long", f"more than {limits.line_bytes} bytes")
        elif not line.isspace():
            yield jsontext.read_row(number, line.rstrip(b"\r\n"), limits)


def _text(stream: BinaryIO, limits: Limits) -> Iterator[RawRow]:
    """Yield pieces of plain text. Joined they are the text again, but for pieces of white space alone."""
    piece: list[str] = []
    size, start, number = 0, 1, 1
    rest = b""
    while data := stream.readline(_PIECE_MAX):
        data = rest + data
        ended = data.endswith(b"\n")
        cut = len(data) if ended else _whole_characters(data)
        data, rest = data[:cut], data[cut:]
        try:
            if b"\0" in data:
                raise ValueError
            text = data.decode().replace("\r\n", "\n")
        except ValueError:
            yield from _piece(start, piece)
            piece, size, start = [], 0, number + ended
            yield RawRow(number, None, "nul_byte" if b"\0" in data else "not_utf8", "", data)
        else:
            piece.append(text)
            size += len(data)
            if size >= _PIECE_MAX or (size >= PIECE_BYTES and not text.strip()):
                yield from _piece(start, piece)
                piece, size, start = [], 0, number + ended
        number += ended
    yield from _piece(start, piece)
    if rest.strip():
        yield RawRow(number, None, "not_utf8", "the file ends inside a character", rest)


def _piece(line: int, piece: list[str]) -> Iterator[RawRow]:
    text = "".join(piece)
    if text and not text.isspace():
        yield RawRow(line, {"text": text})


def _whole_characters(data: bytes) -> int:
    """Return how many bytes of `data` are whole characters, judging its last bytes."""
    if data.endswith(b"\r"):  # its newline may follow
        return len(data) - 1
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            return len(data)
        if byte >= 0xC0:
            width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if back < width else len(data)
    return len(data)


def _table(stream: BinaryIO, delimiter: str | None, limits: Limits) -> Iterator[RawRow]:
    feed = _Feed(stream, limits)
    first = next(feed, "")
    while first and not first.strip():
        first = next(feed, "")
    delimiter = delimiter or max(",;\t|", key=first.count)
    csv.field_size_limit(limits.line_bytes)
    reader = csv.reader(_prepend(first, feed), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise RefusedError(f"The header of the table is broken: {error}.", code="broken_csv") from error
    _check_header(header)
    while True:
        begin = feed.number + 1
        feed.taken = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if feed.ended:
                raise RefusedError(
                    f"A quote opened near line {begin} is never closed.", code="broken_csv", line=begin
                ) from error
            yield RawRow(begin, None, "broken_csv", str(error)[:120])
            continue
        if cells and any(cell.strip() for cell in cells):
            yield _table_row(begin, header, cells, limits)


class _Feed(Iterator[str]):
    """Lines for the csv reader, counted; a row that swallows too many bytes has an open quote."""

    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._lines = lines(stream, limits)
        self._limit = limits.line_bytes
        self.number = 0
        self.taken = 0
        self.ended = False

    def __next__(self) -> str:
        try:
            self.number, line = next(self._lines)
        except StopIteration:
            self.ended = True
            raise
        self.taken += len(line or b"")
        if line is None or self.taken > self._limit:
            raise RefusedError(
                f"The table row at line {self.number} is longer than {self._limit} bytes.",
                hint="Look for a quote that is never closed.",
                code="row_too_long",
                line=self.number,
            )
        return line.decode("utf-8", "surrogateescape")


def _prepend(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _check_header(header: list[str]) -> None:
    if len(set(header)) != len(header):
        raise RefusedError("The table names a column twice.", code="bad_header")
    if not any(all(name in header for name in kind.required) for kind in KINDS):
        raise RefusedError(
            f"The columns {', '.join(header)[:200]!r} are not those of a known kind of row.",
            hint="Known: " + ", ".join(" + ".join(kind.required) for kind in KINDS) + ".",
            code="bad_header",
        )


def _table_row(line: int, header: list[str], cells: list[str], limits: Limits) -> RawRow:
    source = "\t".join(cells).encode("utf-8", "surrogateescape")
    if len(cells) != len(header):
        return RawRow(line, None, "column_count", f"{len(cells)} instead of {len(header)}", source)
    value: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=True):
        if name in _CSV_JSON_COLUMNS and cell.strip():
            nested = jsontext.read_row(line, cell.encode("utf-8", "surrogateescape"), limits)
            if nested.reason:
                return nested._replace(detail=f"column {name!r}: {nested.detail}", source=source)
            value[name] = nested.value
        elif name and cell:
            value[name] = cell
    try:
        source.decode()
    except UnicodeDecodeError:
        return RawRow(line, None, "not_utf8", "", source)
    for kind in KINDS:  # an empty cell of a needed column is an empty text, not a missing field
        if all(name in header for name in kind.required):
            for name in kind.required:
                value.setdefault(name, "")
            break
    return RawRow(line, value)


def _parquet(path: Path, limits: Limits) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    size = path.stat().st_size
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            number = unpacked = 0
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH, use_threads=False):
                unpacked += batch.nbytes
                _check_expansion(unpacked, size, limits)
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(number, {str(key): _plain(item, limits.depth) for key, item in value.items()})
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the file
        raise RefusedError(f"The Parquet file cannot be read: {error!s:.200}.", code="broken_parquet") from error


def _check_expansion(unpacked: int, size: int, limits: Limits) -> None:
    if unpacked > limits.expanded_bytes or (unpacked > limits.free_bytes and unpacked > limits.expansion * size):
        raise RefusedError(
            f"The Parquet file of {size} bytes unpacks to more than {limits.expansion} times its size.",
            hint="Write it without dictionaries if it really is that repetitive.",
            code="decompression_bomb",
        )


def _plain(value: Any, depth: int) -> Any:
    """Return a Parquet value as JSON has it; what JSON does not know becomes text or null."""
    if value is None or type(value) in (str, int, bool):
        return value
    if depth == 0:
        return None
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is dict:
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    return None
