"""Every page in a real browser: quiet console, own host only, no sideways scrolling, axe finds nothing, keys work."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from tavern import numbers
from tests.browser.conftest import DESKTOP, PHONE, Visiting
from tests.tavern.conftest import World

pytestmark = pytest.mark.browser
PATHS = ("/", "/quests", "/vault", "/chronicle", "/settings")
SIZES = [DESKTOP, {"width": 1024, "height": 768}, {"width": 720, "height": 450}, PHONE, {"width": 320, "height": 640}]


def every_path(world: World) -> list[str]:
    return [*PATHS, f"/quests/{world.failed}", f"/runs/{world.run}", "/quests/job_nobody"]


def settled(page: Page) -> None:
    expect(page.locator("#link")).to_contain_text("Live")
    page.evaluate("document.fonts.ready")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size['width']}x{size['height']}")
def test_no_page_complains_leaves_its_host_or_scrolls_sideways(
    prepared: str, world: World, visiting: Visiting, size: dict[str, int]
) -> None:
    visit = visiting(prepared, viewport=size)
    for path in every_path(world):
        page = visit.open(path)
        settled(page)
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, f"{path} is {wider} px too wide"
        page.close()
    visit.complaints = [
        text for text in visit.complaints if "404" not in text
    ]  # the page that says that nothing is here
    visit.check()


LOOKS = [(theme, size) for theme in ("hearth", "parchment") for size in (DESKTOP, PHONE)]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look[0]}-{look[1]['width']}")
def test_axe_finds_nothing(
    prepared: str, world: World, visiting: Visiting, axe: str, look: tuple[str, dict[str, int]]
) -> None:
    theme, size = look
    visit = visiting(prepared, viewport=size, reduced_motion="reduce")
    visit.context.add_cookies([{"name": "realm_theme", "value": theme, "url": prepared}])
    for path in every_path(world):
        page = visit.open(path)
        settled(page)
        page.evaluate(axe)
        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
        found = page.evaluate("rules => axe.run(document, rules)", rules)
        wrong = [
            f"{violation['id']}: {node['target']} {node.get('failureSummary', '')}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]
        assert wrong == [], f"{path}: {json.dumps(wrong, indent=1)}"
        page.close()


def test_a_phone_gets_targets_that_a_finger_can_hit(prepared: str, world: World, visiting: Visiting) -> None:
    page = visiting(prepared, viewport=PHONE).open()
    settled(page)
    small = page.evaluate(
        """[...document.querySelectorAll("button, summary.btn, a.btn, .tabs a")]
        .filter((e) => e.checkVisibility() && !e.closest("dialog"))
        .map((e) => [e.getBoundingClientRect(), e.getAttribute("aria-label") || e.textContent.trim()])
        .filter(([box]) => box.height < 43.5 || box.width < 43.5)
        .map(([box, name]) => `${name} ${box.width}x${box.height}`)"""
    )
    assert small == []


def test_without_scripts_everything_can_be_read(prepared: str, world: World, visiting: Visiting) -> None:
    visit = visiting(prepared, java_script_enabled=False)
    page = visit.open()
    expect(page.locator("[data-v=xp_total]")).to_have_text("2,000")
    width = page.locator("[data-bar=left] rect").first.bounding_box()
    whole = page.locator("[data-bar=left]").bounding_box()
    assert width is not None
    assert whole is not None
    assert 0.4 < width["width"] / whole["width"] < 0.6
    assert "Scripts are off" in page.content()  # Chromium parses <noscript> as if scripts ran; it is there for others
    for path in every_path(world):
        page.goto(prepared.rstrip("/") + path)
        expect(page.locator("h1")).to_have_count(1)


def test_keys_lead_to_places_and_stay_silent_while_typing(prepared: str, world: World, visiting: Visiting) -> None:
    visit = visiting(prepared)
    page = visit.open()
    settled(page)
    page.keyboard.press("g")
    page.keyboard.press("q")
    page.wait_for_url("**/quests")
    settled(page)
    page.keyboard.press("n")
    expect(page.locator("#newquest")).to_be_visible()
    page.locator("[data-tab=make]").click()
    page.locator("#makeform [name=count]").press("n")
    page.keyboard.press("Escape")
    expect(page.locator("#newquest")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    visit.check()


def test_the_first_tab_stop_skips_to_the_page(prepared: str, world: World, visiting: Visiting) -> None:
    page = visiting(prepared).open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_preferences_change_the_page_and_last(prepared: str, world: World, visiting: Visiting) -> None:
    visit = visiting(prepared)
    page = visit.open("/settings")
    page.locator('[data-pref=theme][data-value="parchment"]').click()
    expect(page.locator("html[data-theme=parchment]")).to_have_count(1)
    page.locator('[data-pref=names][data-value="plain"]').click()
    expect(page.locator("h1")).to_have_text("Settings")
    expect(page.locator(".rail")).to_contain_text("Checkpoints")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(205, 187, 147)"
    page.locator('[data-pref=theme][data-value=""]').click()
    expect(page.locator("html[data-theme]")).to_have_count(0)
    visit.check()


def test_nothing_moves_when_motion_is_not_wanted(prepared: str, world: World, visiting: Visiting) -> None:
    page = visiting(prepared, reduced_motion="reduce").open()
    settled(page)
    page.evaluate("for (const e of document.querySelectorAll('[data-v]')) e.classList.add('bump')")
    assert page.evaluate("document.getAnimations().length") == 0


def test_names_that_look_like_markup_stay_text(prepared: str, world: World, realm, visiting: Visiting) -> None:  # type: ignore[no-untyped-def]
    from vault.records import NewJob

    visit = visiting(prepared)
    page = visit.open("/quests")
    settled(page)
    name = "<img src=x onerror=document.title=1>.jsonl"
    realm.vault.jobs.submit(NewJob("dio", "sft", name, "markup", rows=1))
    expect(page.locator("#r-waiting")).to_contain_text(name)
    page.goto(prepared)
    expect(page.locator("#r-log")).to_contain_text(name)
    assert page.locator("img").count() == 0
    visit.check()


def test_the_policy_lets_no_text_become_code_or_markup(prepared: str, world: World, visiting: Visiting) -> None:
    page = visiting(prepared).open()
    settled(page)
    for attack in (
        "document.body.innerHTML = '<b>x</b>'",
        "new DOMParser().parseFromString('<b>x</b>', 'text/html')",
        "new Worker('/assets/x/js/live-worker.js')",
        "trustedTypes.createPolicy('mine', {createHTML: (t) => t})",
    ):
        refused = page.evaluate("(code) => { try { (0, eval)(code); return false; } catch { return true; } }", attack)
        assert refused, attack


def test_numbers_read_the_same_in_page_and_server(prepared: str, world: World, visiting: Visiting) -> None:
    page = visiting(prepared).open()
    address = page.evaluate("document.querySelector('script[type=module]').src").replace("shell.js", "format.js")
    values = [0, 1, 0.5, 12.345, 89.4, 90, 182430, 5399, 5400, 8040, 200000, 1.5e9, 2.9e-5, 0.41237, 1e-12]
    for name, write in (
        ("whole", numbers.whole),
        ("loss", numbers.loss),
        ("stat", numbers.stat),
        ("rate", numbers.rate),
        ("span", numbers.span),
    ):
        shown = page.evaluate(
            "async ([a, n, v]) => { const m = await import(a); return v.map(m[n]); }", [address, name, values]
        )
        assert shown == [write(value) for value in values], name
    bounds: list[list[float] | None] = [[240, 360], [40, 50], [60, 120], [5, 5], None]
    shown = page.evaluate(
        "async ([a, v]) => { const m = await import(a); return v.map(m.spanRange); }", [address, bounds]
    )
    assert shown == [numbers.span_range(pair) for pair in bounds]
    sizes = [0, 512, 8760027, 1503238553]
    shown = page.evaluate("async ([a, v]) => { const m = await import(a); return v.map(m.size); }", [address, sizes])
    assert shown == [numbers.size(value) for value in sizes]


def test_the_chart_speaks_as_a_table_too(prepared: str, world: World, visiting: Visiting) -> None:
    visit = visiting(prepared)
    page = visit.open()
    settled(page)
    page.locator("#chart-table summary").click()
    expect(page.locator("#chart-table tbody tr").first).to_contain_text("2,000")
    page.locator("[data-window='500']").click()
    expect(page.locator("#hover")).to_have_text("last 500 steps")
    page.locator("[data-window='0']").click()
    expect(page.locator("#hover")).to_have_text("all steps")
    visit.check()
