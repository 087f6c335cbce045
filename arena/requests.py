"""Requests to a running trainer, as the loop sees them: `control/` of the run directory and SIGTERM."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arena.rundir import ControlMessage, MetricsWriter, RunDir, decode_record
from realm.files import is_disk_full


class Control:
    """Requests from `control/`, each acted on once however often the process is restarted.

    What was answered is in `metrics.jsonl`, so a restarted run knows it, and also whether it was paused.
    """

    def __init__(self, run_dir: RunDir, metrics: MetricsWriter) -> None:
        self._run_dir = run_dir
        self._metrics = metrics
        self._seen_mtime_ns = -1
        self.paused = False
        self.terminated = False
        self._answered: set[str] = set()
        for record in _control_records(run_dir.metrics_path):
            self._answered.add(str(record["id"]))
            if record["verb"] in ("pause", "resume"):
                self.paused = record["verb"] == "pause"
            elif record["verb"] in ("stop", "skip"):
                self.paused = False

    def terminate(self, *_: object) -> None:
        """The handler of SIGTERM."""
        self.terminated = True

    def look(self) -> list[ControlMessage]:
        """Return requests not answered yet. Costs one stat when nothing changed."""
        try:
            mtime_ns = os.stat(self._run_dir.control_path).st_mtime_ns
        except FileNotFoundError:
            return []
        if mtime_ns == self._seen_mtime_ns:
            return []
        # A second request within the clock's tick would not change the time again: look twice at young folders.
        settled = time.time_ns() - mtime_ns > 50_000_000
        found = [message for message in self._run_dir.control_messages() if message.id not in self._answered]
        if settled:
            self._seen_mtime_ns = mtime_ns
        return found

    def answer(self, message: ControlMessage, effect: str, *, step: int) -> None:
        self._answered.add(message.id)
        try:
            self._metrics.append("control", id=message.id, verb=message.verb, effect=effect, step=step)
        except OSError as error:
            if not is_disk_full(error):
                raise


def _control_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the control records of a metrics file; a long run has a hundred thousand others, which are not decoded."""
    with open(path, "rb") as file:
        for line in file:
            if b'"kind":"control"' in line and (record := decode_record(line)) is not None:
                yield record
