"""`realm up` and `realm down`: begin and end the whole realm, with words for whoever is watching.

`start` brings the Weaver up in a session of its own and waits until every service is ready. `stop` ends the Weaver,
which ends the services; what is left then (the Weaver had died, a worker still saves) is ended here. Both are safe to
repeat.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from realm.errors import ConflictError, CorruptFileError, DiskFullError, HostUnavailableError, NotFoundError
from realm.files import durable_write_json, free_bytes, read_json
from realm.paths import RealmPaths, project_root
from realm.processes import ProcessIdentity
from realm.services import (
    Service,
    ServiceStatus,
    read_identity,
    read_services,
    services_file,
    weaver_identity,
)
from realm.settings import Settings, subprocess_environment
from realm.weaver import launch
from realm.weaver.address import tavern_port

STOP_S = 45.0
READY_S = 90.0
REPEAT_S = 2.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Started:
    """What `start` found or did."""

    already_running: bool
    services: list[ServiceStatus]


@dataclass
class Stopped:
    """What `stop` did: names of what ended, and of what had to be killed."""

    ended: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def start(
    settings: Settings, services: Sequence[Service], flags: Mapping[str, Any], say: Say, *, ready_s: float = READY_S
) -> Started:
    """Start the Weaver unless it runs and wait for readiness.

    Raises ConflictError (port taken), DiskFullError, HostUnavailableError (something does not become ready).
    """
    paths = settings.paths.ensure()
    asked_at = time.time()
    running = weaver_identity(paths)
    if running is None:
        services_file(paths).unlink(missing_ok=True)  # whoever starts by hand wants a fresh try
        check_room(settings)
        if read_identity(paths, "tavern") is None:
            check_port(settings)
        spawn_weaver(settings, flags)
    else:
        asked, present = settings.tavern.port, tavern_port(settings)
        if asked not in (0, present) and "tavern.port" in flags:
            raise ConflictError(
                f"The realm runs already, on port {present}.",
                hint="Stop it with `realm down` first to change the port.",
                code="already_running",
            )
        running.signal(signal.SIGHUP)
    return Started(running is not None, _await_ready(paths, services, say, asked_at, ready_s))


def stop(paths: RealmPaths, services: Sequence[Service], say: Say, *, limit_s: float = STOP_S) -> Stopped:
    """End the Weaver, then the services in reverse order, then workers; each saves first. Safe when nothing runs."""
    began = time.monotonic()
    done = Stopped()
    weaver = weaver_identity(paths)
    alive = [service.name for service in services if read_identity(paths, service.name)]
    if weaver is not None:
        say("Telling the Weaver to stop the services.")
        weaver.signal(signal.SIGTERM)
        _await_end(weaver, began + limit_s * 0.8)
    for service in reversed(services):
        identity = read_identity(paths, service.name)
        if identity is not None:
            deadline = min(began + limit_s, time.monotonic() + service.stop_s)
            _end(identity, service.name, deadline, say, done)
    if weaver is not None and weaver.is_alive():
        launch.kill(weaver)
        done.killed.append("weaver")
    for worker in find_workers(paths):
        _end(worker, f"worker {worker.pid}", began + limit_s, say, done)
    gone = [name for name in reversed(alive) if read_identity(paths, name) is None and name not in done.killed]
    done.ended = [*dict.fromkeys([*gone, *done.ended]), *(["weaver"] if weaver else [])]
    _account_stopped(paths)
    done.seconds = time.monotonic() - began
    return done


def spawn_weaver(settings: Settings, flags: Mapping[str, Any]) -> None:
    """Start `python -m realm.weaver --daemon` in a session of its own."""
    argv = [sys.executable, "-m", "realm.weaver", "--home", str(settings.home), "--daemon"]
    for key, value in flags.items():
        argv += ["--set", f"{key}={value}"]
    launch.rotate_log(settings.paths, "weaver")
    with launch.open_log(settings.paths, "weaver") as log:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=project_root(),
            env=subprocess_environment(settings.home, PYTHONUNBUFFERED="1"),
        )


def check_room(settings: Settings) -> None:
    """Raise DiskFullError when not even the floor is free where the home lies."""
    needed = settings.arena.disk_floor_mib << 20
    free = free_bytes(settings.home)
    if free < needed:
        raise DiskFullError(
            f"Only {free >> 20} MiB are free where {settings.home} lies; {needed >> 20} MiB are kept free.",
            hint="Free some space or choose another folder with --home.",
            needed=needed,
            free=free,
        )


def check_port(settings: Settings) -> None:
    """Raise ConflictError, naming who has it, when the Tavern's port is taken."""
    host, port = settings.tavern.host, settings.tavern.port
    if port == 0 or _can_bind(host, port):
        return
    holder = port_holder(port)
    by = f" by {holder}" if holder else ""
    raise ConflictError(
        f"Port {port} is taken{by}.",
        hint=f"Start with another one: realm up --port {free_port_after(host, port)}",
        code="port_taken",
        port=port,
    )


