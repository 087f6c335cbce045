"""API tokens: opaque, kept only as a hash, with scopes, expiry and revocation."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select, update

from realm.errors import ConfigError, NotFoundError
from realm.ids import new_id
from vault import schema
from vault.database import Database
from vault.records import Token

SCOPES = ("read", "operate", "admin", "zone")
_T = schema.tokens
_PUBLIC = [column for column in _T.c if column.name != "hash"]


class TokenStore:
    """All tokens; the secret is shown once, at creation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, scopes: Sequence[str], ttl_s: float | None = None) -> tuple[Token, str]:
        """Make a token and return it with its secret (`realm_` + 43 characters, 256 bits). Raises ConfigError."""
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise ConfigError(f"No scope {', '.join(unknown) or '(none given)'}.", hint=f"Known: {', '.join(SCOPES)}.")
        secret = f"realm_{secrets.token_urlsafe(32)}"
        now = time.time()
        values: dict[str, Any] = {
            "id": new_id("tok"),
            "name": name[:100],
            "hash": _hash(secret),
            "scopes": sorted(set(scopes)),
        }
        values |= {"created_at": now, "expires_at": None if ttl_s is None else now + ttl_s}
        with self._database.write() as connection:
            connection.execute(insert(_T).values(**values))
        return self.get(str(values["id"])), secret

    def authenticate(self, secret: str, now: float | None = None) -> Token | None:
        """Return the token of a secret, or None when it is unknown, expired or revoked."""
        now = time.time() if now is None else now
        with self._database.read() as connection:
            row = connection.execute(select(*_PUBLIC).where(_T.c.hash == _hash(secret))).mappings().first()
        if row is None:
            return None
        token = Token(**row)
        if token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= now):
            return None
        if token.last_used_at is None or now - token.last_used_at > 60:
            with self._database.write() as connection:
                connection.execute(update(_T).where(_T.c.id == token.id).values(last_used_at=now))
        return token

    def get(self, token_id: str) -> Token:
        """Return a token by id. Raises NotFoundError."""
        with self._database.read() as connection:
            row = connection.execute(select(*_PUBLIC).where(_T.c.id == token_id)).mappings().first()
        if row is None:
            raise NotFoundError("There is no such token.", code="token_not_found", token_id=token_id)
        return Token(**row)

    def list(self) -> Sequence[Token]:
        """Return all tokens, revoked ones too, newest first."""
        with self._database.read() as connection:
            query = select(*_PUBLIC).order_by(_T.c.created_at.desc())
            return [Token(**row) for row in connection.execute(query).mappings()]

    def revoke(self, token_id: str) -> Token:
        """End a token now. Raises NotFoundError."""
        self.get(token_id)
        with self._database.write() as connection:
            same = (_T.c.id == token_id) & _T.c.revoked_at.is_(None)
            connection.execute(update(_T).where(same).values(revoked_at=time.time()))
        return self.get(token_id)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
