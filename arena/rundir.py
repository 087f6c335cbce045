"""The run directory: the whole interface between the daemon and a trainer.

The trainer reads `job.json`, appends `metrics.jsonl`, commits checkpoints, obeys `control/`, ends with `outcome.json`.
The daemon reads what the trainer wrote and writes `attempt.json` and `control/`. Neither meets the other; the same
directory works in a test, a subprocess or a container.

`metrics.jsonl` is the truth about a run: one JSON object a line, one write(2) a record on an O_APPEND descriptor, so
that kill -9 of every process loses nothing that was written. Each line ends with the CRC-32 of the rest of it; a torn
tail is cut when the trainer opens the file again, and a reader stops before it.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from realm.errors import CorruptFileError, NotFoundError
from realm.files import durable_write_json, read_json
from realm.processes import ProcessIdentity

Verb = Literal["pause", "resume", "stop", "skip", "save"]
VERBS: tuple[Verb, ...] = ("pause", "resume", "stop", "skip", "save")
EXIT_COMPLETED, EXIT_FAILED, EXIT_STOPPED, EXIT_BAD_CONFIG = 0, 1, 75, 78
_CRC_KEY = b',"crc":"'


@dataclass(frozen=True)
class ControlMessage:
    """One request to a running trainer."""

    id: str
    verb: Verb


@dataclass(frozen=True)
class Attempt:
    """One try at a run. A trainer whose `fence` is not the newest must not commit anything."""

    attempt: int
    fence: int
    worker: ProcessIdentity | None


@dataclass(frozen=True)
class Outcome:
    """How a run ended, written durably by the trainer as its last act."""

    status: Literal["completed", "stopped", "skipped", "failed"]
    step: int
    """Optimizer steps done in this run."""
    fence: int
    checkpoint: str | None = None
    """Name of the final checkpoint's folder."""
    error: dict[str, str] | None = None
    """code, message, hint"""
    data_hash: str | None = None
    """Rolling hash of the samples consumed, in order."""


class RunDir:
    """A run directory by its path; every method is safe on a directory that another process is using."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_path = path / "metrics.jsonl"
        self.control_path = path / "control"

    def ensure(self) -> RunDir:
        for folder in (self.path, self.path / "data", self.path / "eval", self.control_path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    # What the daemon writes

    def write_attempt(self, attempt: Attempt) -> None:
        worker = attempt.worker.to_dict() if attempt.worker else None
        value = {"attempt": attempt.attempt, "fence": attempt.fence, "worker": worker}
        durable_write_json(self.path / "attempt.json", value)

    def send(self, message: ControlMessage) -> None:
        """Drop a request for the trainer; the same id twice is one request."""
        durable_write_json(self.control_path / f"{message.id}.json", {"id": message.id, "verb": message.verb})

    # What the trainer reads

    def attempt(self) -> Attempt | None:
        try:
            value = read_json(self.path / "attempt.json")
            return Attempt(int(value["attempt"]), int(value["fence"]), ProcessIdentity.from_dict(value.get("worker")))
        except (NotFoundError, CorruptFileError, KeyError, TypeError, ValueError):
            return None

    def control_messages(self) -> list[ControlMessage]:
        """Return all requests, oldest first (ids sort by time). What cannot be read yet is left for the next look."""
        found = []
        for name in sorted(_names(self.control_path)):
            if not name.endswith(".json") or name.startswith("."):
                continue
            try:
                value = read_json(self.control_path / name)
                if value["verb"] in VERBS:
                    found.append(ControlMessage(str(value["id"]), value["verb"]))
            except (NotFoundError, CorruptFileError, KeyError, TypeError):
                continue
        return found

    # What the trainer writes

    def write_outcome(self, outcome: Outcome) -> None:
        durable_write_json(self.path / "outcome.json", vars(outcome))

    def outcome(self) -> Outcome | None:
        try:
            return Outcome(**read_json(self.path / "outcome.json"))
        except (NotFoundError, CorruptFileError, TypeError):
            return None

    def clear_outcome(self) -> None:
        """Forget an earlier attempt's end (the daemon has taken it into the ledger)."""
        (self.path / "outcome.json").unlink(missing_ok=True)

    def checkpoints(self) -> list[Path]:
        """Return the committed checkpoint folders, in no promised order; whether each verifies is not checked."""
        return [self.path / name for name in _names(self.path) if name.startswith("checkpoint-")]


class MetricsWriter:
    """Appends records to `metrics.jsonl`; opening cuts a torn tail and goes on counting `seq`."""

    def __init__(self, path: Path) -> None:
        self._seq = repair(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record. Raises OSError when the disk is full; the caller decides whether that matters."""
        self._seq += 1
        record = {"seq": self._seq, "kind": kind, "t": round(time.time(), 3), **fields}
        line = encode_record(record)
        written = os.write(self._descriptor, line)
        try:
            while written != len(line):  # a full disk tears the line: try for the rest of it, else cut it off
                written += os.write(self._descriptor, line[written:])
        except OSError:
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            self._seq -= 1
            raise

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class MetricsTail:
    """Reads `metrics.jsonl` as it grows: `read()` returns the records since the last call."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset

    def read(self, limit_bytes: int = 1 << 22) -> list[dict[str, Any]]:
        """Return new whole records, at most `limit_bytes` of them; an unfinished last line waits."""
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self.offset:  # the trainer cut a torn tail that was never a record
                    self.offset = 0
                if size == self.offset:
                    return []
                file.seek(self.offset)
                data = file.read(limit_bytes)
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self.offset += end
        return [record for line in data[:end].splitlines() if (record := decode_record(line)) is not None]


def encode_record(record: dict[str, Any]) -> bytes:
    """Return a record's line: compact JSON whose last key is the CRC-32 of the line without it. NaN becomes null."""
    try:
        body = json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        body = json.dumps(_finite(record), separators=(",", ":"), ensure_ascii=False).encode()
    return body[:-1] + _CRC_KEY + b"%08x" % zlib.crc32(body) + b'"}\n'


def decode_record(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None when it is torn or altered."""
    body, mark, crc = line.rstrip(b"\n").rpartition(_CRC_KEY)
    if not mark or len(crc) != 10 or crc[8:] != b'"}':
        return None
    body += b"}"
    if b"%08x" % zlib.crc32(body) != crc[:8]:
        return None
    record = json.loads(body)
    return record if isinstance(record, dict) else None


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every whole record of a metrics file, oldest first."""
    tail = MetricsTail(path)
    while records := tail.read():
        yield from records


def repair(path: Path) -> int:
    """Cut a torn tail off a metrics file and return the last `seq` (0 for none)."""
    try:
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - (1 << 20))
            file.seek(start)
            data = file.read()
            end = data.rfind(b"\n") + 1
            if end < len(data):
                file.truncate(start + end)
            for line in reversed(data[:end].splitlines()):
                record = decode_record(line)
                if record is not None:
                    return int(record["seq"])
            return 0
    except FileNotFoundError:
        return 0


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
