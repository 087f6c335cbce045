"""Runs and their metrics."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from tavern.api.models import PageOf, Run, RunDetail, Series
from tavern.bounds import MAX_POINTS, NAME_PATTERN, After, Cursor, Limit, PathId, Points, QueryId
from tavern.context import TavernDep

api = APIRouter(tags=["runs"])
MetricName = Annotated[str, Query(pattern=NAME_PATTERN, description="For example loss, loss_smooth, val_loss, lr.")]


@api.get("/runs", response_model=PageOf[Run], summary="List runs, newest first")
def list_runs(
    tavern: TavernDep,
    hero: QueryId = None,
    job: QueryId = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    return tavern.vault.ledger.runs(hero_id=hero, job_id=job, limit=limit, before_seq=cursor)


@api.get("/runs/{run_id}", response_model=RunDetail, summary="Get a run with its attempts")
def get_run(tavern: TavernDep, run_id: PathId) -> Any:
    run = tavern.vault.ledger.run(run_id)
    attempts = tavern.vault.ledger.attempts(run_id)
    return {**run.to_dict(), "attempts": attempts, "metrics": tavern.vault.metrics.names(run_id)}


@api.get("/runs/{run_id}/metrics", response_model=Series, summary="Get one metric over steps")
def get_metrics(
    tavern: TavernDep,
    run_id: PathId,
    name: MetricName = "loss",
    max_points: Points = MAX_POINTS,
    after: After = None,
) -> Any:
    """Steps are the run's own. Past `max_points`, steps are put into buckets that keep their least and greatest."""
    tavern.vault.ledger.run(run_id)
    after_step = -1 if after is None else after
    found = tavern.vault.metrics.series(run_id, name, after_step=after_step, max_points=max_points)
    return {"run_id": run_id, "name": name, "points": [(p.step, p.value, p.low, p.high) for p in found]}
