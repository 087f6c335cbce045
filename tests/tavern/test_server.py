"""The Tavern as a process: who may enter over real sockets, how it starts, how it ends, what it weighs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from realm.errors import ConfigError, ConflictError
from realm.settings import Settings, TavernSettings
from realm.wiring import Realm
from tavern.app import create_app
from tavern.server import bind, check_exposure, where

from .serving import SseClient, served, tavern_process

WHO_AM_I = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers=dict(pair.split("=", 1) for pair in sys.argv[2:]))
try:
    print(urllib.request.urlopen(request).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
AS_NOBODY = ("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups")
MEMORY_LIMIT = 150 << 20
BANNED = ("torch", "transformers", "pyarrow", "peft", "numpy")


@pytest.fixture
def home(tmp_path: Path, empty_home: Path) -> Path:
    return Path(shutil.copytree(empty_home, tmp_path / "realm-home"))


def ask(address: str, path: str = "api/v1/session") -> Any:
    with urllib.request.urlopen(address + path) as answer:
        return json.loads(answer.read())


def test_it_says_where_it_is_serves_the_owner_and_ends_cleanly(home: Path) -> None:
    with tavern_process(home) as (child, told):
        assert told["port"] > 0
        assert told["address"] == f"http://127.0.0.1:{told['port']}/"
        assert ask(told["address"])["kind"] == "own-user"
        assert ask(told["address"], "readyz") == {"status": "ready"}
        env = os.environ | {"REALM_HOME": str(home)}
        launch = subprocess.check_output([sys.executable, "-m", "tavern", "launch"], env=env, text=True).strip()
        assert launch.startswith(f"{told['address']}login#")
        body = json.dumps({"code": launch.partition("#")[2]}).encode()
        headers = {"Content-Type": "application/json", "X-Realm": "1", "Origin": told["address"].rstrip("/")}
        with urllib.request.urlopen(urllib.request.Request(told["address"] + "login", body, headers)) as entered:
            assert f"realm_session_{told['port']}=" in entered.headers["Set-Cookie"]
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 0
    assert where(home_paths(home)) is None
    assert not (home / "control" / "tavern.json").exists()
    assert "Traceback" not in (home.parent / "tavern.log").read_text()


def test_it_is_light_and_knows_no_torch(home: Path) -> None:
    with tavern_process(home) as (child, told):
        for path in ("api/v1/status", "api/v1/jobs", "api/v1/log", "openapi.json"):
            ask(told["address"], path)
        for path in ("", "quests", "vault", "chronicle", "settings", "metrics"):
            with urllib.request.urlopen(told["address"] + path) as answer:
                assert answer.status == 200
        process = psutil.Process(child.pid)
        assert process.memory_info().rss < MEMORY_LIMIT
        mapped = " ".join(region.path for region in process.memory_maps())
        assert not [name for name in BANNED if f"/{name}" in mapped]
    code = f"import sys, tavern.server, tavern.__main__; print([m for m in {BANNED!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_kill_nine_and_a_new_start(home: Path) -> None:
    with tavern_process(home) as (child, _):
        child.kill()
        child.wait()
    assert where(home_paths(home)) is None
    with tavern_process(home) as (_, told):
        assert ask(told["address"], "healthz") == {"status": "ok"}


@pytest.mark.needs_root
def test_another_user_of_this_machine_is_a_stranger(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    realm = Realm(Settings(home=home))
    _, secret = realm.vault.tokens.create("other", ["read"])
    realm.close()
    with tavern_process(home) as (_, told):
        url = f"{told['address']}api/v1/session"

        def as_nobody(*headers: str) -> str:
            return subprocess.check_output([*AS_NOBODY, sys.executable, "-c", WHO_AM_I, url, *headers], text=True)

        assert as_nobody().startswith("401")
        assert as_nobody("X-Realm=1", "Sec-Fetch-Site=same-origin").startswith("401")
        assert '"kind":"token"' in as_nobody(f"Authorization=Bearer {secret}")
        assert ask(told["address"])["kind"] == "own-user"


@pytest.mark.needs_root
def test_the_owner_need_not_be_root(tmp_path: Path, empty_home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    home = Path(shutil.copytree(empty_home, tmp_path / "realm-home"))
    for path in (home, *home.rglob("*")):
        os.chown(path, 65532, 65532)
    closed = [(folder, folder.stat().st_mode) for folder in home.parents if folder.stat().st_mode & 1 == 0]
    for folder, mode in closed:  # let the other user through to it
        folder.chmod(mode | 1)
    try:
        with tavern_process(home, prefix=AS_NOBODY) as (_, told):
            command = [*AS_NOBODY, sys.executable, "-c", WHO_AM_I, f"{told['address']}api/v1/session"]
            assert '"kind":"own-user"' in subprocess.check_output(command, text=True)
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(told["address"])  # root is another user too
            assert refused.value.code == 401
            refused.value.close()
    finally:
        for folder, mode in closed:
            folder.chmod(mode)


def test_a_taken_port_names_its_holder(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ConflictError, match=rf"Port {port} is taken by process {os.getpid()} ") as error:
            bind("127.0.0.1", port)
        assert "--port" in error.value.hint
        env = os.environ | {"REALM_HOME": str(home), "REALM_TAVERN__PORT": str(port)}
        done = run_tavern(env)
    assert done.returncode == 1
    assert f"Port {port} is taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_does_not_open_to_the_network_without_a_token(home: Path) -> None:
    realm = Realm(Settings(home=home, tavern=TavernSettings(host="0.0.0.0")))
    with pytest.raises(ConfigError, match="no token"):
        check_exposure(realm)
    token, _ = realm.vault.tokens.create("laptop", ["read"])
    check_exposure(realm)
    realm.vault.tokens.revoke(token.id)
    with pytest.raises(ConfigError):
        check_exposure(realm)
    realm.close()
    env = os.environ | {"REALM_HOME": str(home), "REALM_TAVERN__PORT": "0", "REALM_TAVERN__HOST": "0.0.0.0"}
    assert run_tavern(env).returncode == 78


@pytest.mark.anyio
async def test_raw_requests_that_clients_would_not_send(realm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dot segments, absolute targets, smuggling, garbage: an answer of ours or a closed connection, never more."""
    lines = [
        b"GET /api/v1/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/jobs/.. HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/jobs/. HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET //api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/status/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/status;x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%61pi/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.test/api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n\r\n",
        b"GET /api/v1/status HTTP/1.0\r\n\r\n",
        b"GET /api/v1/status HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT evil.test:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /api/v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n{}",
        b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-Fetch-Site: cross-site\r\nOrigin: http://evil.test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    ]
    monkeypatch.setattr("tavern.server.HEADER_TIMEOUT_S", 0.5)
    refusals = tuple(b"HTTP/1.1 %d" % status for status in (400, 403, 404, 431))
    async with served(create_app(realm)) as port:
        for line in lines:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = b""
            with contextlib.suppress(ConnectionError):
                writer.write(line)
                answer = await asyncio.wait_for(reader.read(300), 5.0)
            writer.close()
            assert not answer or answer.startswith(refusals), (line, answer)


@pytest.mark.anyio
async def test_answers_are_not_held_back_by_nagle(realm: Any) -> None:
    with bind("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
    async with served(create_app(realm)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        took = []
        for _ in range(30):
            started = time.monotonic()
            writer.write(f"GET /healthz HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
            await reader.readuntil(b'{"status":"ok"}')
            took.append(time.monotonic() - started)
        writer.close()
        assert min(took) < 0.03


@pytest.mark.anyio
async def test_slow_headers_are_cut_off_and_others_do_not_wait(realm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    patience = 3.0
    monkeypatch.setattr("tavern.server.HEADER_TIMEOUT_S", patience)
    async with served(create_app(realm)) as port:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in slow:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: loc")
        started = time.monotonic()
        stream = await SseClient.connect(port)
        await stream.read_until(bool)
        assert time.monotonic() - started < patience  # it was served while the slow ones were still being waited for
        for reader, writer in slow:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(100), 20.0) == b""
            writer.close()
        stream.close()


@pytest.mark.anyio
async def test_a_body_that_stops_coming_is_given_up(realm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tavern.security.BODY_TIMEOUT_S", 0.3)
    async with served(create_app(realm)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            f"POST /api/v1/jobs?name=a.txt HTTP/1.1\r\nHost: localhost:{port}\r\nX-Realm: 1\r\nContent-Length: 100\r\n"
        )
        writer.write(f"{head}Content-Type: application/octet-stream\r\n\r\nabc".encode())
        answer = await asyncio.wait_for(reader.read(200), 5.0)
        assert answer.startswith(b"HTTP/1.1 408")
        writer.close()
    assert [path for path in realm.paths.inbox.rglob("*") if path.is_file()] == []


@pytest.mark.anyio
async def test_a_client_that_leaves_mid_upload_leaves_nothing(realm: Any) -> None:
    async with served(create_app(realm)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            f"POST /api/v1/jobs?name=a.txt HTTP/1.1\r\nHost: localhost:{port}\r\nX-Realm: 1\r\nContent-Length: 100\r\n"
        )
        writer.write(f"{head}Content-Type: application/octet-stream\r\n\r\nabc".encode())
        await writer.drain()
        deadline = time.monotonic() + 5.0
        while not any(realm.paths.inbox.iterdir()) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert any(realm.paths.inbox.iterdir())
        writer.close()
        while any(realm.paths.inbox.iterdir()) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not any(realm.paths.inbox.iterdir())


def home_paths(home: Path) -> Any:
    return Settings(home=home).paths


def run_tavern(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tavern"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
