"""The loss chart's numbers: a hero's training loss over its steps, across runs, with validations and events.

The same record is sent with the page and by `/charts/loss.json`. Steps are the hero's (a run's first step plus its
own). The smoothed line is the running mean that the ledger keeps of each run. At most MAX_POINTS points are sent; a
thinned bucket is told by the loss that lies farthest from its mean, so that no spike disappears.
"""

from __future__ import annotations

from typing import Any

from arena.ingest import SMOOTHING
from vault.records import Run
from vault.store import Vault

MAX_POINTS = 1500
MARKS = {
    "checkpoint_saved": "checkpoint",
    "champion_changed": "champion",
    "job_failed": "failed",
    "nonfinite": "nonfinite",
    "rollback": "rollback",
}
RUNS_AT_MOST = 60


def hero_chart(vault: Vault, hero_id: str, window: int) -> dict[str, Any]:
    """Return the newest `window` steps of a hero, or all of them for 0."""
    runs: list[Run] = []
    newest = 0
    for run in vault.ledger.runs(hero_id=hero_id, limit=RUNS_AT_MOST).items:
        newest = max(newest, run.hero_step_start + run.step)
        runs.append(run)
        if window and run.hero_step_start <= newest - window:
            break
    runs.reverse()
    return _chart(vault, runs, first=max(0, newest - window) if window else 0, hero_id=hero_id)


def run_chart(vault: Vault, run: Run) -> dict[str, Any]:
    """Return one run from its first step to its last."""
    return _chart(vault, [run], first=run.hero_step_start, hero_id=run.hero_id)


def _chart(vault: Vault, runs: list[Run], *, first: int, hero_id: str) -> dict[str, Any]:
    chart: dict[str, Any] = {
        "keep": SMOOTHING,
        "steps": [],
        "loss": [],
        "smooth": [],
        "val": [],
        "marks": [],
        "run_id": None,
    }
    share = max(50, MAX_POINTS // max(1, len(runs)))
    for run in runs:
        _add_run(vault, run, chart, first=first, max_points=share)
    if runs:
        chart["run_id"] = runs[-1].id
        only = runs[0].id if len(runs) == 1 else None
        kinds = list(MARKS)
        for event in vault.events.list(0, kinds=kinds, limit=400, newest_first=True):
            step, data = event.data.get("step"), event.data
            if step is None or step < first or (data.get("hero") not in (None, hero_id)):
                continue
            if only is None or data.get("run_id") in (None, only):
                chart["marks"].append([int(step), MARKS[event.kind]])
        chart["marks"].reverse()
    return chart


def _add_run(vault: Vault, run: Run, chart: dict[str, Any], *, first: int, max_points: int) -> None:
    start = run.hero_step_start
    after = max(-1, first - start - 1)
    if chart["steps"] and chart["steps"][-1] >= start + 1:  # a run that began again from an older checkpoint
        _cut(chart, start)
    means = {
        p.step: p.value for p in vault.metrics.series(run.id, "loss_smooth", after_step=after, max_points=max_points)
    }
    for point in vault.metrics.series(run.id, "loss", after_step=after, max_points=max_points):
        raw = point.high if point.high - point.value >= point.value - point.low else point.low
        mean = means.get(point.step)
        chart["steps"].append(start + point.step)
        chart["loss"].append(round(raw, 5))
        chart["smooth"].append(None if mean is None else round(mean, 5))
    for point in vault.metrics.series(run.id, "val_loss", after_step=after, max_points=400):
        chart["val"].append([start + point.step, round(point.value, 5)])


def _cut(chart: dict[str, Any], step: int) -> None:
    keep = sum(1 for known in chart["steps"] if known <= step)
    for key in ("steps", "loss", "smooth"):
        del chart[key][keep:]
    chart["val"] = [pair for pair in chart["val"] if pair[0] <= step]
