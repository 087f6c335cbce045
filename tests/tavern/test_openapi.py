"""The OpenAPI document: complete, valid, and kept by the server under generated requests."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tavern.access import RULES
from tavern.app import Application, describe

from .conftest import BASE, EFFECT, World

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
UNDESCRIBED = {"/login", "/login.css", "/login.js", "/openapi.json"}


def test_every_resource_is_described(app: Application) -> None:
    document: dict[str, Any] = describe(app.inner)
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    wanted = {(rule.method, rule.path) for rule in RULES if rule.path not in UNDESCRIBED} | {("POST", "/login")}
    assert described == wanted
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            if path not in ("/healthz",):
                assert "application/problem+json" in operation["responses"]["default"]["content"], (method, path)


def test_every_reference_leads_somewhere_and_nothing_is_fetched(app: Application) -> None:
    document = describe(app.inner)
    text = json.dumps(document)
    schemas: Any = document["components"]
    for name in re.findall(r"#/components/schemas/([\w]+)", text):
        assert name in schemas["schemas"], name
    assert not re.findall(r"https?://(?!127)", text)
    assert document["openapi"] == "3.1.0"


def test_there_is_no_documentation_page(owner: TestClient) -> None:
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert owner.get(path).status_code == 404


def test_generated_requests(owner: TestClient, world: World, owners_app: Application) -> None:
    generate(owner, owners_app, world, EFFECT, examples=12)


@pytest.mark.slow
@pytest.mark.parametrize("scopes", [("admin",), ("read",), ("zone",), ()], ids=["admin", "read", "zone", "nobody"])
def test_many_generated_requests(
    stranger: TestClient, app: Application, world: World, bearer: Any, scopes: tuple[str, ...]
) -> None:
    generate(stranger, app, world, EFFECT | (bearer(*scopes) if scopes else {}), examples=120)


def generate(client: TestClient, app: Application, world: World, headers: dict[str, str], *, examples: int) -> None:
    """Send requests made from the document, half of them with ids that exist, and check each answer."""
    document = json.loads(json.dumps(describe(app.inner)))
    del document["paths"]["/api/v1/events"]["get"]  # it lasts
    schema = schemathesis.openapi.from_dict(document)
    asked: set[tuple[str, int]] = set()
    for found in schema.get_all_operations():
        ask(found.ok(), client=client, world=world, headers=headers, examples=examples, asked=asked)
    assert {path for path, _ in asked} == {path for path, methods in document["paths"].items() if methods}
    assert not [status for _, status in asked if status >= 500]


def ask(
    operation: Any,
    *,
    client: TestClient,
    world: World,
    headers: dict[str, str],
    examples: int,
    asked: set[tuple[str, int]],
) -> None:
    real = world.path(operation.path)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        case.headers = {**{k: v for k, v in (case.headers or {}).items() if v.isascii()}, **headers}
        sent = case.as_transport_kwargs(base_url=BASE)
        wanted = ("method", "url", "params", "headers", "json")
        content = sent.get("data")
        response = client.request(**{key: sent[key] for key in wanted if sent.get(key) is not None}, content=content)
        asked.add((operation.path, response.status_code))
        case.validate_response(response, checks=CHECKS)
        if real != operation.path:
            again = client.request(operation.method.upper(), real, headers=headers, params=case.query)
            assert again.status_code < 500, again.text

    check()
