"""The gate: one deny-by-default layer around the whole application, outside its routing.

In this order, the first refusal ends it: Host name (DNS rebinding), sizes, who is calling, whether the access table has
this address and method for them, where the request comes from (cross-site requests), what it carries. Only then does
the application see it, and every response leaves with the same headers. A route that was added without an entry in
`tavern.access` stays closed (tests/tavern/test_access.py, test_origins.py, test_hosts.py).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realm.errors import RealmError
from tavern import problems
from tavern.access import EFFECTS, UPLOAD_TYPES, AccessTable, Rule
from tavern.bounds import HEADER_BYTES, JSON_BODY_BYTES, QUERY_BYTES, BadJsonError, strict_json
from tavern.credentials import Caller, Credentials

log = logging.getLogger("tavern.security")
BODY_TIMEOUT_S = 30.0
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types realm"
)
RESPONSE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"permissions-policy",
        b"accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), hid=(), "
        b"microphone=(), midi=(), payment=(), serial=(), usb=()",
    ),
    (b"x-frame-options", b"DENY"),
)
_FIXED_NAMES = frozenset(name for name, _ in RESPONSE_HEADERS)
_PLAIN_PATH = re.compile(rb"/(?:[A-Za-z0-9_@~-][A-Za-z0-9_.@~-]*(?:/[A-Za-z0-9_@~-][A-Za-z0-9_.@~-]*)*)?")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_ONCE = ("host", "origin", "authorization", "sec-fetch-site", "content-type", "content-length", "x-realm")
_PROXY_HEADERS = frozenset({"forwarded", "via", "x-real-ip", "cf-connecting-ip", "true-client-ip"})


class DeniedError(RealmError):
    """A request that the gate turns down."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", headers: dict[str, str] | None = None):
        super().__init__(message, hint=hint, code=code)
        self.http_status = status
        self.headers = headers


class BodyTooLargeError(RealmError):
    """More was sent than may be."""

    code = "body_too_large"
    status = 413


class BodyTimeoutError(RealmError):
    """A body that stopped coming."""

    code = "body_timeout"
    status = 408


@dataclass(frozen=True)
class GateConfig:
    """What the gate must know of the realm."""

    allowed_hosts: frozenset[str]
    """Host names, lower case, without port."""
    cookie: str
    upload_bytes: int
    observe: Callable[[str, str, int, float], None] = lambda method, path, status, seconds: None
    """Told of every answered request: method, the rule's path, status, seconds."""
    login_page: bytes = b""
    """Sent with 401 to somebody who opens a page in a browser."""


