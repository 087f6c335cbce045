"""The names that the Tavern answers to: what DNS rebinding would need is refused before anything else."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from realm.settings import Settings, TavernSettings
from realm.wiring import Realm
from tavern.app import create_app
from tavern.security import allowed_hosts

from .conftest import BASE, problem_of


@pytest.mark.parametrize("host", ["127.0.0.1:8888", "127.0.0.1", "localhost", "LOCALHOST:1234", "[::1]:8888", "[::1]"])
def test_loopback_names_with_and_without_port(owner: TestClient, host: str) -> None:
    assert owner.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        "evil.test:8888",
        "127.0.0.1.evil.test",
        "localhost.evil.test",
        "localhost.",
        "127.0.0.1:",
        "127.0.0.1:99999",
        "127.0.0.1:8888@evil.test",
        "evil.test#127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "",
        " localhost",
        "localhost, evil.test",
        "xn--localhost-",
    ],
)
def test_every_other_name_is_refused_even_for_health(owner: TestClient, host: str) -> None:
    response = owner.get("/healthz", headers={"Host": host})
    assert response.status_code == 403
    assert problem_of(response)["code"] == "unknown_host"


def test_two_host_headers_are_refused(owner: TestClient) -> None:
    response = owner.get("/healthz", headers=[("Host", "localhost"), ("Host", "evil.test")])
    assert response.status_code == 400


def test_configured_names_are_answered(tmp_path: Any) -> None:
    realm = Realm(Settings(home=tmp_path / "realm-home", tavern=TavernSettings(allowed_hosts=["Box.lan"])))
    with TestClient(create_app(realm), base_url=BASE) as client:
        assert client.get("/healthz", headers={"Host": "box.lan:8888"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "other.lan"}).status_code == 403
    realm.close()


def test_an_address_bound_to_is_a_name_and_a_wildcard_is_not() -> None:
    assert "192.168.1.5" in allowed_hosts("192.168.1.5", [])
    assert "[fe80::1]" in allowed_hosts("fe80::1", [])
    assert "0.0.0.0" not in allowed_hosts("0.0.0.0", [])
