"""Services: long-running processes that the Weaver keeps alive, and what is known about each.

A `Service` is data: its name, how it is started and what tells that it is ready. `realm.wiring` holds the table.
`control/services.json` is the public account of their states (the status page and `realm status` read it);
`control/services/NAME.json` is a service's identity; `control/services/NAME.lock` is held by the service itself for
as long as it lives, because the lock's descriptor is handed down to it: that is what makes two of one impossible.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from realm.errors import CorruptFileError, NotFoundError
from realm.files import read_json
from realm.paths import RealmPaths
from realm.processes import ProcessIdentity

ServiceState = Literal["up", "down", "starting", "broken", "stopped"]
EXIT_BAD_CONFIG = 78


@dataclass(frozen=True)
class Service:
    """One service. It is started as `PYTHON *argv` with REALM_HOME set."""

    name: str
    argv: tuple[str, ...]
    kind: Literal["http", "heartbeat", "process"] = "process"
    """What readiness means: an HTTP path answers 200, a file is touched regularly, or the process runs."""
    ready: str = ""
    """http: the path (`/healthz`); heartbeat: the file below the home."""
    stop_s: float = 10.0
    """How long it may take to end after SIGTERM before it is killed."""


@dataclass(frozen=True)
class ServiceStatus:
    """What `control/services.json` says of one service."""

    name: str
    state: ServiceState
    pid: int | None
    since: float | None
    """Unix time of the last change of state."""
    restarts: int
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def services_file(paths: RealmPaths) -> Path:
    return paths.control / "services.json"


def identity_file(paths: RealmPaths, name: str) -> Path:
    return paths.control / "services" / f"{name}.json"


def lock_file(paths: RealmPaths, name: str) -> Path:
    return paths.control / "services" / f"{name}.lock"


def heartbeat_file(paths: RealmPaths, name: str) -> Path:
    """The file that a service touches about once a second from its main loop."""
    return paths.control / "services" / f"{name}.beat"


def weaver_identity(paths: RealmPaths) -> ProcessIdentity | None:
    """Return the Weaver that runs now, or None."""
    try:
        identity = ProcessIdentity.from_dict(read_json(paths.control / "weaver.json").get("identity"))
    except (NotFoundError, CorruptFileError, AttributeError):
        return None
    return identity if identity is not None and identity.is_alive() else None


def read_services(paths: RealmPaths) -> list[ServiceStatus]:
    """Return the state of every known service, as it is now and not as it was when it was written.

    The Weaver may be dead: an entry whose process is gone is reported as down, whatever the file says.
    """
    try:
        entries = read_json(services_file(paths))["services"]
    except (NotFoundError, CorruptFileError, KeyError, TypeError):
        return []
    found = []
    for entry in entries:
        try:
            status = ServiceStatus(**{key: entry[key] for key in ServiceStatus.__dataclass_fields__})
        except (KeyError, TypeError):
            continue
        if status.state in ("up", "starting") and read_identity(paths, status.name) is None:
            status = ServiceStatus(status.name, "down", None, status.since, status.restarts, status.detail)
        found.append(status)
    return found


def read_identity(paths: RealmPaths, name: str) -> ProcessIdentity | None:
    """Return a service's process if it is alive, else None."""
    try:
        identity = ProcessIdentity.from_dict(read_json(identity_file(paths, name)).get("identity"))
    except (NotFoundError, CorruptFileError, AttributeError):
        return None
    return identity if identity is not None and identity.is_alive() else None
