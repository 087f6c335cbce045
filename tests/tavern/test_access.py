"""Every address, every method, every scope, every carrier: what is not written in the table is closed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Mount

from tavern.access import EFFECTS, GRANTS, RULES, AccessTable, Rule
from tavern.app import Application

from .conftest import BASE, EFFECT, World, problem_of

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "BREW")
OPEN = {("GET", "/healthz"), ("GET", "/login"), ("POST", "/login")}
OPEN |= {("GET", "/login.css"), ("GET", "/login.js")}
GUARDED = [rule for rule in RULES if rule.scope != "open" and rule.path != "/api/v1/events"]
GUARDED_IDS = [f"{rule.method} {rule.path}" for rule in GUARDED]


def routes_of(app: Application) -> list[tuple[str, set[str]]]:
    found = []
    for context in iter_route_contexts(app.inner.routes):
        assert not isinstance(context.original_route, Mount), "a mount cannot be walked: serve its files by routes"
        found.append((str(context.path), set(context.methods or ())))
    return found


def test_the_list_for_everybody_is_exactly_this() -> None:
    assert {(rule.method, rule.path) for rule in RULES if rule.scope == "open"} == OPEN


def test_every_route_is_401_for_a_stranger_whatever_the_method(
    app: Application, stranger: TestClient, world: World
) -> None:
    walked = 0
    for template, _ in routes_of(app):
        path = world.path(template).replace("{", "x").replace("}", "x")
        for method in METHODS:
            if (method, template) in OPEN:
                continue
            response = stranger.request(method, path, headers=EFFECT)
            assert response.status_code == 401, f"{method} {path}"
            assert "access-control-allow-origin" not in response.headers
            walked += 1
    assert walked > 300


def test_addresses_that_do_not_exist_are_401_too(stranger: TestClient) -> None:
    for path in ("/docs", "/redoc", "/api/v1/nothing", "/.git/config", "/static/../pyproject.toml", "//", "/%2e%2e/"):
        assert stranger.get(path).status_code == 401, path


def test_every_route_of_the_application_is_in_the_table(app: Application, owners_app: Application) -> None:
    table = owners_app.gate.table  # type: ignore[attr-defined]
    for path, methods in routes_of(app):
        probe = path.replace(":path}", "}").replace("{", "").replace("}", "")
        rules = table.find(probe)
        assert rules is not None, f"{path} has no entry in tavern/access.py"
        assert methods - {"HEAD"} <= rules.keys(), path


def test_every_entry_of_the_table_has_a_route(app: Application) -> None:
    routes = {(method, path) for path, methods in routes_of(app) for method in methods}
    assert {(rule.method, rule.path) for rule in RULES} <= routes


@pytest.mark.parametrize("carrier", ["nobody", "owner", "token"])
def test_a_route_somebody_forgot_to_enter_stays_closed(
    app: Application, owners_app: Application, bearer: Any, carrier: str
) -> None:
    headers = bearer("read", "operate", "admin") if carrier == "token" else {}
    chosen = owners_app if carrier == "owner" else app

    @chosen.inner.post("/api/v1/worker_start")
    @chosen.inner.get("/api/v1/worker_start")
    def forgotten() -> dict[str, str]:
        raise AssertionError("reached")

    with TestClient(chosen, base_url=BASE, client=("127.0.0.1", 50000)) as client:
        for method in ("GET", "POST"):
            response = client.request(method, "/api/v1/worker_start", headers=headers | EFFECT)
            assert response.status_code == (401 if carrier == "nobody" else 404)


def test_a_page_with_an_effect_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="must only be read"):
        AccessTable.with_pages([("/quests", {"POST"})])


@pytest.mark.parametrize("rule", GUARDED, ids=GUARDED_IDS)
def test_scopes(rule: Rule, stranger: TestClient, world: World, bearer: Any) -> None:
    for scope, grants in GRANTS.items():
        response = stranger.request(
            rule.method, world.path(rule.path), headers=bearer(scope), content=b"{}" if rule.method in EFFECTS else None
        )
        if rule.scope in grants:
            assert response.status_code not in (401, 403), f"{scope}: {response.text}"
        else:
            assert response.status_code == 403
            assert problem_of(response)["code"] == "insufficient_scope"


def test_the_stream_needs_the_read_scope(stranger: TestClient, bearer: Any) -> None:
    assert stranger.get("/api/v1/events", headers=bearer("zone")).status_code == 403
    assert stranger.get("/api/v1/events").status_code == 401


def test_known_address_unknown_method_is_405_for_those_let_in(owner: TestClient, world: World) -> None:
    for method in ("PUT", "DELETE", "BREW", "HEAD", "OPTIONS"):
        response = owner.request(method, f"/api/v1/jobs/{world.waiting}", headers=EFFECT)
        assert response.status_code == 405
        assert response.headers["allow"] == "GET, PATCH"


CARRIERS = st.sampled_from(["bearer", "cookie", "query", "x-api-key", "basic", "url", "lowercase", "twice"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rule=st.sampled_from(GUARDED),
    scopes=st.lists(st.sampled_from(sorted(GRANTS)), min_size=1, max_size=3, unique=True),
    carrier=CARRIERS,
)
def test_only_two_carriers_carry(
    *, stranger: TestClient, world: World, bearer: Any, rule: Rule, scopes: list[str], carrier: str
) -> None:
    """A valid secret in any other place is as good as none."""
    header = bearer(*scopes)["Authorization"]
    secret = header.removeprefix("Bearer ")
    path, headers = world.path(rule.path), dict(EFFECT)
    if carrier in ("bearer", "lowercase"):
        headers["Authorization"] = header if carrier == "bearer" else f"bearer {secret}"
    elif carrier == "cookie":  # an API token is not a browser session
        headers["Cookie"] = f"realm_session_8888={secret}"
    elif carrier == "query":
        path += f"?token={secret}&access_token={secret}"
    elif carrier == "x-api-key":
        headers |= {"X-API-Key": secret, "X-Token": secret}
    elif carrier == "basic":
        headers["Authorization"] = f"Basic {secret}"
    elif carrier == "url":
        path = f"{path}/{secret}"
    listed = [*headers.items()] + ([("Authorization", header)] * 2 if carrier == "twice" else [])
    response = stranger.request(rule.method, path, headers=listed)
    granted = frozenset().union(*(GRANTS[scope] for scope in scopes))
    if carrier in ("bearer", "lowercase"):
        assert (response.status_code == 403) == (rule.scope not in granted)
        assert response.status_code != 401
    elif carrier == "twice":
        assert response.status_code == 400
    else:
        assert response.status_code == 401
    assert secret not in response.text


def test_a_revoked_or_expired_token_is_nobody(stranger: TestClient, realm: Any, bearer: Any, owner: TestClient) -> None:
    token, secret = realm.vault.tokens.create("gone soon", ["read"])
    headers = {"Authorization": f"Bearer {secret}"}
    assert stranger.get("/api/v1/session", headers=headers).json()["name"] == "gone soon"
    response = owner.delete(f"/api/v1/tokens/{token.id}", headers=EFFECT)
    assert response.status_code == 200
    stranger.app.gate.credentials.forget()  # type: ignore[attr-defined]  # what half a second does
    assert stranger.get("/api/v1/session", headers=headers).status_code == 401
    assert stranger.get("/api/v1/session", headers=bearer("read", ttl_s=-1)).status_code == 401


def test_a_token_is_shown_once_and_never_again(owner: TestClient) -> None:
    made = owner.post("/api/v1/tokens", headers=EFFECT, json={"name": "laptop", "scopes": ["read"]})
    assert made.status_code == 201
    secret = made.json()["secret"]
    listed = owner.get("/api/v1/tokens")
    assert secret not in listed.text
    assert "hash" not in json.dumps(listed.json())
