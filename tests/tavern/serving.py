"""Helpers that run the Tavern for real: in this process's event loop, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from realm.paths import RealmPaths
from tavern.app import Application
from tavern.server import bind, build_server, where

DEADLINE_S = 20.0


@contextlib.asynccontextmanager
async def served(app: Application) -> AsyncIterator[int]:
    """Serve an application on a free port of this loop; yields the port."""
    listening = bind("127.0.0.1", 0)
    port = int(listening.getsockname()[1])
    ready = asyncio.Event()
    server = build_server(app, on_start=ready.set)
    server.capture_signals = contextlib.nullcontext  # pytest keeps its own
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await asyncio.wait_for(ready.wait(), DEADLINE_S)
        yield port
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, DEADLINE_S)


@contextlib.contextmanager
def tavern_process(
    home: Path, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """Run `python -m tavern` on a free port; yields the process and what it told in control/tavern.json."""
    env = os.environ | {"REALM_HOME": str(home), "REALM_TAVERN__PORT": "0"}
    with open(home.parent / "tavern.log", "wb") as log:
        child = subprocess.Popen([*prefix, sys.executable, "-m", "tavern"], env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while (told := where(RealmPaths(home))) is None or told["identity"]["pid"] != child.pid:
            assert child.poll() is None, (home.parent / "tavern.log").read_text()
            assert time.monotonic() < deadline, "the Tavern did not come up"
            time.sleep(0.02)
        yield child, told
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        child.wait(timeout=DEADLINE_S)


class SseClient:
    """One event stream over a plain socket: collects (id, body) of each message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.messages: list[tuple[int | None, dict[str, Any]]] = []
        self.status = 0

    @classmethod
    async def connect(
        cls, port: int, *, last_event_id: int | None = None, headers: str = "", source: str | None = None
    ) -> SseClient:
        local = (source, 0) if source else None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local, limit=1 << 22)
        lines = f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}"
        lines += f"Last-Event-ID: {last_event_id}\r\n" if last_event_id is not None else ""
        writer.write(f"{lines}\r\n".encode())
        client = cls(reader, writer)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        client.status = int(head.split()[1])
        return client

    async def read_until(self, done: Any, timeout: float = DEADLINE_S) -> None:
        """Read messages until `done(messages)`; raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while not done(self.messages):
                await self.read_one()

    async def read_one(self) -> bool:
        """Read one HTTP chunk; False at the end of the stream."""
        size = int(await self.reader.readline() or b"0", 16)
        data = await self.reader.readexactly(size + 2)
        if size == 0:
            return False
        for block in data[:-2].decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "data" in fields:
                number = int(fields["id"]) if "id" in fields else None
                self.messages.append((number, json.loads(fields["data"])))
        return True

    def events(self) -> list[int]:
        return [body["seq"] for _, body in self.messages if body["type"] == "event"]

    def kinds(self) -> list[str]:
        return [body["type"] for _, body in self.messages]

    def close(self) -> None:
        self.writer.close()
