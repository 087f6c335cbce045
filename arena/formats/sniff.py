"""What a file is, from its first bytes and, where these cannot tell, its name."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from arena.formats.jsontext import CONTAINER_KEYS
from arena.formats.kinds import KINDS
from arena.formats.source import DEFAULT_LIMITS, Limits, read_head
from realm.errors import RefusedError

Container = Literal["jsonl", "json", "parquet", "csv", "tsv", "text", "quest"]

_HEAD = 1 << 16
_EXTENSIONS: dict[str, Container] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "txt": "text",
    "text": "text",
    "md": "text",
    "markdown": "text",
    "yaml": "quest",
    "yml": "quest",
}
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"SQLite format 3", "a SQLite database"),
    (b"\x7fELF", "a program"),
    (b"GGUF", "a model, not data"),
    (b"\x80\x02", "a pickle, which is never opened"),
    (b"\x80\x03", "a pickle, which is never opened"),
    (b"\x80\x04", "a pickle, which is never opened"),
    (b"\x80\x05", "a pickle, which is never opened"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"ARROW1", "an Arrow file"),
)
_CONTROLS = bytes({*range(32)} - {*b"\t\n\r\f\x1b"})
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Format:
    """How a file is to be read."""

    container: Container
    gzipped: bool = False
    encoding: str = "utf-8"
    cr_only: bool = False
    """Lines end in bare carriage returns."""

    @property
    def name(self) -> str:
        return f"{self.container}.gz" if self.gzipped else self.container

    @property
    def suffix(self) -> str:
        """The ending under which such a file is kept."""
        ending = {"text": ".txt", "quest": ".yaml"}.get(self.container, f".{self.container}")
        return f"{ending}.gz" if self.gzipped else ending


def sniff(path: Path, name: str | None = None, limits: Limits = DEFAULT_LIMITS) -> Format:
    """Return what the file is. `name` is what people call it, by default the path's. Raises RefusedError."""
    head, gzipped = read_head(path, _HEAD, limits)
    if not head:
        raise RefusedError("The file is empty.", code="empty_file")
    extension = _extension(path.name if name is None else name)
    if head.startswith(b"PAR1"):
        if gzipped:
            raise RefusedError("Parquet inside gzip cannot be read.", hint="Unpack it first.", code="unknown_format")
        return Format("parquet")
    _refuse_foreign(head)
    encoding = _encoding(head)
    text = head.decode("utf-8" if encoding == "utf-8" else encoding, errors="replace").removeprefix("\ufeff")
    cr_only = "\r" in text and "\n" not in text
    text = text.replace("\r", "\n") if cr_only else text
    container = _container(text, len(head) < _HEAD, extension)
    if container is None:
        raise RefusedError(
            f"What kind of file {'.' + extension if extension else 'this'} is cannot be told from its content.",
            hint="Name it .jsonl, .json, .csv, .tsv, .parquet, .txt or .md.",
            code="unknown_format",
        )
    return Format(container, gzipped, encoding, cr_only)


def _extension(name: str) -> str:
    parts = name.lower().split(".")
    if len(parts) > 2 and parts[-1] in ("gz", "gzip"):
        parts.pop()
    return parts[-1][:16] if len(parts) > 1 else ""


def _refuse_foreign(head: bytes) -> None:
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise RefusedError(
                f"This is {what}.", hint="Drop JSONL, JSON, CSV, Parquet or plain text.", code="unknown_format"
            )
    if head[8:10] == b"{\x22" and head[3:8] == b"\0" * 5:
        raise RefusedError("This is a model, not data.", code="unknown_format")


def _encoding(head: bytes) -> str:
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    pairs = len(head) // 2
    if pairs >= 2:
        even, odd = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
        if odd > 0.3 * pairs and even < 0.05 * pairs:
            return "utf-16-le"
        if even > 0.3 * pairs and odd < 0.05 * pairs:
            return "utf-16-be"
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if 0 in head and controls > len(head) // 50 + 8:
        raise RefusedError("This is a binary file.", hint="Drop text, JSON, CSV or Parquet.", code="unknown_format")
    return "utf-8"


def _container(text: str, whole: bool, extension: str) -> Container | None:
    known = _EXTENSIONS.get(extension)
    if known == "quest":
        return known
    start = text.lstrip()
    if start.startswith("{"):
        shape = _object_shape(start, whole)
        if known == "text" and not _is_known_row(start):
            return "text"
        return shape
    if start.startswith("["):
        if known == "text" and not re.match(r"\[\s*\{", start):
            return "text"
        return "json"
    return known


def _object_shape(text: str, whole: bool) -> Container:
    """Tell JSON lines from one JSON document that begins with a brace."""
    line, newline, _ = text.partition("\n")
    if not newline and not whole:  # a first line longer than the head
        match = re.match(r'\{\s*"([^"\\]{1,40})"\s*:\s*\[', line)
        return "json" if match and match[1] in CONTAINER_KEYS else "jsonl"
    value = _load(line)
    if value is not None:
        has_list = any(type(value.get(key)) is list for key in CONTAINER_KEYS)
        return "json" if has_list and not any(kind.matches(value) for kind in KINDS) else "jsonl"
    return "json" if line.rstrip().endswith((",", "{", "[", ":")) else "jsonl"


def _is_known_row(text: str) -> bool:
    value = _load(text.partition("\n")[0])
    return value is not None and any(kind.matches(value) for kind in KINDS)


def _load(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
