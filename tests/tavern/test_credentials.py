"""Launch codes, sessions and the kernel's word on who owns a socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from realm.paths import RealmPaths
from tavern.credentials import LAUNCH_CODE_S, Credentials, create_launch_code, spend_launch_code
from tavern.sockets import is_loopback, owner_by_netlink, owner_by_table, socket_owner

from .conftest import BASE, EFFECT, problem_of

CONNECT_AND_WAIT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(connection.getsockname()[1], flush=True)
sys.stdin.read()
"""
BROWSER = EFFECT | {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}


def test_a_code_opens_a_session_once(stranger: TestClient, realm: Any) -> None:
    code = create_launch_code(realm.paths)
    entered = stranger.post("/login", json={"code": code}, headers=BROWSER)
    assert entered.status_code == 204
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert stranger.get("/api/v1/session").json()["kind"] == "session"
    stranger.cookies.clear()
    again = stranger.post("/login", json={"code": code}, headers=BROWSER)
    assert again.status_code == 401
    assert problem_of(again)["code"] == "bad_launch_code"
    assert stranger.get("/api/v1/session").status_code == 401


def test_of_many_at_once_one_gets_in(paths: RealmPaths) -> None:
    for _ in range(20):
        code = create_launch_code(paths)
        barrier = threading.Barrier(8)

        def spend(_: int, code: str = code, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return spend_launch_code(paths, code)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(spend, range(8))) == 1


def test_a_code_is_good_for_a_minute(paths: RealmPaths) -> None:
    then = time.time()
    assert spend_launch_code(paths, create_launch_code(paths, then), then + LAUNCH_CODE_S - 1)
    assert not spend_launch_code(paths, create_launch_code(paths, then), then + LAUNCH_CODE_S + 1)


def test_the_control_folder_holds_no_code_in_plain(paths: RealmPaths) -> None:
    code = create_launch_code(paths)
    for file in paths.control.iterdir():
        assert code not in file.name
        assert code not in file.read_text()
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("code", ["", "x" * 101, "../../etc/passwd", "a/b", "%2e%2e", "a b", "\u0000", "é"])
def test_what_is_no_code_is_refused(stranger: TestClient, code: str) -> None:
    assert stranger.post("/login", json={"code": code}, headers=BROWSER).status_code in (400, 401, 422)


def test_login_from_another_site_is_refused(stranger: TestClient, realm: Any) -> None:
    code = create_launch_code(realm.paths)
    for headers in (EFFECT | {"Origin": "http://evil.test"}, EFFECT, {"Origin": BASE}):
        assert stranger.post("/login", json={"code": code}, headers=headers).status_code == 403
    assert stranger.post("/login", json={"code": code}, headers=BROWSER).status_code == 204


def test_ending_a_session_ends_it_for_good(stranger: TestClient, realm: Any) -> None:
    stranger.post("/login", json={"code": create_launch_code(realm.paths)}, headers=BROWSER)
    stolen = dict(stranger.cookies)
    assert stranger.delete("/api/v1/session", headers=BROWSER).status_code == 204
    stranger.cookies.update(stolen)
    assert stranger.get("/api/v1/session").status_code == 401


def test_a_cookie_sent_twice_counts_as_none(stranger: TestClient, realm: Any) -> None:
    secret = stranger.post("/login", json={"code": create_launch_code(realm.paths)}, headers=BROWSER)
    value = secret.cookies["realm_session_8888"]
    stranger.cookies.clear()
    twice = f"realm_session_8888=x; realm_session_8888={value}"
    assert stranger.get("/api/v1/session", headers={"Cookie": twice}).status_code == 401
    assert stranger.get("/api/v1/session", headers={"Cookie": f"a=b; realm_session_8888={value}"}).status_code == 200


WAYS = [socket_owner, owner_by_netlink, owner_by_table]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_kernel_names_the_owner_of_a_connection(family: socket.AddressFamily, way: Any) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server:
        theirs = server.getsockname()[:2]
        with socket.create_connection(theirs) as client:
            mine = client.getsockname()[:2]
            assert way(mine, theirs) == os.geteuid()
            assert way((mine[0], mine[1] ^ 1), theirs) is None
            assert way(mine, (theirs[0], theirs[1] ^ 1)) is None
            accepted, _ = server.accept()
            client.close()
            assert way(mine, theirs) is None  # an orphaned socket is listed as user 0
            accepted.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_mapped_address_is_found_too(way: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        host, port = client.getsockname()
        assert way((f"::ffff:{host}", port), server.getsockname()) == os.geteuid()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        client.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        assert way(("127.0.0.1", client.getsockname()[1]), server.getsockname()) == os.geteuid()


@pytest.mark.parametrize("way", WAYS)
def test_a_listener_is_no_connection(way: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert way(server.getsockname(), server.getsockname()) is None
        assert way(server.getsockname(), ("127.0.0.1", 1)) is None


@pytest.mark.needs_root
def test_another_users_connection_is_that_users() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    script = CONNECT_AND_WAIT
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = subprocess.Popen(
            ["setpriv", "--reuid=65532", "--clear-groups", sys.executable, "-c", script, str(server.getsockname()[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout is not None
            port = int(child.stdout.readline())
            for way in WAYS:
                assert way(("127.0.0.1", port), server.getsockname()) == 65532
        finally:
            child.communicate(timeout=10)


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (("192.168.1.9", 5), ("192.168.1.5", 8888)),
        (("127.0.0.1", 5), ("192.168.1.5", 8888)),
        (("192.168.1.9", 5), ("127.0.0.1", 8888)),
        (("testclient", 5), ("127.0.0.1", 8888)),
        (None, ("127.0.0.1", 8888)),
    ],
)
def test_ownership_counts_on_loopback_only(realm: Any, client: Any, server: Any) -> None:
    credentials = Credentials(realm.vault.tokens, realm.paths, lambda c, s: os.geteuid())
    assert credentials.own_user(client, server) is None
    assert credentials.own_user(("127.0.0.1", 5), ("127.0.0.1", 8888)) is not None


def test_another_uid_and_the_overflow_uid_are_nobody(realm: Any) -> None:
    for uid in (os.geteuid() + 1, None):
        credentials = Credentials(realm.vault.tokens, realm.paths, lambda c, s, uid=uid: uid)
        assert credentials.own_user(("127.0.0.1", 5), ("127.0.0.1", 8888)) is None


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP"])
def test_a_proxied_request_is_not_the_owners(owner: TestClient, header: str) -> None:
    assert owner.get("/api/v1/session").status_code == 200
    assert owner.get("/api/v1/session", headers={header: "10.0.0.1"}).status_code == 401


def test_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("localhost.evil.test")


def test_no_secret_shows_in_a_repr(realm: Any) -> None:
    _, secret = realm.vault.tokens.create("x", ["read"])
    caller = Credentials(realm.vault.tokens, realm.paths).by_secret("token", secret)
    assert caller is not None
    assert secret not in f"{caller!r} {caller}"
