"""Who is alive: processes by identity and locks by the kernel.

A process is (pid, start time, boot): a number alone is reused, a status text lies after a crash. A lock is an
flock(2) on a descriptor that children do not inherit, so it ends exactly when its holder ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of one boot. `start_ticks` is field 22 of /proc/PID/stat (clock ticks since boot)."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def current(cls) -> ProcessIdentity:
        """Return the identity of the calling process."""
        identity = cls.of(os.getpid())
        assert identity is not None
        return identity

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of `pid` now, or None when no such process runs (a zombie does not run)."""
        fields = _stat_fields(pid)
        if fields is None or fields[0] in ("Z", "X"):
            return None
        return cls(pid, int(fields[19]), boot_id())

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> ProcessIdentity | None:
        """Read back what `to_dict` wrote; None for anything else."""
        try:
            return cls(int(data["pid"]), int(data["start_ticks"]), str(data["boot_id"])) if data else None
        except (KeyError, TypeError, ValueError):
            return None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def is_alive(self) -> bool:
        """Tell whether this very process (not a later one of the same number) still runs."""
        return ProcessIdentity.of(self.pid) == self

    def signal(self, number: int) -> bool:
        """Send a signal if this very process runs; return whether it was sent."""
        if not self.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


class FileLock:
    """An exclusive lock held for as long as its holder lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting; return whether it is ours. Writes our pid into it, for people."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # a full disk: the lock is ours all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return True

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def boot_id() -> str:
    """Return what names this boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown-boot"


def _stat_fields(pid: int) -> list[str] | None:
    """Return /proc/PID/stat from field 3 (state) on; the name before it may hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()
