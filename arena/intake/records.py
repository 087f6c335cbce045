"""What the intake hands out: arrivals, refusals, and what it found on a scan."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from arena.formats import QuestSpec
from arena.gatekeepers import Report
from vault.records import Job, Priority

ResultKind = Literal["accepted", "duplicate", "refused", "waiting", "ignored", "error"]

_SKILL_AND_LEVEL = re.compile(r"(?:^|[^a-z0-9])([a-z][a-z0-9]*)[_\-. ]l(\d{1,3})(?![a-z0-9])")
_AGAIN = re.compile(r"[ ._-]again\d{0,3}$")
_LABEL_CHARACTERS = 120


@dataclass(frozen=True)
class Arrival:
    """A file that was let in, or rows that a quest file brought. All of it is durable when this is handed over."""

    name: str
    """What people call it; safe to show anywhere, never a path."""
    source: str
    """Where it came from: `inbox`, `inbox/high`, …"""
    object_sha256: str
    """The file as it was dropped, in data/objects; for rows inside a quest file that file."""
    object_path: Path
    canonical_path: Path
    """The rows as the trainers read them."""
    canonical_sha256: str
    rows: int
    format: str
    report: Report
    spec: QuestSpec | None
    size: int
    """Bytes of the file as it was dropped."""
    priority: Priority
    hero: str
    skill: str | None
    level: int | None
    idem_key: str
    """The same file under the same name for the same hero and skill has the same key."""


@dataclass(frozen=True)
class RefusedArrival:
    """A file that was not let in and lies in `failed/` when the scan is over."""

    name: str
    source: str
    code: str
    message: str
    hint: str
    report: Report | None
    spec: QuestSpec | None
    size: int
    priority: Priority
    hero: str
    skill: str | None
    level: int | None
    idem_key: str
    """One key for each time that a file is dropped: it must not stand in the way of the mended file."""


@dataclass(frozen=True)
class IntakeResult:
    """Something that happened to a file in the inbox."""

    kind: ResultKind
    name: str
    message: str
    hint: str = ""
    code: str = ""
    job: Job | None = None
    arrival: Arrival | None = None
    report: Report | None = None
    path: Path | None = None
    """Where a refused file lies now."""


@dataclass(frozen=True)
class ArrivingFile:
    """A file that lies in the inbox, and why it was not taken yet."""

    name: str
    size: int
    code: str
    reason: str


@dataclass(frozen=True)
class ScanResult:
    """What one look at the inbox brought: what happened, what still lies there, when to look again."""

    results: tuple[IntakeResult, ...]
    arriving: tuple[ArrivingFile, ...]
    next_scan_s: float | None
    """Seconds until another look is worth it; None when nothing waits for time to pass."""

    def __iter__(self) -> Iterator[IntakeResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


def label(name: str) -> str:
    """Return a file's name as it can be shown: no control characters, no bidirectional tricks, of bearable length."""
    shown = "".join(c if _is_shown(c) else "\ufffd" for c in os.fsencode(name).decode("utf-8", "replace"))
    if len(shown) > _LABEL_CHARACTERS:
        shown = f"{shown[: _LABEL_CHARACTERS - 30]}…{shown[-29:]}"
    return shown.strip() or "unnamed"


def _is_shown(character: str) -> bool:
    # Cf holds the marks that turn the direction of writing, and the joiner that emoji are made with.
    category = unicodedata.category(character)
    return (category[0] != "C" and category not in ("Zl", "Zp")) or character == "\u200d"


def guess_from_name(name: str) -> tuple[str | None, int | None]:
    """Return (skill, level) from a name such as `train_bin_L7_2000.jsonl`."""
    found = _SKILL_AND_LEVEL.search(name.lower())
    return (found[1], int(found[2])) if found else (None, None)


def asks_again(name: str) -> bool:
    """Tell whether a name asks for another run of the same content: `x.again.jsonl`, `x-again2.jsonl`."""
    stem = name.lower().removesuffix(".gz").rpartition(".")[0]
    return _AGAIN.search(stem) is not None


def digest(*parts: str | bytes) -> str:
    """Return the SHA-256 over parts that cannot run into each other."""
    total = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()
