"""Whether a file in the inbox is complete, and what is remembered of it from look to look.

A file is complete when its size and time of change have stood still and no process has it open for writing. Nothing
here is needed after a crash: a new watch only looks a little longer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from arena.intake.files import Entry, Identity

NO_LEASE_STABLE_S = 2.0
"""How long a file must stand still where the file system cannot tell whether somebody writes to it."""
WRITER_PATIENCE_S = 600.0
"""A file that is open for writing but did not change for this long is taken all the same."""
_BACK_OFF_MAX_S = 60.0


@dataclass(frozen=True)
class Wait:
    """Why a file is not taken yet, and when to look again."""

    code: str
    reason: str
    seconds: float


@dataclass
class _Seen:
    identity: Identity
    first: float
    since: float
    """Since when the identity is this one."""
    failures: int = 0
    postponed: Wait | None = None
    retry_at: float = 0.0
    told: set[str] = field(default_factory=set)


class Watch:
    """What was seen of each path. Times are the caller's Unix seconds; a clock set back only lengthens a wait."""

    def __init__(self, stable_s: float) -> None:
        self._stable_s = stable_s
        self._seen: dict[Path, _Seen] = {}
        self._oddities: dict[Path, set[str]] = {}

    def keep(self, entries: list[Entry], oddities: set[Path], now: float) -> None:
        """Note what lies there now and forget the rest."""
        present = {entry.path for entry in entries}
        self._seen = {path: seen for path, seen in self._seen.items() if path in present}
        self._oddities = {path: told for path, told in self._oddities.items() if path in oddities}
        for entry in entries:
            seen = self._seen.get(entry.path)
            if seen is None:
                self._seen[entry.path] = _Seen(entry.identity, now, now)
                continue
            seen.first, seen.since = min(seen.first, now), min(seen.since, now)
            if seen.identity != entry.identity:
                self._seen[entry.path] = _Seen(entry.identity, seen.first, now)

    def age(self, path: Path, now: float) -> float:
        """Return for how long a path has been here, in seconds."""
        seen = self._seen.get(path)
        return now - seen.first if seen else 0.0

    def wait(self, entry: Entry, now: float) -> Wait | None:
        """Return why a file must wait, going by time alone; None when it stood still long enough."""
        seen = self._seen[entry.path]
        if seen.postponed is not None and 0 < seen.retry_at - now <= _BACK_OFF_MAX_S:
            return Wait(seen.postponed.code, seen.postponed.reason, seen.retry_at - now)
        return self._must_stand_still(entry, seen, now, self._stable_s)

    def judge_writer(self, entry: Entry, written_to: bool | None, now: float) -> Wait | None:
        """Return why a file must wait, given whether a process has it open for writing (None: cannot be told)."""
        seen = self._seen[entry.path]
        if written_to is None:
            return self._must_stand_still(entry, seen, now, max(self._stable_s, NO_LEASE_STABLE_S))
        if written_to and now - seen.since < WRITER_PATIENCE_S:
            return Wait("arriving", "a program still has it open for writing", self._stable_s)
        return None

    def postpone(self, path: Path, code: str, reason: str, now: float) -> float:
        """Let a file wait after a failure, longer each time; return for how long, in seconds."""
        seen = self._seen.get(path)
        if seen is None:
            return 0.0
        delay = float(min(2**seen.failures, _BACK_OFF_MAX_S))
        seen.failures += 1
        seen.retry_at = now + delay
        seen.postponed = Wait(code, reason, delay)
        return delay

    def tell_once(self, path: Path, what: str) -> bool:
        """Return True the first time that this is said of this path."""
        seen = self._seen.get(path)
        told = seen.told if seen is not None else self._oddities.setdefault(path, set())
        if what in told:
            return False
        told.add(what)
        return True

    def _must_stand_still(self, entry: Entry, seen: _Seen, now: float, stable_s: float) -> Wait | None:
        # A file that was moved here complete has an old time of change: that is as good as having watched it.
        unchanged = max(now - seen.since, now - entry.identity.mtime_ns / 1e9)
        if unchanged >= stable_s:
            return None
        return Wait("arriving", "it is still being written", stable_s - max(0.0, unchanged))
