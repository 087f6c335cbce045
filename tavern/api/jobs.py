"""Jobs: drop a file, look at what waits, move it, take it out, try it again.

A dropped file is streamed to the staging folder, synced and renamed into the inbox, the same door through which a file
comes that somebody copies there by hand. The answer is an upload, a resource that becomes a job when the gatekeepers
have looked at it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from realm.errors import NotFoundError
from realm.ids import new_id
from tavern.api.commands import IdempotencyKey, keyed_id
from tavern.api.models import Job, JobChange, JobSpec, PageOf, Preview, PriorityName, Report, StateName, Upload
from tavern.bounds import Cursor, Limit, PathId
from tavern.context import CallerDep, TavernDep
from tavern.previews import token_preview
from tavern.uploads import job_of, plain_name
from vault import records

api = APIRouter(tags=["jobs"])
_FILE = {"schema": {"type": "string", "format": "binary"}}
_BODIES = {
    "required": True,
    "content": {
        "application/octet-stream": _FILE,
        "application/x-ndjson": _FILE,
        "application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}},
    },
}


@api.post(
    "/jobs",
    response_model=Upload,
    status_code=201,
    summary="Submit a file, or a few rows",
    openapi_extra={"requestBody": _BODIES},
)
async def submit_job(
    tavern: TavernDep,
    caller: CallerDep,
    request: Request,
    response: Response,
    *,
    name: Annotated[str | None, Query(max_length=150, description="Name of the file; needed with a raw body.")] = None,
    priority: PriorityName = "normal",
    key: IdempotencyKey = None,
) -> Any:
    """Send the file itself as the body, or JSON with `rows` or `generate`.

    201 means that the file is safe on disk; the gatekeepers then look at it. Follow `Location` to see the job that
    becomes of it, or wait for `job_queued` or `job_refused` in the stream.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        spec = await _spec(request)
        upload_id = keyed_id("upload", caller.name, key) or new_id("upload")
        label = plain_name(spec.name or _label(spec, upload_id))
        text = await run_in_threadpool(_quest_file, spec, label)
        received = await tavern.uploads.take(
            _once(text), f"{label}.yaml", spec.priority or priority, upload_id, job_name=label
        )
    else:
        known_id = keyed_id("upload", caller.name, key)
        received = await tavern.uploads.take(request.stream(), name or "", priority, known_id)
    response.headers["Location"] = f"/api/v1/uploads/{received.id}"
    return {**vars(received), "state": "arriving", "job": None}


@api.get("/uploads/{upload_id}", response_model=Upload, summary="See what became of an upload")
def get_upload(tavern: TavernDep, upload_id: PathId) -> Any:
    received = tavern.uploads.find(upload_id)
    if received is None:
        raise NotFoundError("There is no such upload.", code="upload_not_found")
    job = job_of(tavern.vault, received)
    return {**vars(received), "state": "accepted" if job else "arriving", "job": job}


@api.get("/jobs", response_model=PageOf[Job], summary="List jobs, newest first")
def list_jobs(
    tavern: TavernDep,
    state: Annotated[list[StateName] | None, Query(max_length=7)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    return tavern.vault.jobs.list(state, limit=limit, before_seq=cursor)


@api.get("/jobs/{job_id}", response_model=Job, summary="Get a job")
def get_job(tavern: TavernDep, job_id: PathId) -> Any:
    return tavern.vault.jobs.get(job_id)


@api.patch("/jobs/{job_id}", response_model=Job, summary="Move a waiting job")
def move_job(tavern: TavernDep, caller: CallerDep, job_id: PathId, change: JobChange) -> Any:
    """To the end of a priority, or directly before another waiting job (taking that one's priority)."""
    return tavern.vault.jobs.move(job_id, priority=change.priority, before=change.before, by=caller.name)


@api.post("/jobs/{job_id}/cancel", response_model=Job, summary="Take a waiting job out of the queue")
def cancel_job(tavern: TavernDep, caller: CallerDep, job_id: PathId) -> Any:
    return tavern.vault.jobs.cancel(job_id, caller.name)


@api.post("/jobs/{job_id}/retry", response_model=Job, summary="Put an ended job back into the queue")
def retry_job(tavern: TavernDep, caller: CallerDep, job_id: PathId) -> Any:
    return tavern.vault.jobs.retry(job_id, caller.name)


@api.get("/jobs/{job_id}/report", response_model=Report, summary="What the gatekeepers found")
def get_report(tavern: TavernDep, job_id: PathId) -> Any:
    return {"job_id": job_id, "report": _report(tavern.vault.jobs.get(job_id))}


@api.get("/jobs/{job_id}/preview", response_model=Preview, summary="Rows as the model will see them")
def get_preview(tavern: TavernDep, job_id: PathId) -> Any:
    """The first examples by the hero's own tokenizer; 409 while the hero has none."""
    job = tavern.vault.jobs.get(job_id)
    hero = tavern.vault.ledger.hero(job.hero_id)
    return {"job_id": job_id, "preview": token_preview(job, hero, tavern.paths.home)}


def _report(job: records.Job) -> dict[str, Any]:
    if job.report is None:
        raise NotFoundError("This job has no report.", code="report_not_found")
    return job.report


async def _spec(request: Request) -> JobSpec:
    try:
        return JobSpec.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def _label(spec: JobSpec, upload_id: str) -> str:
    """Name a job that nobody named, differently each time."""
    ending = upload_id[-6:]
    if spec.generate is None:
        return f"rows-{ending}"
    return f"{spec.generate.skill}-L{spec.generate.level}-x{spec.generate.count}-{ending}"


def _quest_file(spec: JobSpec, label: str) -> bytes:
    """Return the quest file that asks for this (see `arena.formats.quests`)."""
    wanted: dict[str, Any] = {"name": label, "data": spec.rows}
    if spec.generate is not None:
        wanted["data"] = spec.generate.model_dump(exclude_none=True)
    wanted |= spec.model_dump(include={"config", "hero", "again"}, exclude_defaults=True)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: bytes = yaml.dump(wanted, Dumper=dumper, allow_unicode=True, sort_keys=False, encoding="utf-8")
    return text


async def _once(text: bytes) -> AsyncIterator[bytes]:
    yield text
