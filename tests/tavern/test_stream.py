"""The stream over real sockets: everything once and in order, whatever clients do."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from arena.rundir import MetricsWriter
from tavern.app import create_app
from tavern.live import MAX_POINTS, RunFeed
from tavern.stream import QUEUE_LIMIT, REPLAY_LIMIT, Client, Message

from .conftest import World
from .serving import SseClient, served

pytestmark = pytest.mark.anyio


def note(realm: Any, count: int, kind: str = "service_up") -> list[int]:
    """Enter events and return their numbers."""
    first = realm.vault.events.latest_seq()
    for number in range(count):
        realm.vault.events.record(kind, "tavern", {"service": "tavern", "n": number})
    return list(range(first + 1, first + count + 1))


async def test_first_a_snapshot_then_what_happens(realm: Any, world: World) -> None:
    async with served(create_app(realm)) as port:
        client = await SseClient.connect(port)
        await client.read_until(lambda m: any(body["type"] == "snapshot" for _, body in m))
        number, snapshot = client.messages[0]
        assert number == snapshot["seq"] == realm.vault.events.latest_seq()
        assert snapshot["status"]["hero"]["id"] == "dio"
        numbers = note(realm, 3)
        await client.read_until(lambda m: len(client.events()) == 3 and "status" in client.kinds())
        assert client.events() == numbers
        event = next(body for _, body in client.messages if body["type"] == "event")
        assert event["words"]["title"]
        assert event["kind"] == "service_up"
        client.close()


async def test_reconnecting_gets_each_missed_event_once(realm: Any) -> None:
    async with served(create_app(realm)) as port:
        seen: list[int] = []
        last = realm.vault.events.latest_seq()
        expected: list[int] = []
        for _ in range(5):  # events while connected and while away
            expected += note(realm, 7)
            client = await SseClient.connect(port, last_event_id=last)
            await client.read_until(lambda m, c=client: len(c.events()) >= 7)
            expected += note(realm, 4)
            await client.read_until(lambda m, c=client: len(c.events()) >= 11)
            seen += client.events()
            last = max(number for number, _ in client.messages if number is not None)
            client.close()
        assert seen == expected


async def test_replay_works_across_a_restart_of_the_tavern(realm: Any) -> None:
    numbers = note(realm, 20)
    async with served(create_app(realm)) as port:
        client = await SseClient.connect(port, last_event_id=numbers[4])
        await client.read_until(lambda m: "snapshot" in client.kinds())
        assert client.events() == numbers[5:]
        client.close()


async def test_too_long_an_absence_is_answered_by_a_snapshot(realm: Any) -> None:
    with realm.vault.database.write() as connection:
        from vault.events import append

        for number in range(REPLAY_LIMIT + 5):
            append(connection, "service_up", "tavern", {"n": number})
    async with served(create_app(realm)) as port:
        client = await SseClient.connect(port, last_event_id=0)
        await client.read_until(bool)
        number, body = client.messages[0]
        assert body["type"] == "snapshot"
        assert body["resync"] is True
        assert number == realm.vault.events.latest_seq()
        ahead = await SseClient.connect(port, last_event_id=10**9)  # of another ledger
        await ahead.read_until(bool)
        assert ahead.messages[0][1]["resync"] is True
        for stream in (client, ahead):
            stream.close()


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 19, "١"])
async def test_a_senseless_last_event_id_is_no_error(realm: Any, value: str) -> None:
    async with served(create_app(realm)) as port:
        client = await SseClient.connect(port, headers=f"Last-Event-ID: {value}\r\n" if value.isascii() else "")
        assert client.status == 200
        await client.read_until(bool)
        assert client.messages[0][1]["type"] == "snapshot"
        client.close()


async def test_five_hundred_clients_miss_nothing_and_one_that_sleeps_holds_nobody_up(realm: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    process = psutil.Process()
    try:
        async with served(create_app(realm)) as port:
            sleeper = await SseClient.connect(port)  # never reads
            clients = [await SseClient.connect(port) for _ in range(500)]
            await asyncio.gather(*(c.read_until(bool) for c in clients))
            before = process.memory_info().rss
            started = time.monotonic()
            numbers = note(realm, 40)
            await asyncio.gather(*(c.read_until(lambda m, c=c: len(c.events()) >= 40, 30.0) for c in clients))
            took = time.monotonic() - started
            assert all(c.events() == numbers for c in clients)
            assert took < 15.0
            assert process.memory_info().rss - before < 60 << 20
            await sleeper.read_until(lambda m: len(sleeper.events()) >= 40)
            assert sleeper.events() == numbers
            for stream in (sleeper, *clients):
                stream.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_client_that_falls_behind_is_caught_up_from_the_ledger(realm: Any) -> None:
    app = create_app(realm)
    async with served(app) as port:
        reader = await SseClient.connect(port)
        await reader.read_until(bool)
        (client,) = app.hub._clients
        for _ in range(QUEUE_LIMIT + 10):  # as if the socket had been full all the while
            client.put(Message(b": filler\n\n"))
        numbers = note(realm, 30)
        await reader.read_until(lambda m: len(reader.events()) >= 30)
        assert reader.events() == numbers
        reader.close()


def test_a_queue_has_an_end() -> None:
    client = Client("x")
    for number in range(10 * QUEUE_LIMIT):
        client.put(Message(b"x", number))
    assert client.behind
    assert len(client.queue) <= QUEUE_LIMIT


async def test_streams_end_at_once_when_the_tavern_stops(realm: Any) -> None:
    async with served(create_app(realm)) as port:
        client = await SseClient.connect(port)
        await client.read_until(bool)
        started = time.monotonic()
    assert time.monotonic() - started < 3.0
    while await client.read_one():
        pass
    client.close()


async def test_a_revoked_token_loses_its_stream(realm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tavern.stream.PING_S", 0.2)
    token, secret = realm.vault.tokens.create("phone", ["read"])
    async with served(create_app(realm, peer_uid=lambda c, s: None)) as port:
        client = await SseClient.connect(port, headers=f"Authorization: Bearer {secret}\r\n")
        await client.read_until(lambda m: "ping" in client.kinds())
        realm.vault.tokens.revoke(token.id)
        async with asyncio.timeout(10.0):
            while await client.read_one():
                pass
        client.close()


async def test_a_token_may_hold_so_many_streams(realm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tavern.stream.MAX_PER_TOKEN", 2)
    _, secret = realm.vault.tokens.create("phone", ["read"])
    header = f"Authorization: Bearer {secret}\r\n"
    async with served(create_app(realm, peer_uid=lambda c, s: None)) as port:
        clients = [await SseClient.connect(port, headers=header) for _ in range(3)]
        assert [client.status for client in clients] == [200, 200, 503]
        for client in clients:
            client.close()


async def test_steps_come_thinned_with_their_points(realm: Any, world: World) -> None:
    folder = realm.paths.runs / world.run
    folder.mkdir()
    writer = MetricsWriter(folder / "metrics.jsonl")
    writer.append("step", step=2000, loss=9.0, lr=1e-4, grad_norm=1.0, step_s=0.01)  # before anybody looks
    async with served(create_app(realm)) as port:
        client = await SseClient.connect(port)
        await client.read_until(bool)
        started = time.monotonic()
        for step in range(2001, 2301):
            writer.append("step", step=step, loss=1.0 + (step == 2100), lr=1e-4, grad_norm=1.0, step_s=0.01)
            if step % 30 == 0:
                await asyncio.sleep(0.02)
        writer.append("validation", step=2300, val_loss=0.5, tokens=10)
        steps = lambda: [body for _, body in client.messages if body["type"] == "step"]  # noqa: E731
        await client.read_until(lambda m: sum(s["n"] for s in steps()) >= 300 and "validation" in client.kinds())
        took = time.monotonic() - started
        assert sum(s["n"] for s in steps()) == 300
        assert len(steps()) <= took / 0.25 + 2
        last = steps()[-1]
        assert (last["run_id"], last["step"], last["run_step"]) == (world.run, 2300, 2300)
        assert last["steps_per_s"] == pytest.approx(100.0)
        assert last["eta_s"] == pytest.approx([17.0, 21.4])
        assert [2100, 2.0] in [point for s in steps() for point in s["points"]]
        client.close()
    writer.close()


def test_thinning_keeps_the_extremes_and_the_gaps(realm: Any, world: World, tmp_path: Path) -> None:
    feed = RunFeed(tmp_path / "metrics.jsonl", realm.vault.ledger.run(world.run), from_start=True)
    losses: list[float | None] = [1.0] * 1000
    losses[333], losses[777], losses[900] = 7.0, -3.0, None
    records = [{"kind": "step", "step": n + 1, "loss": loss, "step_s": 0.5} for n, loss in enumerate(losses)]
    (body,) = feed.tell(records, now=100.0)
    values = [value for _, value in body["points"]]
    assert len(values) <= MAX_POINTS
    assert {7.0, -3.0} <= set(values)
    assert feed.tell([{"kind": "step", "step": 1001, "loss": None}], now=100.1) == []
    (late,) = feed.tell([], now=100.3)
    assert late["points"] == [[1001, None]]
    assert late["loss"] is None
    assert late["loss_smooth"] is not None


async def test_the_stream_outlives_trouble_with_the_ledger(realm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(realm)
    async with served(app) as port:
        client = await SseClient.connect(port)
        await client.read_until(bool)
        whole = realm.vault.events.list
        failures = iter(range(3))

        def failing(*args: Any, **kwargs: Any) -> Any:
            if next(failures, None) is not None:
                raise OSError("the disk is away")
            return whole(*args, **kwargs)

        monkeypatch.setattr(realm.vault.events, "list", failing)
        numbers = note(realm, 2)
        await client.read_until(lambda m: len(client.events()) == 2)
        assert client.events() == numbers
        client.close()


async def test_the_owner_of_a_real_connection_needs_no_token(realm: Any) -> None:
    async with served(create_app(realm)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/v1/session HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        assert b'"kind":"own-user"' in answer
        assert os.geteuid() >= 0
        writer.close()
