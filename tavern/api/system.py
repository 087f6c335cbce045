"""Status, health and meters."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from realm.files import free_bytes
from tavern.context import TavernDep
from tavern.problems import ERRORS, SafeJson, problem

api = APIRouter(tags=["status"])
door = APIRouter(tags=["health"])


@api.get("/status", response_model=dict[str, Any], summary="Everything about now, in one answer")
async def get_status(tavern: TavernDep) -> Response:
    """Hero, battle, queue, services, machine and notices: the same object that the stream sends as its snapshot."""
    _, status = await tavern.hub.snapshot()
    return SafeJson(status)


@door.get("/healthz", summary="Whether the Tavern answers")
async def healthz() -> dict[str, str]:
    """Constant: it asks nothing of any other part, so that another part's trouble never restarts the Tavern."""
    return {"status": "ok"}


@door.get("/readyz", summary="Whether the realm can take work", responses=ERRORS)
def readyz(tavern: TavernDep) -> Any:
    """200 when the ledger takes writes and the disk has room, else 503 saying which is missing."""
    floor = tavern.settings.arena.disk_floor_mib << 20
    free = free_bytes(tavern.paths.home)
    if free < floor:
        return problem(503, "disk_floor", "There is too little free disk space.", needed=floor, free=free)
    with tavern.vault.database.write():
        pass
    return {"status": "ready"}


@door.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text format.", "content": {"text/plain": {}}}, **ERRORS},
    summary="Meters for Prometheus",
)
async def metrics(tavern: TavernDep) -> Response:
    from starlette.concurrency import run_in_threadpool

    _, status = await tavern.hub.snapshot()
    jobs = await run_in_threadpool(tavern.vault.jobs.counts)
    body = await run_in_threadpool(tavern.meters.expose, status, jobs, tavern.hub.client_count)
    return Response(body, media_type=tavern.meters.content_type)