@dataclass
class _Request:
    """The parts of a request that decisions are made on."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        return self.headers.get(name)


class Gate:
    """The layer itself. `app` only ever sees requests that passed; `scope["caller"]` then holds the Caller or None."""

    def __init__(self, app: ASGIApp, table: AccessTable, credentials: Credentials, config: GateConfig) -> None:
        self.app = app
        self.table = table
        self.credentials = credentials
        self.config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSocket is offered to anybody
            await send({"type": "websocket.close", "code": 1008})
            return
        started = time.perf_counter()
        outcome = _Outgoing(send, scope.get("path", ""))
        try:
            receive = await self._admit(scope, receive)
            outcome.keeps_own_caching = True
            await self.app(scope, receive, outcome)
        except DeniedError as denied:
            log.info("%s: %s %s", denied.code, _known_method(scope), scope.get("rule", "(no such address)"))
            response = problems.problem(
                denied.http_status, denied.code, denied.message, hint=denied.hint, headers=denied.headers
            )
            if denied.http_status == 401 and _opens_page(scope) and self.config.login_page:
                response.body, response.media_type = self.config.login_page, "text/html"
                response.headers["content-type"] = "text/html; charset=utf-8"
                response.headers["content-length"] = str(len(response.body))
            await response(scope, receive, outcome)
        except ClientGoneError:
            pass
        except RealmError as error:
            if outcome.started:
                raise
            await problems.from_error(error)(scope, receive, outcome)
        except Exception as error:
            if outcome.finished:  # answered and logged inside, then raised again for the server to see
                return
            response = problems.unexpected(error)
            if outcome.started:
                raise
            await response(scope, receive, outcome)
        finally:
            if not outcome.streaming:
                seconds = time.perf_counter() - started
                self.config.observe(_known_method(scope), scope.get("rule", "(none)"), outcome.status, seconds)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Let a request pass and return how its body may be read. Raises DeniedError."""
        request = _read(scope)
        self._check_host(request, scope)
        _check_sizes(request, scope)
        methods = self.table.find(request.path) if _is_plain(scope) else None
        rule = methods.get(request.method) if methods else None
        scope["rule"] = next(iter(methods.values())).path if methods else "(none)"
        if rule is not None and rule.scope == "open":
            caller = None
        else:
            caller = await self._identify(request, scope)
            if methods is None:
                raise DeniedError(404, "not_found", "There is nothing at this address.")
            if rule is None:
                allowed = ", ".join(sorted(methods))
                raise DeniedError(405, "method_not_allowed", f"Only {allowed} here.", headers={"Allow": allowed})
            if rule.scope not in caller.grants:
                words = f"This needs the scope {rule.scope!r}, which {caller.name} does not have."
                raise DeniedError(403, "insufficient_scope", words, "Use a token with that scope.")
        _check_origin(request, scope, caller)
        scope["caller"] = caller
        if rule.method in EFFECTS:
            return await self._check_body(request, rule, receive)
        return receive

    def _check_host(self, request: _Request, scope: Scope) -> None:
        given = (request.get("host") or "").lower()
        match = _HOST.fullmatch(given)
        name = match.group(1) if match else ""
        known = name in self.config.allowed_hosts or (name and name.strip("[]") == _own_address(scope))
        if not known or (match and match.group(2) and int(match.group(2)) > 65535):
            raise DeniedError(
                403,
                "unknown_host",
                "The Tavern does not answer to that name.",
                "Call it localhost, or add the name to tavern.allowed_hosts in config.yaml.",
            )

    async def _identify(self, request: _Request, scope: Scope) -> Caller:
        """Return who is calling. Raises DeniedError (401)."""
        caller = None
        authorization = request.get("authorization")
        if authorization is not None:
            kind, _, secret = authorization.partition(" ")
            if kind.lower() == "bearer":
                caller = await run_in_threadpool(self.credentials.by_secret, "token", secret.strip())
        else:
            caller = self._own_user(request, scope)
            session = _cookie(request.get("cookie"), self.config.cookie)
            if caller is None and session is not None:
                caller = await run_in_threadpool(self.credentials.by_secret, "session", session)
        if caller is None:
            raise DeniedError(
                401,
                "not_authenticated",
                "The Tavern does not know you.",
                "Send a token as `Authorization: Bearer …` (`realm token create`), or open the address that "
                "`realm up` prints.",
                {"WWW-Authenticate": 'Bearer realm="realm"'},
            )
        return caller

    def _own_user(self, request: _Request, scope: Scope) -> Caller | None:
        if any(name in _PROXY_HEADERS or name.startswith("x-forwarded") for name in request.headers):
            return None  # somebody else's request, passed on by a program of ours
        connection = scope.get("state", {}).get("connection")
        if connection is not None and "own_user" in connection:
            found: Caller = connection["own_user"]
            return found
        caller = self.credentials.own_user(_pair(scope.get("client")), _pair(scope.get("server")))
        if caller is not None and connection is not None:
            connection["own_user"] = caller
        return caller

    async def _check_body(self, request: _Request, rule: Rule, receive: Receive) -> Receive:
        declared = int(request.get("content-length") or 0)
        empty = declared == 0 and request.get("transfer-encoding") is None
        kind = (request.get("content-type") or "").partition(";")[0].strip().lower()
        if rule.body == "upload" and kind in UPLOAD_TYPES:
            if declared > self.config.upload_bytes:
                raise DeniedError(413, "body_too_large", f"At most {self.config.upload_bytes >> 20} MiB can be sent.")
            return _limited(receive, self.config.upload_bytes)
        if kind != "application/json" and not (empty and not kind):
            accepted = "application/json" + (" or application/octet-stream" if rule.body == "upload" else "")
            raise DeniedError(415, "unsupported_media_type", f"Send {accepted}.")
        if declared > JSON_BODY_BYTES:
            raise DeniedError(413, "body_too_large", "A JSON body is at most 1 MiB.")
        body = await _read_all(_limited(receive, JSON_BODY_BYTES))
        if body:
            try:
                strict_json(body)
            except BadJsonError as error:
                raise DeniedError(400, "bad_json", str(error)) from None
        return _replay(body, receive)


class ClientGoneError(Exception):
    """The client closed the connection while its body was being read."""


class _Outgoing:
    """`send` that puts our headers on every response."""

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._path = path
        self.started = False
        self.finished = False
        self.streaming = False
        self.status = 0
        self.keeps_own_caching = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = [(k, v) for k, v in message.get("headers", []) if k.lower() not in _FIXED_NAMES]
            names = {k.lower(): v for k, v in headers}
            self.streaming = names.get(b"content-type", b"").startswith(b"text/event-stream")
            if b"cache-control" not in names or not self.keeps_own_caching:
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*headers, *RESPONSE_HEADERS]}
        await self._send(message)
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)


