"""The pages as a browser gets them: real vault, real status, real templates."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from jinja2 import meta, nodes

from realm.wiring import Realm
from tavern import pages
from tavern.views.charts import MAX_POINTS, hero_chart
from tavern.views.shell import signature
from tests.tavern.conftest import World
from vault.records import NewJob

EVIL = "<img src=x onerror=alert(1)>\"'&{{7*7}}.jsonl"
PLACES = ("/", "/quests", "/vault", "/chronicle", "/settings")
STATIC = Path(pages.__file__).parent / "static"
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
SVG_LEAVES = {"use", "rect", "path"}


class Outline(HTMLParser):
    """Reads a page strictly: balanced tags, ids, headings, landmarks, attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.stack == [], f"not closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} repeats an attribute: {names}"
        self.tags.append((tag, dict(attrs)))
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def outline(client: TestClient, path: str, status: int = 200) -> Outline:
    response = client.get(path, headers={"Accept": "text/html"})
    assert response.status_code == status, response.text[:300]
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return Outline(response.text)


def addresses(world: World) -> list[str]:
    jobs = [f"/quests/{job}" for job in (world.waiting, world.running, world.failed)]
    filtered = ["/quests?priority=high", "/chronicle?show=trouble", "/chronicle?before=3"]
    return [*PLACES, *jobs, f"/runs/{world.run}", *filtered]


@pytest.mark.parametrize("path", PLACES)
def test_every_page_stands_on_an_empty_realm(owner: TestClient, path: str) -> None:
    page = outline(owner, path)
    assert len(page.all("h1")) == 1
    assert "undefined" not in page.text.lower()


def test_every_page_stands_on_a_busy_realm_and_is_well_made(owner: TestClient, world: World) -> None:
    for path in addresses(world):
        page = outline(owner, path)
        assert len(page.all("h1")) == 1, path
        assert len(page.ids) == len(set(page.ids)), path
        assert {"main", "nav", "header"} <= {tag for tag, _ in page.tags}, path
        for label in page.all("section") + page.all("dialog"):
            named = label.get("aria-labelledby")
            assert named is None or named in page.ids, f"{path}: {named}"
        assert all(button.get("type") for button in page.all("button") if "form" not in button) or page.all("form")


def test_nothing_in_a_page_needs_an_exception_from_the_policy(owner: TestClient, world: World) -> None:
    for path in addresses(world):
        for tag, attributes in outline(owner, path).tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (
                path,
                tag,
                attributes,
            )
            for name in ("src", "href", "action"):
                address = attributes.get(name) or ""
                assert not re.match(r"(https?:)?//|javascript:", address), (path, address)
            if tag == "script" and "src" not in attributes:
                assert attributes.get("type") == "application/json"


