"""Whether a service is ready: asked by the Weaver every moment while it starts and every few seconds later."""

from __future__ import annotations

import http.client
import time

from realm.services import Service
from realm.settings import Settings
from realm.weaver.address import tavern_host, tavern_port

HEARTBEAT_S = 15.0


def is_ready(service: Service, settings: Settings, started_at: float, timeout_s: float = 2.0) -> bool:
    """Ask a service. `started_at` is Unix time; a heartbeat from before it does not count."""
    if service.kind == "http":
        return _answers(settings, service.ready, timeout_s)
    if service.kind == "heartbeat":
        return _beats(settings, service.ready, started_at)
    return True


def _answers(settings: Settings, path: str, timeout_s: float) -> bool:
    connection = http.client.HTTPConnection(tavern_host(settings), tavern_port(settings), timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _beats(settings: Settings, relative: str, started_at: float) -> bool:
    try:
        touched = (settings.home / relative).stat().st_mtime
    except OSError:
        return False
    return touched >= started_at - 1.0 and abs(time.time() - touched) < HEARTBEAT_S
