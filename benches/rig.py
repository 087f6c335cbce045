"""What the benches share: an arena of their own in a temporary home, driven through its public door.

The arena is the real one (`python -m realm arena`): daemon, intake thread, warm worker. Times are read from the
ledger's events and from the runs' own records, never from the bench's side of a pipe.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arena.rundir import read_records
from realm.files import durable_write
from realm.settings import load_settings
from realm.wiring import Realm


class Arena:
    """One arena process and the realm it serves."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.realm = Realm(load_settings(home))
        self.realm.paths.ensure()
        with open(home / "arena.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "realm", "arena"],
                env=os.environ | {"REALM_HOME": str(home)},
                stdout=log,
                stderr=log,
            )

    def drop(self, name: str, data: bytes) -> float:
        """Put a whole file into the inbox as `mv` would; return the Unix time at which it lay there."""
        durable_write(self.realm.paths.staging / name, data)
        os.rename(self.realm.paths.staging / name, self.realm.paths.inbox / name)
        return time.time()

    def wait(self, happened: Callable[[], Any], timeout_s: float) -> Any:
        """Return what `happened` returns once it is true. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            found = happened()
            if found:
                return found
            time.sleep(0.02)
        raise TimeoutError(f"still waiting after {timeout_s} s; see {self.home / 'arena.log'}")

    def wait_done(self, count: int, timeout_s: float) -> None:
        """Wait until `count` jobs are completed."""
        self.wait(lambda: self.realm.vault.jobs.counts().get("completed", 0) >= count, timeout_s)

    def records(self, run_id: str, kind: str) -> list[dict[str, Any]]:
        return [r for r in read_records(self.realm.paths.runs / run_id / "metrics.jsonl") if r["kind"] == kind]

    def stop(self) -> None:
        from arena.executors.local import LocalExecutor

        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)
        slot = self.realm.paths.control / "workers" / "local-0"
        LocalExecutor(slot, self.home, self.realm.settings.arena).shut_down(20.0)
        self.realm.close()


@contextmanager
def arena(home: Path | None = None) -> Iterator[Arena]:
    """An arena in `home`, or in a temporary one that is removed afterwards."""
    own = home is None
    home = home or Path(tempfile.mkdtemp(prefix="realm-bench-"))
    running = Arena(home)
    try:
        yield running
    finally:
        running.stop()
        if own:
            shutil.rmtree(home, ignore_errors=True)


def spread(values: list[float]) -> str:
    """Return `median (least-greatest)` in seconds."""
    return f"{statistics.median(values):.3f} s ({min(values):.3f}-{max(values):.3f})"
