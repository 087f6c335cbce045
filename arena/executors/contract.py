"""What every executor promises.

An executor starts an attempt at a run directory and tells how it stands. It never judges success: a run is finished
when its outcome says so and its last checkpoint verifies. Every implementation passes tests/arena/executors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from realm.processes import ProcessIdentity


@dataclass(frozen=True)
class Handle:
    """One attempt that was started; enough to find it again after a restart of everything else."""

    run_dir: Path
    fence: int
    worker: ProcessIdentity | None


Standing = Literal["running", "ended", "lost"]


class Executor(Protocol):
    """Starts, finds again and ends attempts."""

    def start(self, run_dir: Path, attempt: int, fence: int) -> Handle:
        """Begin an attempt. Raises OSError when no process can be made."""
        ...

    def adopt(self, run_dir: Path, fence: int) -> Handle | None:
        """Find the attempt `fence` of this run directory if it is still under way, whoever started it."""
        ...

    def poll(self, handle: Handle) -> Standing:
        """`running`; `ended`: it left an outcome for its fence; `lost`: its process is gone without one."""
        ...

    def terminate(self, handle: Handle) -> None:
        """Ask the attempt to save and end. Returns at once; safe to repeat."""
        ...

    def kill(self, handle: Handle) -> None:
        """End the attempt's process now. Returns when it is gone."""
        ...

    def tick(self, now: float) -> None:
        """Housekeeping between attempts."""
        ...

    def close(self) -> None:
        """End what is idle; leave what is working."""
        ...
