"""What happened: the ledger's events, page by page, and the live stream of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tavern import lore
from tavern.api.models import LogEntry, PageOf
from tavern.bounds import ID_PATTERN, MAX_INT, Cursor, Limit
from tavern.context import CallerDep, Tavern, TavernDep
from tavern.credentials import Caller
from tavern.stream import Hub

api = APIRouter(tags=["events"])
STALL_S = 60.0
Kinds = Annotated[list[Annotated[str, Query(pattern=ID_PATTERN)]] | None, Query(max_length=50)]


@api.get("/log", response_model=PageOf[LogEntry], summary="List events, newest first")
def list_log(
    tavern: TavernDep,
    kind: Kinds = None,
    subject: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Any:
    found = tavern.vault.events.list(
        before=cursor, kinds=kind or None, subject=subject, limit=limit + 1, newest_first=True
    )
    items = [
        {**event.to_dict(), "words": lore.event_words(event.kind, event.data, event.subject)} for event in found[:limit]
    ]
    return {"items": items, "next_cursor": found[limit - 1].seq if len(found) > limit else None}


@api.get(
    "/events",
    response_class=Response,
    responses={200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}}},
    summary="Follow everything as it happens",
)
async def stream_events(
    tavern: TavernDep,
    caller: CallerDep,
    request: Request,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)] = None,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_INT, description="As Last-Event-ID, for a first connection.")
    ] = None,
) -> Response:
    """Unnamed server-sent events with JSON in `data`.

    First what was missed since `Last-Event-ID`, then a snapshot, then events, steps and states as they come; a ping
    every five seconds. Too long an absence is answered by a snapshot with `resync`.
    """
    given = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else after
    client = tavern.hub.join(caller.token_id or caller.kind, limited=caller.kind != "own-user")
    return EventStream(tavern, caller, client, None if given is None else min(given, MAX_INT), _aborter(request.scope))


class EventStream(Response):
    """A response that lasts. It ends when the client goes, stops reading, loses its token, or the Tavern stops."""

    media_type = "text/event-stream"

    def __init__(self, tavern: Tavern, caller: Caller, client: Any, last_event_id: int | None, abort: Any) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._tavern = tavern
        self._caller = caller
        self._client = client
        self._last_event_id = last_event_id
        self._abort = abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hub: Hub = self._tavern.hub
        sender = asyncio.ensure_future(self._send(send))
        leaver = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sender, leaver}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hub.leave(self._client)
            for task in (sender, leaver):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leaver
        with contextlib.suppress(asyncio.CancelledError):
            await sender

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for message in self._tavern.hub.messages(self._client, self._last_event_id):
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": message.data, "more_body": True})
                if message.is_ping and not await run_in_threadpool(self._tavern.credentials.still_valid, self._caller):
                    break
        except TimeoutError:
            if self._abort is not None:
                self._abort()
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _aborter(scope: Scope) -> Any:
    """What cuts the connection of a client that no longer reads; a plain close would wait for it for ever."""
    connection = scope.get("state", {}).get("connection") or {}
    return connection.get("abort")
