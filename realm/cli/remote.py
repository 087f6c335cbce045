"""A realm behind a Tavern: the same commands over its HTTP API, with the standard library's client alone."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from realm.errors import ConfigError, HostUnavailableError, NotFoundError, RealmError

TIMEOUT_S = 30.0


class RemoteClient:
    """Talks to the Tavern at `server`. Raises HostUnavailableError when it does not answer."""

    def __init__(self, server: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(server if "://" in server else f"http://{server}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--server: {server!r} is not an address.", hint="For example http://127.0.0.1:8888.")
        self._parts = parts
        self._token = token
        self._timeout_s = timeout_s
        self.server = server

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", "/status")
        return found

    def jobs(self, states: Sequence[str], limit: int) -> list[dict[str, Any]]:
        return self._items("/jobs", {"state": list(states), "limit": limit})

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/jobs/{_plain(job_id)}")
        return found

    def report(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/jobs/{_plain(job_id)}/report")["report"]
        return found

    def submit(self, path: Path, name: str, priority: str) -> dict[str, Any]:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        query = urlencode({"name": name, "priority": priority})
        with open(path, "rb") as file:
            found: dict[str, Any] = self._ask("POST", f"/jobs?{query}", file, headers)
        return found

    def job_of(self, sha256: str) -> dict[str, Any] | None:
        for job in self.jobs((), 200):
            if any(file.get("sha256") == sha256 for file in job["data"]):
                return job
        return None

    def move(self, job_id: str, priority: str | None, before: str | None) -> dict[str, Any]:
        change = {"priority": priority, "before": before}
        return self._send("PATCH", f"/jobs/{_plain(job_id)}", {k: v for k, v in change.items() if v is not None})

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self._send("POST", f"/jobs/{_plain(job_id)}/cancel", {})

    def retry(self, job_id: str) -> dict[str, Any]:
        return self._send("POST", f"/jobs/{_plain(job_id)}/retry", {})

    def command(self, verb: str) -> dict[str, Any]:
        return self._send("POST", "/commands", {"verb": verb})

    def command_state(self, command_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/commands/{_plain(command_id)}")
        return found

    def runs(self, limit: int) -> list[dict[str, Any]]:
        return self._items("/runs", {"limit": limit})

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/runs/{_plain(run_id)}")
        return found

    def metrics(self, run_id: str, name: str, max_points: int) -> list[Sequence[float]]:
        query = urlencode({"name": name, "max_points": max_points})
        found: list[Sequence[float]] = self._ask("GET", f"/runs/{_plain(run_id)}/metrics?{query}")["points"]
        return found

    def checkpoints(self, hero: str | None, limit: int) -> list[dict[str, Any]]:
        return self._items("/checkpoints", {"hero": hero, "limit": limit})

    def checkpoint(self, checkpoint_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", f"/checkpoints/{_plain(checkpoint_id)}")
        return found

    def evaluations(self, hero: str | None, limit: int) -> list[dict[str, Any]]:
        return self._items("/evaluations", {"hero": hero, "limit": limit})

    def events(self, *, after: int | None, limit: int) -> list[dict[str, Any]]:
        newest = self._items("/log", {"limit": limit})
        return [event for event in reversed(newest) if after is None or event["seq"] > after]

    def tokens(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", "/tokens")
        return found

    def create_token(self, name: str, scopes: Sequence[str], ttl_s: int | None) -> dict[str, Any]:
        return self._send("POST", "/tokens", {"name": name, "scopes": list(scopes), "ttl_s": ttl_s})

    def revoke_token(self, token_id: str) -> dict[str, Any]:
        return self._send("DELETE", f"/tokens/{_plain(token_id)}", None)

    def _items(self, path: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = {key: value for key, value in query.items() if value not in (None, [])}
        found: list[dict[str, Any]] = self._ask("GET", f"{path}?{urlencode(wanted, doseq=True)}")["items"]
        return found

    def _send(self, method: str, path: str, value: Any) -> dict[str, Any]:
        body = None if value is None else json.dumps(value).encode()
        found: dict[str, Any] = self._ask(method, path, body, {"Content-Type": "application/json"})
        return found

    def _ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Make one request and return its JSON. Raises RealmError as the server tells it."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)
        sent = {"Accept": "application/json", "X-Realm": "1", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, f"{self._parts.path.rstrip('/')}/api/v1{path}", body, sent)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            words = f"No Tavern answers at {self.server}: {error}."
            raise HostUnavailableError(words, hint="Is it running? Start it there with `realm up`.") from error
        finally:
            connection.close()
        try:
            value = json.loads(content) if content else None
        except ValueError:
            words = f"{self.server} answered with something that is not JSON (status {response.status})."
            raise HostUnavailableError(words, hint="Is that address a Tavern?") from None
        if response.status >= 400:
            raise _as_error(response.status, value)
        return value


def _as_error(status: int, value: Any) -> RealmError:
    """Return the error that a problem document (RFC 9457) tells of."""
    told = value if isinstance(value, dict) else {}
    words = str(told.get("detail") or told.get("title") or f"The server answered with status {status}.")
    code, hint = str(told.get("code") or "server_error"), str(told.get("hint") or "")
    if status == 404:
        return NotFoundError(words, hint=hint, code=code)
    if status in (401, 403) and not hint:
        hint = "Give a token with --token; make one there with `realm token create`."
    return RealmError(words, hint=hint, code=code, http_status=status)


def _plain(identifier: str) -> str:
    return quote(identifier, safe="")
