"""The live stream: one task watches the ledger's events and the runs' records and tells every open page.

`Hub.run` looks at the event log and at the tail of each active run's `metrics.jsonl` ten times a second, thins steps to
four messages a second and run, turns each message into bytes once and puts it into a short queue per client. It reads
files and the database only, so it works whether or not the daemon lives.

Invariants, checked in tests/tavern/test_stream.py: a client gets every ledger event exactly once and in order, also
over reconnects with Last-Event-ID; a client that does not read is skipped and caught up later from the ledger, costs a
bounded amount of memory and delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realm.errors import RealmError
from tavern import lore
from tavern.live import RunFeed
from tavern.problems import to_json
from vault.records import Event
from vault.store import Vault

log = logging.getLogger("tavern.stream")
POLL_S = 0.1
STATUS_EVERY_S = 0.5
STATUS_AT_LEAST_S = 5.0
PING_S = 5.0
REPLAY_LIMIT = 1000
QUEUE_LIMIT = 256
MAX_CLIENTS = 6000
MAX_PER_TOKEN = 64
SNAPSHOT_REUSE_S = 0.5
RETRY_LINE = b"retry: 2000\n\n"


class TooManyClientsError(RealmError):
    """No more streams can be held open."""

    code = "too_many_streams"
    status = 503


@dataclass(frozen=True)
class Message:
    """What goes to clients: the bytes of one server-sent event. Ledger events know the one before them."""

    data: bytes
    seq: int | None = None
    previous: int = 0
    is_ping: bool = False


@dataclass(eq=False)
class Client:
    """One open stream. `position` is the last ledger event that it got."""

    owner: str
    queue: deque[Message] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    behind: bool = False
    position: int = 0

    def put(self, message: Message) -> None:
        """Queue a message; a client whose queue is full loses it and is caught up when it reads again."""
        if self.behind:
            return
        if len(self.queue) >= QUEUE_LIMIT:
            self.queue.clear()
            self.behind = True
        else:
            self.queue.append(message)
        self.wake.set()


class Hub:
    """All open streams and what feeds them. `status` builds the snapshot and runs in a thread."""

    def __init__(self, vault: Vault, runs: Path, status: Callable[[], dict[str, Any]]) -> None:
        self._vault = vault
        self._runs = runs
        self._status = status
        self._clients: set[Client] = set()
        self._recent: deque[Message] = deque(maxlen=REPLAY_LIMIT)
        self._feeds: dict[str, RunFeed] = {}
        self._snapshot: tuple[float, int, dict[str, Any]] | None = None
        self._snapshot_lock = asyncio.Lock()
        self._dirty = False
        self._started = False
        self.position = 0
        self.closed = asyncio.Event()

    @property
    def client_count(self) -> int:
        return len(self._clients)

    def owned(self, owner: str) -> int:
        return sum(client.owner == owner for client in self._clients)

    def close(self) -> None:
        """End every stream; they finish by themselves, at once."""
        self.closed.set()
        for client in self._clients:
            client.wake.set()

    async def run(self) -> None:
        """Watch and tell, until closed. A look that fails is logged and tried again: the page must outlive it."""
        pinged = told = 0.0
        complained = 0.0
        while not self.closed.is_set():
            started = time.monotonic()
            try:
                events, records = await asyncio.to_thread(self._look)
                self._tell_events(events)
                self._tell_records(records, started)
                if started - pinged >= PING_S:
                    pinged = started
                    body = b"data: " + to_json({"type": "ping", "at": round(time.time(), 3)}) + b"\n\n"
                    self._broadcast(Message(body, is_ping=True))
                age = started - told
                if self._clients and age >= (STATUS_EVERY_S if self._dirty else STATUS_AT_LEAST_S):
                    told, self._dirty = started, False
                    _, status = await self.snapshot(fresh=True)
                    self._broadcast(Message(_unnamed({"type": "status", "status": status})))
            except Exception:
                if started - complained > 60:
                    complained = started
                    log.exception("the stream could not look at the realm; trying again")
            with contextlib.suppress(TimeoutError):
                wait = max(0.01, POLL_S - (time.monotonic() - started))
                await asyncio.wait_for(self.closed.wait(), wait)

    async def snapshot(self, *, fresh: bool = False) -> tuple[int, dict[str, Any]]:
        """Return (seq, status): everything up to event `seq` is in it. Many clients at once share one."""
        async with self._snapshot_lock:
            now = time.monotonic()
            if self._snapshot is None or fresh or now - self._snapshot[0] > SNAPSHOT_REUSE_S:
                seq, status = await asyncio.to_thread(self._build)
                self._snapshot = (time.monotonic(), seq, status)
            return self._snapshot[1], self._snapshot[2]

    def join(self, owner: str, *, limited: bool) -> Client:
        """Open a stream for somebody. Raises TooManyClientsError."""
        if len(self._clients) >= MAX_CLIENTS or (limited and self.owned(owner) >= MAX_PER_TOKEN):
            raise TooManyClientsError("Too many pages are watching already.", hint="Close some of them.")
        client = Client(owner)
        self._clients.add(client)
        return client

    def leave(self, client: Client) -> None:
        self._clients.discard(client)

    async def messages(self, client: Client, last_event_id: int | None) -> AsyncIterator[Message]:
        """Yield what a client gets: what it missed, a snapshot, then everything as it happens."""
        yield Message(RETRY_LINE)
        missed = None if last_event_id is None else await self._replay(last_event_id)
        if missed is None or last_event_id is None:
            yield await self._restart(client, resync=last_event_id is not None)
        else:
            client.position = last_event_id
            for message in missed:
                client.position = message.seq or client.position
                yield message
            _, status = await self.snapshot()
            yield Message(_unnamed({"type": "snapshot", "seq": client.position, "status": status}))
        while not self.closed.is_set():
            if client.behind or client.position < self._needed(client):
                client.behind = False
                missed = await self._replay(client.position)
                if missed is None:
                    yield await self._restart(client, resync=True)
                else:
                    for message in missed:
                        client.position = message.seq or client.position
                        yield message
                continue
            if client.queue:
                message = client.queue.popleft()
                if message.seq is not None:
                    if message.seq <= client.position:
                        continue
                    client.position = message.seq
                yield message
                continue
            client.wake.clear()
            await client.wake.wait()

    def _needed(self, client: Client) -> int:
        """The event that a client must have had before the next thing in its queue makes sense."""
        for message in client.queue:
            if message.seq is not None:
                return message.previous
        return self.position

    async def _restart(self, client: Client, *, resync: bool) -> Message:
        seq, status = await self.snapshot()
        client.position = max(client.position, seq)
        body = {"type": "snapshot", "seq": seq, "status": status} | ({"resync": True} if resync else {})
        return Message(_numbered(seq, body))

    async def _replay(self, after: int) -> list[Message] | None:
        """Return the events after a number, or None when they are too many or the number is not of this ledger."""
        if self._recent and self._recent[0].previous <= after <= self.position:
            return [message for message in self._recent if (message.seq or 0) > after]
        if after == self.position:
            return []
        events = await asyncio.to_thread(self._vault.events.list, after, limit=REPLAY_LIMIT + 1)
        if len(events) > REPLAY_LIMIT or (not events and after > self.position):
            return None
        return _chain(events, after)

    def _build(self) -> tuple[int, dict[str, Any]]:
        seq = self._vault.events.latest_seq()
        return seq, self._status()

    def _look(self) -> tuple[list[Event], list[tuple[RunFeed, list[dict[str, Any]]]]]:
        """In a thread: what is new in the ledger and in the records of the active runs."""
        if not self._started:
            self.position = self._vault.events.latest_seq()
            self._find_runs(from_start=False)
            self._started = True
        events = list(self._vault.events.list(self.position, limit=REPLAY_LIMIT))
        if events:
            self._find_runs(from_start=True)
        return events, [(feed, feed.read()) for feed in self._feeds.values()]

    def _find_runs(self, *, from_start: bool) -> None:
        """Follow the runs of the jobs that are being worked on; of one that was there before us, only what is new."""
        active = {job.run_id for job in self._vault.jobs.processing() if job.run_id}
        feeds = {run_id: feed for run_id, feed in self._feeds.items() if run_id in active or not feed.finished}
        for run_id in active - feeds.keys():
            run = self._vault.ledger.run(run_id)
            feeds[run_id] = RunFeed(self._runs / run_id / "metrics.jsonl", run, from_start=from_start)
        for run_id, feed in feeds.items():
            feed.ended = run_id not in active
        self._feeds = feeds

    def _tell_events(self, events: list[Event]) -> None:
        for message in _chain(events, self.position):
            self._recent.append(message)
            self.position = message.seq or self.position
            self._broadcast(message)
        self._dirty = self._dirty or bool(events)

    def _tell_records(self, news: list[tuple[RunFeed, list[dict[str, Any]]]], now: float) -> None:
        for feed, records in news:
            for body in feed.tell(records, now):
                self._broadcast(Message(_unnamed(body)))
            self._dirty = self._dirty or feed.take_phase_change()

    def _broadcast(self, message: Message) -> None:
        for client in self._clients:
            client.put(message)


def _chain(events: Sequence[Event], after: int) -> list[Message]:
    messages = []
    previous = after
    for event in events:
        body = {"type": "event", **event.to_dict(), "words": _words(event)}
        messages.append(Message(_numbered(event.seq, body), event.seq, previous))
        previous = event.seq
    return messages


def _words(event: Event) -> dict[str, Any]:
    try:
        return dict(lore.event_words(event.kind, event.data, event.subject))
    except (KeyError, TypeError, ValueError, AttributeError):  # data of another version: tell it by its name
        log.warning("event %d (%s) could not be put into words", event.seq, event.kind)
        return {"title": event.kind.replace("_", " "), "text": "", "icon": "star", "tone": "muted"}


def _numbered(seq: int, body: dict[str, Any]) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (seq, to_json(body))


def _unnamed(body: dict[str, Any]) -> bytes:
    return b"data: " + to_json(body) + b"\n\n"