def test_names_from_outside_are_text_everywhere(owner: TestClient, realm: Realm, world: World) -> None:
    report = {
        "rows_read": 3, "rows_accepted": 2, "rows_rejected": 1, "warnings": [EVIL],
        "rejected": [{"line": 3, "reason": "broken_json", "detail": EVIL}],
        "examples": [{"messages": [{"role": EVIL, "content": EVIL}]}],
    }  # fmt: skip
    new = NewJob(
        "dio", "sft", EVIL, "evil", report=report, rows=3, skill=EVIL, level=1, data=[{"name": EVIL, "rows": 3}]
    )
    job, _ = realm.vault.jobs.submit(new)
    refused, _ = realm.vault.jobs.submit(
        NewJob("dio", "sft", EVIL, "evil2"), state="refused", reason={"code": "x", "message": EVIL, "hint": EVIL}
    )
    realm.vault.jobs.cancel(job.id, EVIL)
    realm.vault.jobs.retry(job.id, EVIL)
    log = realm.paths.runs / world.run / "worker.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"{EVIL}\n\x1b[31mred\x1b[0m\n")
    for path in [*addresses(world), f"/quests/{job.id}", f"/quests/{refused.id}"]:
        page = outline(owner, path)
        assert not page.all("img"), path
        assert "49.jsonl" not in page.text, path
        scripts = [attributes for attributes in page.all("script") if "src" not in attributes]
        assert all(attributes.get("type") == "application/json" for attributes in scripts)
    assert EVIL in outline(owner, f"/quests/{refused.id}").text
    assert "\x1b" not in outline(owner, f"/runs/{world.run}").text


def test_the_home_page_shows_what_the_ledger_says(owner: TestClient, realm: Realm, world: World) -> None:
    page = outline(owner, "/")
    status = realm.status()
    hero, battle = status["hero"], status["battle"]
    text = " ".join(page.text.split())
    assert f"{hero['xp']:,} steps in all" in text
    assert f"{battle['max_steps'] - battle['run_step']:,} steps left" in text
    assert f"loss {battle['loss_smooth'] or hero['train_loss']:.3f}" in text
    assert f"val loss {hero['val_loss']:.3f}" in text
    assert "Held out" in text
    assert "80.0% 4/5" in text
    assert "waiting.jsonl" in text
    (body,) = page.all("body")
    assert body["data-state"] == "training"
    assert body["data-signature"] == signature(status)


def test_the_chart_in_the_page_holds_the_ledgers_points(owner: TestClient, world: World) -> None:
    text = owner.get("/").text
    chart = json.loads(re.findall(r'id="chart-data">(.*?)</script>', text)[0])
    assert chart["run_id"] == world.run
    assert len(chart["steps"]) == len(chart["loss"]) == len(chart["smooth"]) <= MAX_POINTS
    assert chart["steps"] == sorted(set(chart["steps"]))
    assert [2000, "champion"] in chart["marks"]
    for path in (f"/charts/loss?run={world.run}", f"/charts/loss?hero={world.hero}&window=500"):
        assert owner.get(path).json()["run_id"] == world.run
    assert owner.get("/charts/loss?hero=dio&window=7").status_code == 404
    assert owner.get("/charts/loss?run=run_nobody").status_code == 404


def test_a_thinned_chart_keeps_the_spike(realm: Realm, world: World) -> None:
    realm.vault.metrics.append(world.run, [("loss", 777, 99.0)])
    chart = hero_chart(realm.vault, world.hero, 0)
    assert max(chart["loss"]) > 50


def test_the_steps_of_a_run_that_began_again_are_drawn_once(realm: Realm, world: World) -> None:
    realm.vault.jobs.give_up(
        world.running, realm.vault.jobs.get(world.running).fence, 1.0, {"code": "x", "message": "x"}
    )
    claim = realm.vault.jobs.claim("test", 2.0, 60.0)
    assert claim is not None
    assert claim.run.hero_step_start == 2000
    realm.vault.metrics.append(claim.run.id, [("loss", step, 0.5) for step in range(1, 11)])
    steps = hero_chart(realm.vault, world.hero, 500)["steps"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2010


def test_a_job_page_tells_why_it_failed_and_offers_what_may_be_done(owner: TestClient, world: World) -> None:
    failed = outline(owner, f"/quests/{world.failed}")
    assert "It died." in failed.text
    assert [b for b in failed.all("button") if b.get("data-post") == f"/api/v1/jobs/{world.failed}/retry"]
    waiting = outline(owner, f"/quests/{world.waiting}")
    assert [b for b in waiting.all("button") if b.get("data-post") == f"/api/v1/jobs/{world.waiting}/cancel"]
    running = outline(owner, f"/quests/{world.running}")
    assert not [b for b in running.all("button") if (b.get("data-post") or "").startswith("/api/v1/jobs/")]


REPORT = {
    "accepted": True, "rows_read": 24_000, "rows_accepted": 22_660, "rows_rejected": 1_300, "rows_withheld": 40,
    "reasons": {"empty_answer": 100, "broken_json": 1_200}, "warnings": ["40 rows are problems of an evaluation."],
    "rejected": [{"line": 214 + line, "reason": "broken_json", "detail": "at column 2"} for line in range(50)],
    "tokens": 1_200_345, "tokens_exact": False, "longest_tokens": 612, "supervised_share": 0.41,
    "supervised_by": "tokens", "near_duplicates": 0,
    "memory": {
        "total": 16_500_000_000, "free": 12_000_000_000, "fits": False, "device": "cuda",
        "parts": [{"name": "gradients", "size": 2 << 30, "why": "in float32"},
                  {"name": "weights", "size": 3 << 30, "why": "596,000,000 in float32"}],
    },
}  # fmt: skip


def test_a_report_is_told_whole_and_nothing_is_added(owner: TestClient, realm: Realm, world: World) -> None:
    job, _ = realm.vault.jobs.submit(NewJob("dio", "sft", "told.jsonl", "told", report=REPORT, rows=22_660))
    text = " ".join(outline(owner, f"/quests/{job.id}").text.split())
    for words in (
        "22,660 of 24,000 rows can be used.",
        "Rows withheld40",
        "about 1,200,345",
        "Trained share of tokens41%",
        "1,200 rowsit is not valid JSON",
        "line 214it is not valid JSON (at column 2)",
        "1,280 more rows of these; the quarantine file has all of them.",
        "About 15.4 GiB at the peak. It does not fit: 11.2 GiB on the GPU are free now.",
        "40 rows are problems of an evaluation.",
    ):
        assert words in text, words
    assert text.index("1,200 rows") < text.index("100 rows")
    assert text.index("3.0 GiB") < text.index("2.0 GiB")
    assert "Near duplicates" not in text


def test_a_refusal_is_told_once_with_what_to_do_next(owner: TestClient, realm: Realm, world: World) -> None:
    why = {"code": "too_many", "message": "line 214 is not JSON.", "hint": "Mend it."}
    report = REPORT | {"accepted": False, "rows_accepted": 0, "refusal": why, "memory": None}
    new = NewJob("dio", "sft", "bad.jsonl", "bad", report=report)
    job, _ = realm.vault.jobs.submit(new, state="refused", reason=why)
    page = outline(owner, f"/quests/{job.id}")
    text = " ".join(page.text.split())
    assert "Turned away. 0 of 24,000 rows were added." in text
    assert text.count("Mend it.") == 1
    assert "Memory" not in text
    assert "Choose another file" in text
    retried = [b for b in page.all("button") if (b.get("data-post") or "").endswith("/retry")]
    assert retried == []
    bare = outline(owner, f"/quests/{world.failed}")
    assert "At the gate" not in bare.text.replace("At the gate", "", 1)  # the dialog has one of its own
    assert [b for b in bare.all("button") if b.get("data-post") == f"/api/v1/jobs/{world.failed}/retry"]


def test_nothing_is_offered_to_an_arena_that_is_down(owner: TestClient, realm: Realm, world: World) -> None:
    def off() -> dict[str, bool]:
        return {
            b["data-command"] or "": "disabled" in b for b in outline(owner, "/").all("button") if "data-command" in b
        }

    assert not any(off()[verb] for verb in ("pause", "stop", "skip"))
    fallen = {"name": "arena", "state": "down", "pid": None, "since": 1.0, "restarts": 2, "detail": "It fell"}
    (realm.paths.control / "services.json").write_text(json.dumps({"services": [fallen]}))
    assert all(off()[verb] for verb in ("pause", "save", "stop", "skip"))


@pytest.mark.parametrize("path", ["/quests/job_nobody", "/runs/run_nobody"])
def test_what_does_not_exist_is_a_page_that_says_so(owner: TestClient, path: str) -> None:
    page = outline(owner, path, status=404)
    assert "Nothing is here" in page.text
    assert "There is no such" in page.text


def test_plain_names_replace_the_game_words(owner: TestClient, world: World) -> None:
    owner.cookies.set("realm_names", "plain")
    text = outline(owner, "/").text
    assert "Training" in text
    assert "Waiting jobs" in text
    for word in ("Quest", "Foe", "Bit Golem", "Fighting"):
        assert word not in text, word


def test_preferences_come_from_cookies_and_nothing_else_is_believed(owner: TestClient) -> None:
    owner.cookies.set("realm_theme", "parchment")
    owner.cookies.set("realm_motion", '"><script>')
    (html,) = outline(owner, "/").all("html")
    assert html["data-theme"] == "parchment"
    assert "data-motion" not in html


def test_settings_show_values_with_their_sources_and_hide_passwords(realm: Realm) -> None:
    from tavern.views.other import _safe

    assert _safe("postgresql+psycopg://me:secret@db/realm") == "postgresql+psycopg://me:•••@db/realm"
    assert _safe("sqlite:///x.db") == "sqlite:///x.db"


def test_static_files_are_served_by_name_and_kept_for_their_build(owner: TestClient) -> None:
    assets = pages.static_assets()
    answer = owner.get(assets.url("css/app.css"))
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert owner.get("/assets/old/css/app.css").headers["cache-control"] == "no-cache"
    for wrong in (
        "/assets/x/../pages.py",
        f"/assets/{assets.build}/art/icons.txt",
        f"/assets/{assets.build}/nothing.js",
    ):
        assert owner.get(wrong).status_code == 404, wrong


def test_the_summary_after_an_absence_counts_events(owner: TestClient, world: World) -> None:
    text = owner.get("/charts/away?after=0").json()["text"]
    assert "2 levels" in text
    assert "1 new champion" in text
    assert owner.get("/charts/away?after=100000").json() == {"text": ""}


def test_a_template_is_given_two_names_and_uses_no_other() -> None:
    environment = pages.environment()
    for name in environment.list_templates():
        source, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]
        tree = environment.parse(source)
        imported = {str(part) for node in tree.find_all(nodes.FromImport) for part in node.names}
        used = meta.find_undeclared_variables(tree) - imported
        assert used - {"shell", "page"} <= set(environment.globals), name


def test_no_way_leads_around_the_escaping() -> None:
    banned = re.compile(r"\|\s*safe\b|autoescape|Markup|\bstyle\s*=|\son[a-z]+\s*=")
    for path in (Path(pages.__file__).parent / "templates").glob("*.html"):
        assert not banned.search(path.read_text(encoding="utf-8")), path.name
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(.(style|on)"
    )
    parsers = {"trusted.js"}
    for path in (STATIC / "js").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not sinks.search(text), path.name
        assert path.name in parsers or not re.search(
            r"DOMParser|createPolicy|createContextualFragment|setHTMLUnsafe", text
        ), path.name


def test_vendored_and_baked_files_are_what_their_sources_say() -> None:
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    for script in ("vendor.py", "bake_art.py"):
        done = subprocess.run(
            [sys.executable, root / "scripts" / script, "--check"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_the_first_load_is_light(owner: TestClient, world: World) -> None:
    assets = pages.static_assets()
    text = owner.get("/").text
    names = set(re.findall(rf"/assets/{assets.build}/([\w./-]+)", text))
    names |= {f"js/{path.name}" for path in (STATIC / "js").glob("*.js")} - {"js/run.js", "js/settings.js"}
    names |= {str(path.relative_to(STATIC)) for path in (STATIC / "vendor").rglob("*.woff2")}
    names |= {"hall/left.png", "hall/right.png", "hall/library.png"}
    total = (
        len(text.encode())
        + len(owner.get("/skills.css").content)
        + sum(assets.files[name].stat().st_size for name in names)
    )
    assert total <= 350_000, total


def test_every_icon_in_a_template_exists(owner: TestClient, world: World) -> None:
    known: dict[str, set[str]] = {}
    for path in addresses(world):
        for attributes in outline(owner, path).all("use"):
            sheet, _, name = (attributes["href"] or "").partition("#")
            file = sheet.rsplit("/", 1)[-1]
            if file not in known:
                known[file] = set(re.findall(r'<symbol id="([\w-]+)"', (STATIC / file).read_text(encoding="utf-8")))
            assert name in known[file], f"{path}: {name}"
