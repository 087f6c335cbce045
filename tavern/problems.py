"""Problem details (RFC 9457): the one shape of every error that the Tavern sends.

{type, title, status, detail, code, hint, …}: `code` is stable for programs, `detail` and `hint` are for people. An
error that nobody foresaw says nothing but the id under which it is in the log. Absolute paths are cut to their last
part and only named data is passed on, so that no answer tells where things lie on the machine.
"""

from __future__ import annotations

import http
import json
import logging
import re
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from realm.errors import RealmError

log = logging.getLogger("tavern")
MEDIA_TYPE = "application/problem+json"
_SHOWN_DATA = ("needed", "free", "key", "keys", "line", "lines", "state", "report", "job_id", "run_id", "id", "fields")
_ABSOLUTE = re.compile(r"(?<![\w:/.])(?:/[\w.@+~-]+){2,}/?")
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


class Problem(BaseModel):
    """The body of every error (RFC 9457)."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:realm:problem:not_found",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "There is no job job_01jd2v5x8kq3m7t9w0ab.",
                    "code": "not_found",
                    "hint": "",
                }
            ]
        },
    )
    type: str
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    code: str = Field(pattern=r"^[a-z0-9_]+$")
    hint: str = ""


ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457).",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


def to_json(value: Any) -> bytes:
    """Return compact ASCII JSON that stays inert even where a page would embed it. Raises ValueError on NaN."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES).encode("ascii")


class SafeJson(JSONResponse):
    """A JSON response by `to_json`."""

    def render(self, content: Any) -> bytes:
        return to_json(content)


def problem(
    status: int, code: str, detail: str, *, hint: str = "", headers: dict[str, str] | None = None, **data: Any
) -> Response:
    """Return a problem response; `data` adds members."""
    try:
        title = http.HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    body = {"type": f"urn:realm:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return Response(to_json({**data, **body, "hint": hint}), status, headers, MEDIA_TYPE)


def from_error(error: RealmError) -> Response:
    """Return the problem of one of our own errors."""
    shown = {key: scrub(error.data[key]) for key in _SHOWN_DATA if key in error.data}
    return problem(error.status, error.code, scrub(error.message), hint=scrub(error.hint), **shown)


def unexpected(error: BaseException) -> Response:
    """Log what nobody foresaw and return a problem that holds its id alone."""
    number = secrets.token_hex(6)
    log.error("unexpected error %s", number, exc_info=error)
    detail = f"Something went wrong that should not. It is in the Tavern's log as {number}."
    return problem(500, "unexpected", detail, hint="See logs/ in the realm's home.", error_id=number)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""
    app.add_exception_handler(RealmError, _on_realm_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_unexpected)


def scrub(value: Any) -> Any:
    """Return `value` with absolute paths in its texts cut to their last part."""
    if isinstance(value, str):
        return _ABSOLUTE.sub(_last_part, value)
    if isinstance(value, dict):
        return {str(key): scrub(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item) for item in value]
    return value if isinstance(value, int | float | None) else str(value)


def _last_part(match: re.Match[str]) -> str:
    path = match.group()
    return path if path.startswith("/api/") else path.rstrip("/").rpartition("/")[2]


async def _on_realm_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RealmError)
    if error.status >= 500:
        log.warning("%s: %s", error.code, error.message)
    return from_error(error)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [
        {"where": ".".join(str(part) for part in item["loc"][:8])[:200], "message": str(item["msg"])[:200]}
        for item in error.errors()[:20]
    ]
    first = fields[0] if fields else {"where": "request", "message": "is not valid"}
    return problem(422, "invalid_request", f"{first['where']}: {first['message']}.", fields=fields)


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    detail = error.detail if error.status_code not in (404, 405) else _PLAIN[error.status_code]
    return problem(error.status_code, code, detail, headers=dict(error.headers or {}))


async def _on_unexpected(_request: Request, error: Exception) -> Response:
    return unexpected(error)


_PLAIN = {404: "There is nothing here.", 405: "This cannot be done here."}
