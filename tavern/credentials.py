"""Who is calling: the owner of the other end of a loopback connection, a browser session, or a token.

- Own user: on loopback the kernel knows which user owns the client's socket (`tavern.sockets`).
- Session: a launch code is a file of the realm's private control folder, so whoever can make one owns the realm. It
  works once, for 60 seconds, and is exchanged for a cookie that holds a token of its own.
- Token: `Authorization: Bearer`, looked up by its hash in the vault.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from realm.files import durable_write
from realm.paths import RealmPaths
from tavern.access import GRANTS
from tavern.sockets import Address, is_loopback, overflow_uid, socket_owner
from vault.tokens import TokenStore

LAUNCH_CODE_S = 60.0
SESSION_S = 30 * 24 * 3600.0
SESSION_NAME = "browser session"
OWN_USER_SCOPES = ("read", "operate", "admin")
_CACHE_S = 0.5

PeerUid = Callable[[Address, Address], int | None]
Kind = Literal["own-user", "session", "token"]


@dataclass(frozen=True)
class Caller:
    """Somebody who proved who they are."""

    kind: Kind
    name: str
    """For the audit: who did it."""
    grants: frozenset[str]
    token_id: str | None = None
    secret: str | None = None
    """For checking again on long connections; never shown."""

    def __repr__(self) -> str:
        return f"Caller({self.kind}, {self.name!r})"


class Credentials:
    """Recognises callers. Token lookups are remembered for half a second, so that revoking takes effect within it."""

    def __init__(self, tokens: TokenStore, paths: RealmPaths, peer_uid: PeerUid | None = None) -> None:
        self._tokens = tokens
        self._paths = paths
        self._peer_uid = peer_uid or socket_owner
        self._known: dict[str, tuple[float, Caller]] = {}

    def own_user(self, client: Address | None, server: Address | None) -> Caller | None:
        """Return the owner of this process if the client on loopback is the same user, else None."""
        if client is None or server is None or not (is_loopback(client[0]) and is_loopback(server[0])):
            return None
        uid = self._peer_uid(client, server)
        if uid is None or uid != os.geteuid() or uid == overflow_uid():
            return None
        return Caller("own-user", "the owner", _grants(OWN_USER_SCOPES))

    def by_secret(self, kind: Kind, secret: str) -> Caller | None:
        """Return the caller whom a token's or session's secret stands for. Raises RealmError (database)."""
        if not 20 <= len(secret) <= 200 or not secret.isascii():
            return None
        key = hashlib.sha256(f"{kind}:{secret}".encode()).hexdigest()
        now = time.monotonic()
        found = self._known.get(key)
        if found is not None and found[0] > now:
            return found[1]
        self._known.pop(key, None)
        token = self._tokens.authenticate(secret)
        if token is None or (token.name == SESSION_NAME) != (kind == "session"):
            return None
        caller = Caller(kind, token.name, _grants(token.scopes), token.id, secret)
        if len(self._known) > 1000:
            self._known.clear()
        self._known[key] = (now + _CACHE_S, caller)
        return caller

    def still_valid(self, caller: Caller) -> bool:
        """Tell whether a caller of a long connection may stay."""
        return caller.secret is None or self.by_secret(caller.kind, caller.secret) is not None

    def forget(self) -> None:
        """Look everything up anew: something was revoked."""
        self._known.clear()

    def open_session(self, code: str) -> str | None:
        """Exchange a launch code for a session's secret, once; None when it is unknown, used or too old."""
        if not spend_launch_code(self._paths, code):
            return None
        return self._tokens.create(SESSION_NAME, OWN_USER_SCOPES, SESSION_S)[1]

    def close_session(self, caller: Caller) -> None:
        if caller.token_id is not None:
            self._tokens.revoke(caller.token_id)
            self.forget()


def create_launch_code(paths: RealmPaths, now: float | None = None) -> str:
    """Leave a launch code in the control folder and return it; the printed address is `…/login#CODE`."""
    now = time.time() if now is None else now
    code = secrets.token_urlsafe(24)
    _sweep(paths, now)
    durable_write(_code_file(paths, code), json.dumps({"expires_at": now + LAUNCH_CODE_S}).encode())
    return code


def spend_launch_code(paths: RealmPaths, code: str, now: float | None = None) -> bool:
    """Use a launch code up; of any number of callers exactly one gets True, and only in time.

    The unlink decides: it succeeds once.
    """
    now = time.time() if now is None else now
    path = _code_file(paths, code)
    try:
        expires_at = float(json.loads(path.read_bytes())["expires_at"])
        path.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return now <= expires_at


def _grants(scopes: tuple[str, ...] | list[str]) -> frozenset[str]:
    return frozenset().union(*(GRANTS.get(scope, frozenset()) for scope in scopes))


def _code_file(paths: RealmPaths, code: str) -> Path:
    return paths.control / f"launch-{hashlib.sha256(code.encode('utf-8', 'replace')).hexdigest()}.json"


def _sweep(paths: RealmPaths, now: float) -> None:
    for path in paths.control.glob("launch-*.json"):
        try:
            if now - path.stat().st_mtime > LAUNCH_CODE_S:
                path.unlink()
        except OSError:
            continue
