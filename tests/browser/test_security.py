"""What hostile pages and hostile content can do to somebody whose browser is open: nothing, proved in that browser.

The Tavern takes every request of this machine's user for the owner's, so a browser that any page may use is the
attacker's best tool. Each refusal is paired with the same request from our own page, which passes: the proofs can fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from playwright.sync_api import Dialog, Page, Response, expect

from realm.wiring import Realm
from tavern.app import create_app
from tavern.credentials import create_launch_code
from tests.browser.conftest import Visiting
from tests.browser.payloads import PAYLOADS
from tests.tavern.conftest import World
from tests.tavern.serving import served
from vault.records import NewJob

pytestmark = pytest.mark.browser
SECRETS = ("DIO", "squire", "running.jsonl")
UNTIL_S = 20.0

# A hostile page asks in every way that a browser has. What it could read is in the answer.
READ = """async (target) => {
  const tries = {};
  const attempt = async (name, work) => {
    try { tries[name] = String(await work()); } catch (error) { tries[name] = `refused: ${error.name}`; }
  };
  const loads = (tag, attribute, address) => new Promise((done) => {
    const element = document.createElement(tag);
    element[attribute] = address;
    if (tag === "link") element.rel = "stylesheet";
    element.onload = () => done(tag === "iframe" ? `frame: ${element.contentDocument?.body?.innerText}` : "loaded");
    element.onerror = () => done("refused: error");
    document.body.append(element);
  });
  for (const path of ["api/v1/status", "api/v1/log", "api/v1/tokens", "", "quests", "metrics", "openapi.json"]) {
    await attempt(`cors /${path}`, async () => (await fetch(target + path)).text());
    await attempt(`cookies /${path}`, async () => (await fetch(target + path, { credentials: "include" })).text());
    await attempt(`no-cors /${path}`, async () => (await fetch(target + path, { mode: "no-cors" })).text());
  }
  await attempt("stream", () => new Promise((done) => {
    const source = new EventSource(target + "api/v1/events", { withCredentials: true });
    source.onmessage = (message) => done(message.data);
    source.onerror = () => { if (source.readyState === 2) done("refused: closed"); };
  }));
  for (const [tag, attribute] of [["script", "src"], ["img", "src"], ["link", "href"], ["iframe", "src"]])
    await attempt(tag, () => loads(tag, attribute, target + "api/v1/status"));
  return tries;
}"""

ACT = """async ({ target, job, token, checkpoint }) => {
  const body = JSON.stringify({ verb: "stop" });
  const answers = {};
  const addresses = [
    ["POST", "api/v1/commands"], ["POST", "api/v1/jobs?name=evil.jsonl"], ["POST", `api/v1/jobs/${job}/cancel`],
    ["POST", `api/v1/checkpoints/${checkpoint}/promote`], ["POST", "api/v1/tokens"], ["PATCH", `api/v1/jobs/${job}`],
    ["DELETE", `api/v1/tokens/${token}`], ["DELETE", "api/v1/session"], ["POST", "login"],
  ];
  const types = ["text/plain", "application/x-www-form-urlencoded", "application/json", "application/octet-stream"];
  const ask = async (name, address, options) => {
    try {
      const reply = await fetch(target + address, { credentials: "include", body, ...options });
      answers[name] = reply.type === "opaque" ? "opaque" : String(reply.status);
    } catch (error) { answers[name] = `refused: ${error.name}`; }
  };
  for (const [method, address] of addresses) {
    for (const type of types) {
      const headers = { "Content-Type": type };
      await ask(`${method} ${address} ${type} simple`, address, { method, headers, mode: "no-cors" });
      await ask(`${method} ${address} ${type}`, address, { method, headers: { ...headers, "X-Realm": "1" } });
    }
    const parts = new FormData();
    parts.append("file", new File([body], "evil.jsonl"));
    await ask(`${method} ${address} multipart`, address, { method, mode: "no-cors", body: parts });
    navigator.sendBeacon(target + address, new Blob([body], { type: "text/plain" }));
  }
  return answers;
}"""

FORM = """async ({ target, address, kind }) => {
  const frame = document.createElement("iframe");
  frame.name = "hidden" + Math.random();
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action: target + address, enctype: kind, target: frame.name });
  const field = document.createElement("input");
  Object.assign(field, { name: '{"verb": "stop", "x": "', value: '"}' });
  form.append(field);
  document.body.append(frame, form);
  const done = new Promise((resolve) => { frame.onload = resolve; });
  form.submit();
  await done;
}"""

WATCH = """(() => {
  window.__violations = [];
  window.pwned = () => { window.__pwned = true; };
  addEventListener("securitypolicyviolation", (event) => window.__violations.push(
    `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile} ${event.sample}`));
})()"""
STRANGE = """[...document.querySelectorAll("*")].filter((element) =>
  ["img", "image", "iframe", "object", "embed", "video", "audio", "marquee", "math", "base", "style"]
    .includes(element.localName) ||
  (element.localName === "script" && !element.src.startsWith(location.origin + "/assets/")
    && element.type !== "application/json") ||
  (element.localName === "meta" && element.httpEquiv) ||
  [...element.attributes].some((a) => a.name.startsWith("on") || /^\\s*(java|vb)script:/i.test(a.value)))
  .map((element) => element.outerHTML.slice(0, 200))"""


class Evil(BaseHTTPRequestHandler):
    """A page with no policy of its own."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>evil</title><body>evil</body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def evil() -> Iterator[int]:
    """The port of a hostile web server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(10)


def state_of(realm: Realm) -> Any:
    """Everything that a request with an effect could have changed."""
    jobs = [(job.id, job.state, job.priority, job.position) for job in realm.vault.jobs.list(limit=100).items]
    tokens = [(token.id, token.revoked_at) for token in realm.vault.tokens.list()]
    heroes = [hero.champion_id for hero in realm.vault.ledger.heroes()]
    files = sorted(path.name for path in realm.paths.inbox.rglob("*"))
    return (
        jobs,
        tokens,
        heroes,
        files,
        realm.vault.events.latest_seq(),
        [command.id for command in realm.vault.commands.open()],
    )


def refusals(address: str) -> float:
    lines = httpx.get(f"{address}metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('realm_http_denied_total{status="403"}'))


def test_a_name_that_points_here_is_not_answered(prepared: str, world: World, visiting: Visiting) -> None:
    port = httpx.URL(prepared).port
    page = visiting(prepared).context.new_page()
    for path in (
        "/",
        "/login",
        "/quests",
        "/api/v1/status",
        "/api/v1/events",
        "/api/v1/tokens",
        "/healthz",
        "/metrics",
    ):
        reply = page.goto(f"http://evil.test:{port}{path}")
        assert reply is not None
        assert reply.status == 403, path
        assert reply.json()["code"] == "unknown_host"
        assert not any(secret in reply.text() for secret in SECRETS), path
    # The page stands on that name: to the browser the Tavern is now its own origin.
    asked = page.evaluate(
        """async () => {
          const reply = await fetch("/api/v1/status");
          const headers = { "Content-Type": "application/json", "X-Realm": "1" };
          const acted = await fetch("/api/v1/commands", { method: "POST", headers, body: '{"verb": "stop"}' });
          const heard = await new Promise((done) => {
            const source = new EventSource("/api/v1/events");
            source.onmessage = () => done("heard");
            source.onerror = () => done("silent");
          });
          return [reply.status, acted.status, heard];
        }"""
    )
    assert asked == [403, 403, "silent"]


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1", "localhost"])
def test_another_origin_reads_nothing_and_changes_nothing(  # noqa: PLR0917 - fixtures
    prepared: str, realm: Realm, world: World, visiting: Visiting, evil: int, host: str
) -> None:
    """From another site, and from another port of this machine, which shares our cookies."""
    visit = visiting(prepared)
    own = visit.open("/settings")
    page = visit.context.new_page()
    page.goto(f"http://{host}:{evil}/")
    before, denied = state_of(realm), refusals(prepared)
    read = page.evaluate(READ, prepared)
    for name, found in read.items():
        assert found == "" or found.startswith(("refused", "frame: undefined", "frame: null")), (name, found[:200])
    ids = {"target": prepared, "job": world.waiting, "token": world.token, "checkpoint": world.checkpoint}
    answers = page.evaluate(ACT, ids)
    assert len(answers) == 9 * 9
    assert set(answers.values()) <= {"opaque", "refused: TypeError"}, answers
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        page.evaluate(FORM, {"target": prepared, "address": "api/v1/commands", "kind": kind})
    assert refusals(prepared) - denied > 30, "the requests did not reach the Tavern"
    assert state_of(realm) == before
    # The same from our own page has its effect.
    body = {
        "method": "POST",
        "headers": {"Content-Type": "application/json", "X-Realm": "1"},
        "body": '{"verb": "stop"}',
    }
    assert own.evaluate("(o) => fetch('/api/v1/commands', o).then((r) => r.status)", body) == 202
    assert state_of(realm) != before


def test_a_window_that_another_site_opens_is_cut_off(
    prepared: str, world: World, visiting: Visiting, evil: int
) -> None:
    context = visiting(prepared).context
    page = context.new_page()
    page.goto(f"http://evil.test:{evil}/")
    with context.expect_page() as opened:
        page.evaluate("(target) => { window.theirs = open(target); }", prepared)
    theirs = opened.value
    expect(theirs.locator("#link")).to_contain_text("Live")
    assert theirs.evaluate("window.opener") is None
    assert page.evaluate(
        "(() => { try { return window.theirs.closed || !!window.theirs.document; } catch { return 'no'; } })()"
    ) in (True, "no")
    assert page.evaluate("window.theirs.length") == 0


def quest_text(number: int) -> str:
    """Rows that pass and rows that are turned down, with three payloads in every place a row has."""
    three = PAYLOADS[3 * number : 3 * number + 3]
    turns = [[{"role": role, "content": f"{role} {text}"} for role in ("user", "assistant")] for text in three]
    lines = [json.dumps({"messages": turn, "note": turn[0]["content"]}) for turn in turns]
    lines += [json.dumps({"text": f"filler {line}"}) for line in range(120)]
    lines += [json.dumps({"messages": [{"role": text, "content": text}]}) for text in three]
    lines += [text.replace("\u2028", " ").replace("\u2029", " ") for text in three]
    return "\n".join(lines) + "\n"


@pytest.fixture
def infested(realm: Realm, world: World) -> list[str]:
    """Take sixty hostile names, and as many rows, in through the inbox; spoil the ledger's texts as a trainer could."""
    for number, text in enumerate(PAYLOADS):
        rows = quest_text(number % 20) if number < 20 else json.dumps({"text": f"{number} {text}"}) + "\n"
        name = text.replace("/", "\u2215").encode().decode()[:120]
        plain = "".join(letter for letter in name if letter.isprintable()).lstrip(".-~ ") or "x"
        (realm.paths.inbox / f"{plain} {number}.jsonl").write_text(rows, encoding="utf-8")
    quest = {
        "name": PAYLOADS[0],
        "data": [
            {"messages": [{"role": "user", "content": PAYLOADS[8]}, {"role": "assistant", "content": PAYLOADS[14]}]}
        ],
    }
    (realm.paths.inbox / "named.yaml").write_text(json.dumps(quest))
    (realm.paths.inbox / "page.html").write_text("<!doctype html><script>pwned()</script>")
    deadline = time.monotonic() + UNTIL_S
    while any(path.is_file() for path in realm.paths.inbox.iterdir()):
        assert time.monotonic() < deadline, [path.name for path in realm.paths.inbox.iterdir()]
        realm.intake.scan(time.time())
    wrong = [{"prompt": text, "expected": text, "got": text} for text in PAYLOADS]
    for part in range(3):
        realm.vault.ledger.record_evaluation(
            world.run, run_step=2100 + part, name=f"bin/L{part + 1}/known", skill="bin", level=part + 1, split="known",
            correct=1, total=20, details={"wrong": wrong[20 * part : 20 * part + 20]}, at=time.time(),
        )  # fmt: skip
    for number, text in enumerate(PAYLOADS[:20]):
        reason = {"code": "x", "message": text, "hint": text}
        realm.vault.jobs.submit(
            NewJob("dio", "sft", text, f"refused {number}", skill=text, level=1), state="refused", reason=reason
        )
    log = realm.paths.runs / world.run / "worker.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(PAYLOADS))
    return [job.id for job in realm.vault.jobs.list(limit=500).items]