def port_holder(port: int) -> str:
    """Return who listens on a port, as `name (pid N)`, or an empty text where the system does not tell."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return "a process of another user"
                words = psutil.Process(connection.pid).cmdline()
                return f"{_short(words)} (pid {connection.pid})"
    return ""


def free_port_after(host: str, port: int) -> int:
    """Return a port near `port` that is free now."""
    return next((other for other in range(port + 1, min(port + 100, 65536)) if _can_bind(host, other)), 0)


def find_workers(paths: RealmPaths) -> list[ProcessIdentity]:
    """Return the training processes of this home that are alive, found by what they were started with."""
    import psutil

    found = []
    home = str(paths.home)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = process.cmdline()
            ours = any(word == home or word.startswith(f"{home}/") for word in words)
            training = any(a == "realm" and b in ("worker", "train") for a, b in pairwise(words))
            identity = ProcessIdentity.of(process.pid) if ours and training else None
            if identity is not None and identity.pid != os.getpid():
                found.append(identity)
    return found


def _await_ready(
    paths: RealmPaths, services: Sequence[Service], say: Say, asked_at: float, limit_s: float
) -> list[ServiceStatus]:
    deadline = time.monotonic() + limit_s
    told: dict[str, str] = {}
    spawned = time.monotonic()
    while time.monotonic() < deadline:
        states = {status.name: status for status in read_services(paths)}
        weaver = weaver_identity(paths)
        if weaver is not None:
            for name, status in states.items():
                if told.get(name) != status.state:
                    told[name] = status.state
                    say(f"{name}: {status.state}")
                if status.state == "broken" and (status.since or 0) >= asked_at:
                    raise _not_ready(paths, status)
            if all(service.name in states and states[service.name].state == "up" for service in services):
                return list(states.values())
        elif time.monotonic() - spawned > 10:
            detail = launch.last_lines(paths, "weaver")
            raise HostUnavailableError(f"The Weaver did not start. {detail}", hint=f"See {paths.logs}/weaver.log.")
        time.sleep(0.05)
    late = [service.name for service in services if told.get(service.name) != "up"]
    raise HostUnavailableError(
        f"Not ready after {limit_s:.0f} s: {', '.join(late)}.",
        hint=f"See {paths.logs / (late[0] if late else 'weaver')}.log; it is still being tried.",
        code="not_ready",
    )


def _not_ready(paths: RealmPaths, status: ServiceStatus) -> HostUnavailableError:
    detail = status.detail.splitlines()[-1] if status.detail else "it does not stay up"
    return HostUnavailableError(
        f"{status.name} does not start: {detail}",
        hint=f"See {launch.log_file(paths, status.name)}, then `realm doctor`.",
        code="service_broken",
    )


def _await_end(identity: ProcessIdentity, deadline: float) -> bool:
    while identity.is_alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _end(identity: ProcessIdentity, name: str, deadline: float, say: Say, done: Stopped) -> None:
    say(f"Stopping {name} (pid {identity.pid}).")
    while time.monotonic() < deadline:
        identity.signal(signal.SIGTERM)  # again and again: the first may have ended a battle and not the process
        if _await_end(identity, min(deadline, time.monotonic() + REPEAT_S)):
            done.ended.append(name)
            return
    launch.kill(identity)
    _await_end(identity, time.monotonic() + 5)
    done.killed.append(name)


def _account_stopped(paths: RealmPaths) -> None:
    with contextlib.suppress(NotFoundError, CorruptFileError, KeyError, TypeError):
        value = read_json(services_file(paths))
        for entry in value["services"]:
            if entry["state"] != "stopped":
                entry |= {"state": "stopped", "pid": None, "since": time.time(), "detail": "stopped on request"}
        durable_write_json(services_file(paths), value)


def _can_bind(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True


def _short(words: list[str]) -> str:
    names = [Path(word).name if word.startswith("/") else word for word in words[:4]]
    return " ".join(names)[:80] or "a process"
