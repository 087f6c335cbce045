"""The Tavern as a process: binds, says where it listens, serves, ends cleanly.

The socket is bound before anything else, so that a taken port is one clear sentence and port 0 is known at once.
`control/tavern.json` then tells every other part who listens where: {identity, host, port, address, started_at}.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from realm.errors import ConfigError, ConflictError, CorruptFileError, NotFoundError
from realm.files import durable_write_json, read_json
from realm.paths import RealmPaths
from realm.processes import ProcessIdentity
from tavern.app import Application, create_app
from tavern.bounds import HEADER_BYTES
from tavern.context import RealmParts
from tavern.credentials import create_launch_code
from tavern.sockets import is_loopback, listener

log = logging.getLogger("tavern")
HEADER_TIMEOUT_S = 15.0
KEEP_ALIVE_S = 15
SHUTDOWN_S = 3
MAX_CONNECTIONS = 8192


class Protocol(H11Protocol):  # type: ignore[misc]
    """HTTP/1.1 that gives each connection a memory of its own and closes those that do not say what they want."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.app_state: dict[str, Any] = {**vars(self)["app_state"], "connection": {"abort": transport.abort}}
        self._header_timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch_headers(self) -> None:
        """Give a client a while for the headers of its next request, however slowly it drips them."""
        waits = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None
        if not waits:
            self._stop_watching()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._give_up)

    def _stop_watching(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self) -> None:
        self._header_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.abort()


class Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn that ends the streams before it waits for open connections, and says when it is up."""

    def __init__(self, config: uvicorn.Config, application: Application, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._application = application
        self._on_start = on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as the wish to end; uvicorn would die of them again once it has cleaned up."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._application.hub.close()
        await super().shutdown(sockets=sockets)


def serve(parts: RealmParts, announce: Callable[[str], None] = print) -> int:
    """Serve a realm until told to end (SIGTERM, SIGINT); return the exit code. Raises ConfigError, ConflictError."""
    host = parts.settings.tavern.host
    check_exposure(parts)
    listening = bind(host, parts.settings.tavern.port)
    port = int(listening.getsockname()[1])
    _allow_many_files()
    application = create_app(parts, port=port)
    server = build_server(application, on_start=lambda: _announce(parts.paths, host, port, announce))
    try:
        server.run(sockets=[listening])
    finally:
        _retract(parts.paths)
    return 0


def build_server(application: Application, on_start: Callable[[], None] = lambda: None) -> Server:
    """Return a server for an application; sockets are given to its `run` or `serve`."""
    config = uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )
    return Server(config, application, on_start)


def check_exposure(parts: RealmParts) -> None:
    """Refuse to listen beyond this machine while nobody could prove who they are. Raises ConfigError."""
    host = parts.settings.tavern.host
    if is_loopback(host) or host == "localhost":
        return
    now = time.time()
    if any(t.revoked_at is None and (t.expires_at or now + 1) > now for t in parts.vault.tokens.list()):
        return
    raise ConfigError(
        f"The Tavern would listen on {host}, beyond this machine, and there is no token to enter with.",
        hint="Make one with `realm token create`, or leave tavern.host at 127.0.0.1.",
        code="exposed_without_token",
    )


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket. Raises ConflictError naming who holds the port, ConfigError for a bad address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise ConfigError(f"tavern.host: {host!r} is no address of this machine.", key="tavern.host") from None
    # The protocol is named because asyncio only turns Nagle's delay off (40 ms an answer) on sockets that name it.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.set_inheritable(False)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise _why_not(error, host, port) from None
    return listening


def where(paths: RealmPaths) -> dict[str, Any] | None:
    """Return what a running Tavern says of itself ({identity, host, port, address, started_at}), or None."""
    try:
        told: dict[str, Any] = read_json(paths.control / "tavern.json")
        identity = ProcessIdentity.from_dict(told["identity"])
    except (NotFoundError, CorruptFileError, KeyError, TypeError):
        return None
    return told if identity is not None and identity.is_alive() else None


def launch_address(paths: RealmPaths) -> str | None:
    """Return an address that lets whoever opens it in within a minute, once; None when no Tavern runs."""
    told = where(paths)
    return None if told is None else f"{told['address']}login#{create_launch_code(paths)}"


def _why_not(error: OSError, host: str, port: int) -> ConflictError | ConfigError:
    if error.errno == errno.EADDRINUSE:
        holder = listener((host, port))
        by = f" by process {holder[0]} ({holder[1]})" if holder else ""
        return ConflictError(
            f"Port {port} is taken{by}.",
            hint="Choose another with --port, or --port 0 for a free one.",
            code="port_taken",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(f"Port {port} may not be used by this user.", hint="Choose one above 1023 with --port.")
    return ConfigError(f"tavern.host: {host!r} is no address of this machine.", key="tavern.host")


def _announce(paths: RealmPaths, host: str, port: int, announce: Callable[[str], None]) -> None:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{shown}:{port}/"
    identity = ProcessIdentity.current().to_dict()
    told = {"identity": identity, "host": host, "port": port, "address": address, "started_at": time.time()}
    try:
        durable_write_json(paths.control / "tavern.json", told)
    except OSError as error:  # on a full disk the pages are what a person needs; the settings tell the port as well
        log.warning("where the Tavern listens could not be written down: %s", error)
    announce(f"The Tavern is open at {address}")


def _retract(paths: RealmPaths) -> None:
    """Take our own announcement back; another process's stays."""
    told = where(paths)
    if told is not None and told["identity"] == ProcessIdentity.current().to_dict():
        (paths.control / "tavern.json").unlink(missing_ok=True)


def _allow_many_files() -> None:
    """Each open page holds a descriptor: take as many as this user may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
