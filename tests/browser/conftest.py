"""A browser, a Tavern over a prepared ledger, and a whole realm that really trains.

Run with `pytest -m browser tests/browser`. Chromium is taken from REALM_CHROMIUM or /usr/bin/chromium; without it, and
without axe-core where that is asked for, tests say why they are skipped. Everything is on loopback and in temporary
folders; what is started is stopped by its handle.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from realm.paths import RealmPaths
from realm.wiring import Realm
from tavern.server import where
from tests.tavern.conftest import World, empty_home, realm, world  # noqa: F401 - fixtures used here
from tests.tavern.serving import tavern_process

CHROMIUM = Path(os.environ.get("REALM_CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP evil.test 127.0.0.1",  # a name that an attacker points at this machine
]
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
UP_S = 120.0
expect.set_options(timeout=15_000)


@dataclass
class Visit:
    """A browser context on one host, watching what its pages say and ask for."""

    context: BrowserContext
    address: str
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        page = self.context.new_page()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)
        page.goto(self.address.rstrip("/") + path)
        return page

    def check(self) -> None:
        """Fail when a page complained or asked another host for anything."""
        assert self.complaints == []
        assert self.strangers == []

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(self.address).netloc:
            self.strangers.append(request.url)


Visiting = Callable[..., Visit]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; name one in REALM_CHROMIUM")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def visiting(browser: Browser) -> Iterator[Visiting]:
    """Open visits; every one is closed again."""
    contexts: list[BrowserContext] = []

    def visit(address: str, **options: Any) -> Visit:
        options = {"viewport": DESKTOP, "color_scheme": "dark"} | options
        context = browser.new_context(**options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        return Visit(context, address)

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture
def prepared(realm: Realm, world: World) -> Iterator[str]:  # noqa: F811
    """The address of a Tavern over a ledger with a run, a failure, a checkpoint and an evaluation; no daemon."""
    with tavern_process(realm.paths.home) as (_, told):
        yield told["address"]


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a whole realm: Tavern, daemon, trainer, Weaver, as `realm up` starts them."""
    home = tmp_path_factory.mktemp("living") / "realm-home"
    command = [sys.executable, "-m", "realm", "--home", str(home)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "up", "--port", "0"], env=environment, check=True, timeout=UP_S, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + UP_S
        while (told := where(RealmPaths(home))) is None:
            assert time.monotonic() < deadline, "the Tavern did not come up"
            time.sleep(0.05)
        yield told["address"]
    finally:
        subprocess.run([*command, "down"], env=environment, check=False, timeout=UP_S, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core: from AXE_CORE, else through npm; tests are skipped where neither gives it."""
    named = os.environ.get("AXE_CORE")
    if named:
        return Path(named).read_text(encoding="utf-8")
    if shutil.which("npm") is None:
        pytest.skip("axe-core is not here: set AXE_CORE to axe.min.js, or install npm")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        ["npm", "pack", "--silent", "--ignore-scripts", "axe-core@4.14.1"],
        cwd=folder,
        capture_output=True,
        timeout=90,
        check=False,
    )
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or not archives:
        pytest.skip("axe-core cannot be fetched here: set AXE_CORE to axe.min.js")
    with tarfile.open(archives[0]) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()