class Watched:
    """A page on which nothing hostile may happen."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.dialogs: list[str] = []
        self.said: list[str] = []
        page.add_init_script(WATCH)
        page.on("dialog", self._asked)
        page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def _asked(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def look(self, path: str) -> str:
        self.page.goto(self.address.rstrip("/") + path, wait_until="load")
        return self.check(path)

    def check(self, path: str) -> str:
        found = self.page.evaluate(
            f"[{STRANGE}, window.__violations, window.__pwned || false, document.body.textContent]"
        )
        strange, violations, pwned, text = found
        assert strange == [], path
        assert violations == [], path
        assert not pwned, path
        assert self.dialogs == [], path
        assert self.said == [], path
        return str(text)


def test_hostile_text_stays_text_everywhere(
    realm: Realm, world: World, prepared: str, visiting: Visiting, infested: list[str]
) -> None:
    watched = Watched(visiting(prepared).context.new_page(), prepared)
    jobs = {job.id: job for job in realm.vault.jobs.list(limit=500).items}
    assert len(jobs) > 80
    for path in ("/", "/quests", "/chronicle", "/vault"):
        watched.look(path)
    expect(watched.page.locator("#link")).to_contain_text("Live")
    text = watched.look("/quests")
    shown = [job for job in jobs.values() if job.state == "queued"]
    assert len(shown) > 40
    assert all(job.name in text for job in shown)
    text = watched.look(f"/runs/{world.run}")
    assert all(payload in text for payload in PAYLOADS if payload.isprintable())
    bearers = [job for job in shown if job.report and len(job.report.get("examples", ())) > 1]
    assert len(bearers) >= 15
    seen = "".join(watched.look(f"/quests/{job.id}") for job in bearers)
    assert sum(f"assistant {payload}" in seen for payload in PAYLOADS) >= 45
    # What comes through the stream, while the page is open.
    watched.look("/")
    expect(watched.page.locator("#link")).to_contain_text("Live")
    for number in (0, 8, 14, 50):
        realm.vault.jobs.submit(NewJob("dio", "sft", f"live {PAYLOADS[number]}", f"live {number}", rows=1))
    expect(watched.page.locator("#r-log")).to_contain_text(f"live {PAYLOADS[50]}")
    watched.page.locator("#bell").click()
    expect(watched.page.locator("#belllist")).to_contain_text(PAYLOADS[0])
    watched.check("the stream")
    # Had anything got through, it would have been seen.
    watched.page.evaluate("document.body.append(document.createElement('iframe'))")
    watched.page.evaluate("try { document.body.setAttribute('onclick', 'pwned()'); } catch { /* refused */ }")
    assert len(watched.page.evaluate(STRANGE)) == 1
    watched.page.wait_for_function("window.__violations.length > 0")


def test_what_was_uploaded_is_never_a_page(
    realm: Realm, world: World, prepared: str, visiting: Visiting, infested: list[str]
) -> None:
    page = visiting(prepared).context.new_page()
    page.add_init_script(WATCH)
    job = realm.vault.jobs.list(limit=1).items[0]
    hostile = next(j for j in realm.vault.jobs.list(limit=500).items if j.report and j.report.get("examples"))
    sha = hostile.data[0]["canonical_sha256"] if hostile.data else "0"
    kinds = {}
    answers = (f"jobs/{hostile.id}", f"jobs/{hostile.id}/report", "jobs", "log", f"runs/{world.run}", "evaluations")
    places = (
        "/inbox/page.html",
        "/page.html",
        "/failed/page.html",
        f"/data/objects/{sha}.jsonl",
        f"/runs/{world.run}/worker.log",
        "/assets/0/page.html",
        "/assets/0/../../page.html",
        "/static/login/login.html",
        "/quests/<img src=x onerror=pwned()>",
        "/runs/%3Cscript%3Epwned()%3C%2Fscript%3E",
        f"/quests/{job.id}?x=<script>pwned()</script>",
        "/chronicle?show=<svg onload=pwned()>",
    )
    for path in [*(f"/api/v1/{answer}" for answer in answers), *places]:
        reply = page.goto(prepared.rstrip("/") + path)
        assert reply is not None
        kinds[path] = kind(reply)
        assert reply.header_value("x-content-type-options") == "nosniff"
        assert "default-src 'none'" in (reply.header_value("content-security-policy") or "")
        assert not page.evaluate("window.__pwned || false"), path
        if "html" in kinds[path]:
            assert path.startswith(("/quests/", "/chronicle?", "/runs/")), path
            assert page.evaluate(STRANGE) == [], path
    assert {kinds[path] for path in kinds if path.startswith("/api/")} <= {
        "application/json",
        "application/problem+json",
    }


def kind(reply: Response) -> str:
    return (reply.header_value("content-type") or "").split(";")[0]


@contextlib.contextmanager
def strangers_tavern(realm: Realm) -> Iterator[str]:
    """A Tavern that cannot tell whose a socket is: everybody is a stranger until they show a code."""
    ready, ended = threading.Event(), threading.Event()
    ports: list[int] = []

    async def serve() -> None:
        async with served(create_app(realm, port=18999, peer_uid=lambda client, server: None)) as port:
            ports.append(port)
            ready.set()
            while not ended.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(UNTIL_S)
        yield f"http://127.0.0.1:{ports[0]}/"
    finally:
        ended.set()
        thread.join(UNTIL_S)


def test_a_stranger_enters_with_a_launch_code_once(realm: Realm, world: World, visiting: Visiting, evil: int) -> None:
    with strangers_tavern(realm) as address:
        visit = visiting(address)
        page = visit.context.new_page()
        reply = page.goto(address)
        assert reply is not None
        assert reply.status == 401
        expect(page.locator("h1")).to_have_text("The Tavern does not know you")
        assert not any(secret in page.content() for secret in SECRETS)
        page.fill("#code", "wrong-code")
        page.press("#code", "Enter")
        expect(page.locator("#answer")).not_to_be_empty()
        code = create_launch_code(realm.paths)
        page.goto(f"{address}login#{code}")
        expect(page.locator("#link")).to_contain_text("Live")
        assert page.url == address
        page.go_back()
        assert code not in page.url
        page.goto(address)
        (cookie,) = [c for c in visit.context.cookies() if c["name"].startswith("realm_session")]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert "realm_session" not in page.evaluate("document.cookie")
        # With the session in its jar, another origin still gets nowhere.
        theirs = visit.context.new_page()
        for host in ("evil.test", "127.0.0.1"):
            theirs.goto(f"http://{host}:{evil}/")
            read = theirs.evaluate(READ, address)
            assert all(found == "" or found.startswith(("refused", "frame: ")) for found in read.values()), read
            assert not any(secret in "".join(read.values()) for secret in SECRETS)
            before = state_of(realm)
            ids = {"target": address, "job": world.waiting, "token": world.token, "checkpoint": world.checkpoint}
            theirs.evaluate(ACT, ids)
            assert state_of(realm) == before
        # The code is spent, and the session ends when its owner says so.
        other = visiting(address).context.new_page()
        other.goto(f"{address}login#{code}")
        expect(other.locator("#answer")).not_to_be_empty()
        page.bring_to_front()
        headers = {"X-Realm": "1"}
        gone = page.evaluate(
            "(h) => fetch('/api/v1/session', {method: 'DELETE', headers: h}).then((r) => r.status)", headers
        )
        assert gone == 204
        again = page.goto(address)
        assert again is not None
        assert again.status == 401
