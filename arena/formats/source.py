"""Bytes of a training file as a stream of UTF-8, within limits.

Three layers, each a raw stream in a buffered reader: the file, gzip with a guard against decompression bombs, and a
transcoder for UTF-16, UTF-32, byte order marks and bare carriage returns. What comes out is read line by line; a line
beyond the cap is skipped without being held.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from realm.errors import RefusedError

_CHUNK = 1 << 18


@dataclass(frozen=True)
class Limits:
    """What a file may ask of this machine."""

    line_bytes: int = 4 << 20
    """Longest line or row."""
    depth: int = 64
    """Deepest nesting of JSON."""
    expansion: int = 500
    """Most bytes that one packed byte may become, judged beyond `free_bytes`."""
    free_bytes: int = 16 << 20
    expanded_bytes: int = 64 << 30
    """Most bytes that a compressed file may become in all."""
    messages: int = 4096
    """Most messages in a row."""


DEFAULT_LIMITS = Limits()


class RawRow(NamedTuple):
    """One row of a file: its value, or the reason why there is none. `line` counts from 1 (rows in Parquet)."""

    line: int
    value: Any
    reason: str | None = None
    detail: str = ""
    source: bytes = b""
    """The row's bytes where it could not be read, for the quarantine file."""


def open_source(path: Path, *, gzipped: bool, encoding: str, cr_only: bool, limits: Limits) -> BinaryIO:
    """Open a file for reading as UTF-8 bytes with `\\n` or `\\r\\n` line ends."""
    raw: io.RawIOBase | BinaryIO = open(path, "rb", buffering=_CHUNK)  # noqa: SIM115 - closed with the outermost
    if gzipped:
        raw = _buffered(_Gunzip(cast(BinaryIO, raw), limits))
    if encoding != "utf-8" or cr_only:
        raw = _buffered(_Transcoder(cast(BinaryIO, raw), encoding, cr_only))
    return cast(BinaryIO, raw)


def read_head(path: Path, size: int, limits: Limits) -> tuple[bytes, bool]:
    """Return the first `size` bytes, unzipped, and whether the file is gzipped."""
    with open(path, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    with open_source(path, gzipped=gzipped, encoding="utf-8", cr_only=False, limits=limits) as stream:
        return stream.read(size), gzipped


def lines(stream: BinaryIO, limits: Limits) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number, line with its end); None stands for a line beyond the cap, which is skipped."""
    cap = limits.line_bytes
    number = 0
    while line := stream.readline(cap + 1):
        number += 1
        if len(line) > cap:
            while not line.endswith(b"\n") and (line := stream.readline(_CHUNK)):
                pass
            yield number, None
        else:
            yield number, line


class _Gunzip(io.RawIOBase):
    """Gzip content with a ceiling on its ratio and size. Raises RefusedError where the file is broken or a bomb."""

    def __init__(self, compressed: BinaryIO, limits: Limits) -> None:
        self._compressed = compressed
        self._file = gzip.GzipFile(fileobj=compressed)
        self._limits = limits
        self._done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read1(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the file
            raise RefusedError(
                "The gzip file is damaged or cut short.", hint="Compress it again.", code="broken_gzip"
            ) from error
        self._done += len(data)
        limits = self._limits
        excessive = self._done > limits.free_bytes and self._done > limits.expansion * self._compressed.tell()
        if excessive or self._done > limits.expanded_bytes:
            raise RefusedError(
                f"The gzip file unpacks to more than {limits.expansion} times its size.",
                hint="Drop it unpacked if it really is that repetitive.",
                code="decompression_bomb",
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._compressed.close()
        super().close()


class _Transcoder(io.RawIOBase):
    """Another encoding, or other line ends, as UTF-8 with `\\n`."""

    def __init__(self, source: BinaryIO, encoding: str, cr_only: bool) -> None:
        self._source = source
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("strict") if encoding != "utf-8-sig" else None
        self._cr_only = cr_only
        self._ready = b""
        self._first = True
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            chunk = self._source.read(_CHUNK)
            self._ended = not chunk
            self._ready = self._convert(chunk)
            if self._cr_only:
                self._ready = self._ready.replace(b"\r", b"\n")
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _convert(self, chunk: bytes) -> bytes:
        if self._decoder is None:  # UTF-8 behind a mark: errors stay where they are, for the reader of each line
            chunk = chunk.removeprefix(codecs.BOM_UTF8) if self._first else chunk
            self._first = False
            return chunk
        try:
            text = self._decoder.decode(chunk, final=not chunk)
            if self._first and text:
                text, self._first = text.removeprefix("\ufeff"), False
            return text.encode()
        except UnicodeError as error:
            raise RefusedError(
                f"The file begins as {self._encoding} but is not: {error.__class__.__name__}.",
                hint="Save it as UTF-8.",
                code="bad_encoding",
            ) from error

    def close(self) -> None:
        self._source.close()
        super().close()


def _buffered(raw: io.RawIOBase) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(raw, _CHUNK))