def allowed_hosts(bound: str, configured: Iterable[str]) -> frozenset[str]:
    """Return the names to answer to: loopback, the address bound to, and what the settings add."""
    names = {*LOOPBACK_NAMES, *(name.lower() for name in configured)}
    if bound not in ("", "0.0.0.0", "::"):
        names.add(f"[{bound.lower()}]" if ":" in bound else bound.lower())
    return frozenset(names)


def _read(scope: Scope) -> _Request:
    request = _Request(scope["method"], scope["path"])
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        request.counts[name] = request.counts.get(name, 0) + 1
        request.headers[name] = raw_value.decode("latin-1")
    if any(request.counts.get(name, 0) > 1 for name in _ONCE):
        raise DeniedError(400, "repeated_header", "A header that may come once came twice.")
    return request


def _check_sizes(request: _Request, scope: Scope) -> None:
    total = sum(len(name) + len(value) for name, value in scope["headers"])
    if total > HEADER_BYTES or len(scope["headers"]) > 100:
        raise DeniedError(431, "headers_too_large", "The headers are larger than 16 KiB.")
    if len(scope["query_string"]) > QUERY_BYTES or len(scope["path"]) > 1024:
        raise DeniedError(414, "address_too_long", "The address is too long.")
    length = request.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit() and len(length) <= 16):
        raise DeniedError(400, "bad_length", "Content-Length is not a number.")


def _is_plain(scope: Scope) -> bool:
    """Tell whether a path holds nothing that any layer could read in two ways: no %, ;, \\, //, dot segments."""
    raw = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    return _PLAIN_PATH.fullmatch(raw) is not None and scope["path"].encode("utf-8", "surrogatepass") == raw


def _check_origin(request: _Request, scope: Scope, caller: Caller | None) -> None:
    """Refuse what another site made a browser send. A token is exempt from the custom header: no site can send it."""
    site, origin = request.get("sec-fetch-site"), request.get("origin")
    own = (request.get("host") or "").lower()
    effect = request.method in EFFECTS
    if origin is not None:
        schemes = ("http", "https") if site == "same-origin" else (scope.get("scheme", "http"),)
        if origin.lower() not in [f"{scheme}://{own}" for scheme in schemes]:
            raise _cross_site()
    if caller is not None and caller.kind == "token":
        return
    if site is not None and site != "same-origin":
        navigates = request.get("sec-fetch-mode") == "navigate" and request.get("sec-fetch-dest") == "document"
        reads_page = not effect and not request.path.startswith("/api/") and (navigates or site == "none")
        typed = not effect and site == "none"
        if not (reads_page or typed):
            raise _cross_site()
    if not effect:
        return
    if site is None and origin is None and (caller is None or caller.kind != "own-user"):
        raise _cross_site()
    if request.get("x-realm") != "1":
        raise DeniedError(403, "header_missing", "Requests that change something carry the header `X-Realm: 1`.")


def _cross_site() -> DeniedError:
    return DeniedError(403, "cross_site", "This request comes from another site.")


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive` that ends a body which is too long or stops coming."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        try:
            message = await asyncio.wait_for(receive(), BODY_TIMEOUT_S)
        except TimeoutError:
            raise BodyTimeoutError(f"Nothing more came for {BODY_TIMEOUT_S:.0f} seconds.") from None
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise BodyTooLargeError(f"At most {limit} bytes can be sent here.", needed=seen)
        return message

    return limited


async def _read_all(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _cookie(header: str | None, name: str) -> str | None:
    """Return a cookie's value; None when it is absent or comes twice."""
    if header is None:
        return None
    pairs = [part.strip().partition("=") for part in header.split(";")]
    values = [value for key, _, value in pairs if key == name]
    return values[0] if len(values) == 1 else None


def _pair(address: Any) -> tuple[str, int] | None:
    if not address or address[1] is None:
        return None
    return str(address[0]), int(address[1])


def _own_address(scope: Scope) -> str | None:
    """The numeric address that the request arrived at: as a Host it cannot be rebound, unlike a name."""
    server = _pair(scope.get("server"))
    if server is None or not re.fullmatch(r"[0-9a-fA-F:.]+", server[0]):
        return None
    return server[0].lower()


def _known_method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in EFFECTS or scope["method"] == "GET" else "other"


def _opens_page(scope: Scope) -> bool:
    accept = next((v for k, v in scope["headers"] if k.lower() == b"accept"), b"")
    return scope["method"] == "GET" and b"text/html" in accept and not scope["path"].startswith("/api/")
