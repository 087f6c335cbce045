"""What another site can make a browser send does nothing: methods x content types x where the request comes from."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tavern.credentials import create_launch_code

from .conftest import BASE, EFFECT, World, problem_of

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TYPES = (None, "application/json", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded")
SOURCES: dict[str, dict[str, str]] = {
    "none": {},
    "same-origin": {"Sec-Fetch-Site": "same-origin", "Origin": BASE},
    "cross-site": {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.test"},
    "same-site": {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9999"},
    "null": {"Origin": "null"},
    "cross-site without origin": {"Sec-Fetch-Site": "cross-site"},
    "typed": {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    "same-origin claims, other origin": {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.test"},
    "old browser": {"Origin": BASE},
    "old browser elsewhere": {"Origin": "http://localhost:8888"},
}
FRIENDLY = {"none", "same-origin", "old browser"}


@pytest.mark.parametrize("custom", [True, False], ids=["X-Realm", "no header"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_owners_browser_only_acts_for_the_owners_page(
    owner: TestClient, world: World, realm: Any, source: str, custom: bool
) -> None:
    path = f"/api/v1/jobs/{world.waiting}/cancel"
    for method, kind in itertools.product(METHODS, TYPES):
        headers = SOURCES[source] | (EFFECT if custom else {}) | ({"Content-Type": kind} if kind else {})
        response = owner.request(method, path, headers=headers, content=b"{}" if kind else None)
        acts = method == "POST" and source in FRIENDLY and custom and kind in (None, "application/json")
        assert (response.status_code == 200) == acts, f"{method} {kind}: {response.status_code}"
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert realm.vault.jobs.get(world.waiting).state == ("cancelled" if acts else "queued")
        if acts:
            realm.vault.jobs.retry(world.waiting, "a test")


@pytest.mark.parametrize("source", SOURCES)
def test_a_session_needs_proof_of_origin_as_well(stranger: TestClient, realm: Any, world: World, source: str) -> None:
    entered = stranger.post("/login", json={"code": create_launch_code(realm.paths)}, headers=EFFECT | {"Origin": BASE})
    assert entered.status_code == 204
    response = stranger.post(f"/api/v1/jobs/{world.waiting}/cancel", headers=SOURCES[source] | EFFECT, content=b"{}")
    assert (response.status_code == 415) == (source in FRIENDLY - {"none"})
    response = stranger.post(f"/api/v1/jobs/{world.waiting}/cancel", headers=SOURCES[source] | EFFECT, json={})
    assert (response.status_code == 200) == (source in FRIENDLY - {"none"})


def test_a_token_needs_no_header_but_never_acts_for_another_origin(
    stranger: TestClient, bearer: Any, world: World
) -> None:
    path = f"/api/v1/jobs/{world.waiting}/cancel"
    foreign = stranger.post(path, headers=bearer("operate") | {"Origin": "http://evil.test"})
    assert problem_of(foreign)["code"] == "cross_site"
    assert stranger.post(path, headers=bearer("operate")).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ("/", {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ("/", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ("/login.css", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "style"}, 403),
        ("/api/v1/status", {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 403),
        ("/api/v1/status", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}, 403),
        ("/api/v1/events", {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 403),
    ],
)
def test_another_site_may_link_to_a_page_and_nothing_else(
    owner: TestClient, path: str, headers: dict[str, str], status: int
) -> None:
    assert owner.get(path, headers=headers | {"Sec-Fetch-Site": "cross-site"}).status_code == status


def test_reading_with_a_foreign_origin_is_refused(owner: TestClient) -> None:
    assert owner.get("/api/v1/status", headers={"Origin": "http://evil.test"}).status_code == 403


def test_every_answer_carries_the_headers(owner: TestClient, stranger: TestClient, world: World) -> None:
    answers = [
        owner.get("/"),
        owner.get("/api/v1/status"),
        owner.get("/login.css"),
        owner.get("/api/v1/jobs/nothing"),
        owner.post("/api/v1/jobs", headers=EFFECT, content=b"x"),
        stranger.get("/"),
        stranger.get("/healthz", headers={"Host": "evil.test"}),
    ]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
