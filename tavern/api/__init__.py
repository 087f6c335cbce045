"""The JSON interface: resources under `/api/v1`, the session, health and meters. Every route is in `tavern.access`."""

from __future__ import annotations

from fastapi import APIRouter

from tavern.api import commands, jobs, ledger, log, runs, session, system, tokens
from tavern.problems import ERRORS

router = APIRouter(prefix="/api/v1", responses=ERRORS)
for part in (system.api, session.api, jobs.api, commands.api, runs.api, ledger.api, log.api, tokens.api):
    router.include_router(part)

__all__ = ["router", "session", "system"]
