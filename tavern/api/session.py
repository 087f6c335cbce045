"""The browser session: a launch code becomes a cookie. Only needed where the owner of a connection cannot be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from realm.errors import RealmError
from tavern.api.models import LoginRequest, Session
from tavern.context import CallerDep, TavernDep
from tavern.credentials import SESSION_S
from tavern.problems import ERRORS

api = APIRouter(prefix="/session", tags=["session"])
door = APIRouter(tags=["session"], responses=ERRORS)
LOGIN = Path(__file__).parent.parent / "static" / "login"
LOGIN_PAGE = LOGIN / "login.html"


class BadLaunchCodeError(RealmError):
    """A launch code that lets nobody in."""

    code = "bad_launch_code"
    status = 401


def cookie_name(port: int) -> str:
    """Cookies do not tell ports apart: each Tavern of a machine needs a name of its own."""
    return f"realm_session_{port}"


@api.get("", response_model=Session, summary="Who the Tavern takes you for")
def get_session(caller: CallerDep) -> Any:
    return {"kind": caller.kind, "name": caller.name, "scopes": sorted(caller.grants)}


@api.delete("", status_code=204, summary="End this browser session")
def end_session(tavern: TavernDep, caller: CallerDep, response: Response, request: Request) -> None:
    """The owner on the same machine needs no session, and a token is revoked under its own address."""
    if caller.kind == "session":
        tavern.credentials.close_session(caller)
        response.delete_cookie(request.app.state.cookie, path="/", httponly=True, samesite="strict")


@door.get("/login", include_in_schema=False)
def login_page() -> Response:
    return Response(LOGIN_PAGE.read_bytes(), media_type="text/html")


@door.get("/login.css", include_in_schema=False)
def login_style() -> Response:
    return Response((LOGIN / "login.css").read_bytes(), media_type="text/css")


@door.get("/login.js", include_in_schema=False)
def login_script() -> Response:
    return Response((LOGIN / "login.js").read_bytes(), media_type="text/javascript")


@door.post("/login", status_code=204, summary="Exchange a launch code for a session cookie")
def login(tavern: TavernDep, request: Request, response: Response, body: LoginRequest) -> None:
    """A code works once and for a minute; `realm up` prints one where it is needed."""
    secret = tavern.credentials.open_session(body.code)
    if secret is None:
        raise BadLaunchCodeError(
            "This code was used already or is too old.", hint="`python -m tavern launch` prints a new one."
        )
    response.set_cookie(
        request.app.state.cookie,
        secret,
        max_age=int(SESSION_S),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
