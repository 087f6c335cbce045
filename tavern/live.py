"""A running run as a feed: the new lines of its `metrics.jsonl`, thinned to what a page can show.

Steps become at most four messages a second, each with the latest values, how many steps it stands for and the points
between. `loss_smooth` is the same running mean that the ledger keeps. Thinned points keep the extremes.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

from arena.ingest import SMOOTHING
from arena.rundir import MetricsTail
from arena.status import PACE_STEPS
from vault.records import Run

STEP_EVERY_S = 0.25
MAX_POINTS = 64
_VALIDATION = ("val_loss", "tokens")
_EVALUATION = ("name", "skill", "level", "split", "correct", "total")


class RunFeed:
    """One run's records. `read` runs in a thread, `tell` in the event loop; never both at once."""

    def __init__(self, path: Path, run: Run, *, from_start: bool) -> None:
        self.run_id = run.id
        self.first_step = run.hero_step_start
        self.max_steps = run.max_steps
        self.ended = False
        self.finished = False
        self._tail = MetricsTail(path, 0 if from_start else _size(path))
        self._durations: deque[float] = deque(maxlen=PACE_STEPS)
        self._pending: list[dict[str, Any]] = []
        self._smooth = run.train_loss
        self._told_at = 0.0
        self._phase_changed = False

    def read(self) -> list[dict[str, Any]]:
        records = self._tail.read()
        if self.ended and not records:
            self.finished = True
        return records

    def tell(self, records: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
        """Return the messages that these records make due at `now` (monotonic seconds)."""
        bodies = []
        for record in records:
            kind = record.get("kind")
            if kind == "step":
                self._take_step(record)
            elif kind == "validation":
                bodies.append(self._body("validation", record, _VALIDATION))
            elif kind == "evaluation":
                bodies.append(self._body("evaluation", record, _EVALUATION))
            elif kind == "phase":
                self._phase_changed = True
            if isinstance(record.get("max_steps"), int):  # told by `ready`, before the first step
                self.max_steps = record["max_steps"]
        if self._pending and (now - self._told_at >= STEP_EVERY_S or self.ended):
            self._told_at = now
            bodies.append(self._step_body())
        return bodies

    def take_phase_change(self) -> bool:
        changed, self._phase_changed = self._phase_changed, False
        return changed

    def _take_step(self, record: dict[str, Any]) -> None:
        loss = record.get("loss")
        if isinstance(loss, int | float):
            self._smooth = loss if self._smooth is None else SMOOTHING * self._smooth + (1 - SMOOTHING) * loss
        duration = record.get("step_s")
        if isinstance(duration, int | float) and duration > 0:
            self._durations.append(float(duration))
        self._pending.append(record)

    def _step_body(self) -> dict[str, Any]:
        pending, self._pending = self._pending, []
        last = pending[-1]
        pace = self._pace()
        points = [[self.first_step + int(r["step"]), r.get("loss")] for r in _thinned(pending)]
        return {
            "type": "step",
            "run_id": self.run_id,
            "step": self.first_step + int(last["step"]),
            "run_step": int(last["step"]),
            "max_steps": self.max_steps,
            "loss": last.get("loss"),
            "loss_smooth": self._smooth,
            "lr": last.get("lr"),
            "grad_norm": last.get("grad_norm"),
            "steps_per_s": pace,
            "eta_s": self._eta(pace, int(last["step"])),
            "n": len(pending),
            "points": points,
        }

    def _pace(self) -> float | None:
        """Steps a second: the median of the newest steps keeps saves and evaluations out, as in the status."""
        if not self._durations:
            return None
        return 1.0 / sorted(self._durations)[len(self._durations) // 2]

    def _eta(self, pace: float | None, step: int) -> list[float] | None:
        """The same range as in the status: at this pace, and a fifth longer for evaluations and saves."""
        if not pace or not self.max_steps:
            return None
        seconds = max(0, self.max_steps - step) / pace
        return [round(seconds, 1), round(seconds * 1.2 + 1.0, 1)]

    def _body(self, kind: str, record: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        step = int(record.get("step") or 0)
        body = {"type": kind, "run_id": self.run_id, "step": self.first_step + step, "run_step": step}
        return body | {key: record.get(key) for key in keys}


def _thinned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most MAX_POINTS records: of each bucket the one with the least and the one with the greatest loss."""
    if len(records) <= MAX_POINTS:
        return records
    width = -(-2 * len(records) // MAX_POINTS)
    kept: list[dict[str, Any]] = []
    for start in range(0, len(records), width):
        bucket = records[start : start + width]
        finite = [record for record in bucket if isinstance(record.get("loss"), int | float)] or bucket[:1]
        ends = {id(min(finite, key=_loss)): None, id(max(finite, key=_loss)): None}
        kept += [record for record in bucket if id(record) in ends]
    return kept


def _loss(record: dict[str, Any]) -> float:
    loss = record.get("loss")
    return float(loss) if isinstance(loss, int | float) else 0.0


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
