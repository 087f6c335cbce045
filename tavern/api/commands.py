"""Commands to the battle: pause, resume, stop, skip, save. Each is a resource that tells what came of it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from tavern.api.models import Command, CommandRequest
from tavern.bounds import PathId
from tavern.context import CallerDep, TavernDep

api = APIRouter(tags=["commands"])
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,200}$", description="The same key twice is one request."),
]


@api.post("/commands", response_model=Command, status_code=202, summary="Ask for something to be done to the battle")
def request_command(
    tavern: TavernDep, caller: CallerDep, wish: CommandRequest, response: Response, key: IdempotencyKey = None
) -> Any:
    """Answers at once; `state` of the returned resource becomes `done` or `refused` when the daemon has acted."""
    command_id = keyed_id("cmd", caller.name, key)
    command = tavern.vault.commands.request(wish.verb, target=wish.target, by=caller.name, command_id=command_id)
    response.headers["Location"] = f"/api/v1/commands/{command.id}"
    return command


@api.get("/commands/{command_id}", response_model=Command, summary="See what came of a command")
def get_command(tavern: TavernDep, command_id: PathId) -> Any:
    return tavern.vault.commands.get(command_id)


def keyed_id(prefix: str, caller: str, key: str | None) -> str | None:
    """Return the id that an idempotency key stands for, a different one for each caller; None without a key."""
    if key is None:
        return None
    digest = hashlib.sha256(f"{caller}\0{key}".encode()).hexdigest()
    return f"{prefix}_{digest[:32]}"
