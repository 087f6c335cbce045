"""What a person lives through: a dropped file becomes a battle that the page shows, by the stream alone."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from realm.wiring import Realm
from tavern import numbers
from tests.browser.conftest import DESKTOP, PHONE, Visiting
from tests.tavern.conftest import World
from tests.tavern.serving import tavern_process

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PATIENCE_MS = 120_000


def rows(count: int, salt: str) -> str:
    """Examples of a small language, none twice."""
    return "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"Count from {number} ({salt})"},
                    {"role": "assistant", "content": " ".join(str(number + step) for step in range(6))},
                ]
            }
        )
        + "\n"
        for number in range(count)
    )


def drop(page: Page, name: str, text: str) -> None:
    """Drop a file on the page as a hand does."""
    make = "([name, text]) => { const d = new DataTransfer(); d.items.add(new File([text], name)); return d; }"
    transfer = page.evaluate_handle(make, [name, text])
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#dropveil")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.locator("#dropveil")).to_be_hidden()


def number(page: Page, name: str) -> int:
    text = page.locator(f"[data-v={name}]").first.text_content() or ""
    return int(text.replace(",", "")) if text.replace(",", "").isdigit() else 0


def status(address: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{address}api/v1/status").json()
    return found


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_dropped_file_is_fought_before_ones_eyes(living: str, visiting: Visiting, size: dict[str, int]) -> None:
    visit = visiting(living, viewport=size)
    page = visit.open()
    expect(page.locator("#link")).to_contain_text("Live")
    gold, xp = number(page, "gold"), number(page, "xp_total")
    name = f"counting-{size['width']}.jsonl"
    drop(page, name, rows(300, str(size["width"])) + "{broken\n")
    checked = page.locator("#checked")
    expect(checked).to_contain_text("is on the board", timeout=PATIENCE_MS)
    expect(checked).to_contain_text("line 301")
    expect(checked).to_contain_text("not valid JSON")
    page.keyboard.press("Escape")
    expect(page.locator("#r-log")).to_contain_text(f"Quest posted {name}", timeout=PATIENCE_MS)
    expect(page.locator("#r-log")).to_contain_text(f"Quest complete {name}", timeout=PATIENCE_MS)
    expect(page.locator("[data-v=gold]")).to_have_text(str(gold + 100), timeout=PATIENCE_MS)
    hero = status(living)["hero"]
    expect(page.locator("[data-v=xp_total]")).to_have_text(f"{hero['xp']:,}")
    assert number(page, "xp_total") > xp
    expect(page.locator("[data-v=stat_atk]")).to_have_text(numbers.stat(hero["atk"]))
    page.locator("#chart-table summary").click()
    expect(page.locator("#chart-table tbody tr").nth(5)).to_be_visible()
    job = next(job for job in httpx.get(f"{living}api/v1/jobs").json()["items"] if job["name"] == name)
    page.goto(f"{living}quests/{job['id']}")
    expect(page.locator("#r-tokens .on").first).to_contain_text("0 1 2 3 4 5")
    expect(page.locator("#r-tokens .off").first).to_contain_text("Count from 0")
    visit.check()


def test_a_quest_is_made_by_the_guild(living: str, visiting: Visiting) -> None:
    visit = visiting(living)
    page = visit.open()
    expect(page.locator("#link")).to_contain_text("Live")
    page.keyboard.press("n")
    page.locator("[data-tab=make]").click()
    page.locator("#makeform [name=count]").fill("60")
    page.locator("#makeform .pri").click()
    expect(page.locator("#checked")).to_contain_text("is on the board", timeout=PATIENCE_MS)
    expect(page.locator("#checked .rowbox").first).to_contain_text("Compute")
    page.keyboard.press("Escape")
    expect(page.locator("#r-hero")).to_contain_text("Held out", timeout=PATIENCE_MS)
    expect(page.locator("#r-hero")).to_contain_text("Known")
    visit.check()


def test_a_file_that_cannot_be_used_is_turned_away_in_words(living: str, visiting: Visiting) -> None:
    visit = visiting(living)
    page = visit.open("/quests")
    expect(page.locator("#link")).to_contain_text("Live")
    drop(page, "nonsense.jsonl", "this is\nnot json\nat all\n")
    expect(page.locator("#checked")).to_contain_text("turned away", timeout=PATIENCE_MS)
    expect(page.locator("#checked")).to_contain_text("line 1")
    page.keyboard.press("Escape")
    expect(page.locator("#r-failed")).to_contain_text("nonsense.jsonl")
    visit.check()


def test_a_battle_is_paused_resumed_and_skipped(living: str, visiting: Visiting) -> None:
    visit = visiting(living)
    page = visit.open()
    expect(page.locator("#link")).to_contain_text("Live")
    drop(page, "long.jsonl", rows(20_000, "long"))
    page.wait_for_selector("#checked:not([hidden])", timeout=PATIENCE_MS)
    page.keyboard.press("Escape")
    expect(page.locator("#r-versus")).to_contain_text("long.jsonl", timeout=PATIENCE_MS)
    expect(page.locator("body[data-state=training]")).to_have_count(1, timeout=PATIENCE_MS)
    page.wait_for_function("Number(document.querySelector('[data-v=left]')?.textContent.replaceAll(',', '')) > 0")
    page.locator("[data-command=pause]").click()
    expect(page.locator("[data-key=command-pause][aria-busy=true], [data-command=resume]")).to_have_count(1)
    expect(page.locator("body[data-state=paused]")).to_have_count(1, timeout=PATIENCE_MS)
    expect(page.locator("[data-command=resume].pri")).to_be_enabled()
    step = number(page, "step")
    page.keyboard.press("p")
    expect(page.locator("body[data-state=training]")).to_have_count(1, timeout=PATIENCE_MS)
    page.wait_for_function(
        "(was) => Number(document.querySelector('[data-v=step]').textContent.replaceAll(',', '')) > was", arg=step
    )
    page.locator("[data-command=skip]").click()
    expect(page.locator("#confirm-no")).to_be_focused()
    page.locator("#confirm-yes").click()
    expect(page.locator("body[data-state=resting]")).to_have_count(1, timeout=PATIENCE_MS)
    expect(page.locator("#r-log")).to_contain_text("Quest skipped long.jsonl")
    visit.check()


def test_three_tabs_share_one_stream(living: str, visiting: Visiting) -> None:
    visit = visiting(living)
    pages = [visit.open(path) for path in ("/", "/quests", "/vault")]
    for page in pages:
        expect(page.locator("#link")).to_contain_text("Live")
    text = httpx.get(f"{living}metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith("realm_stream_clients ")]
    assert float(line.split()[-1]) == 1.0
    visit.check()


def test_waiting_jobs_are_moved_and_taken_out(prepared: str, realm: Realm, world: World, visiting: Visiting) -> None:
    from vault.records import NewJob

    second, _ = realm.vault.jobs.submit(NewJob("dio", "sft", "second.jsonl", "second", rows=1))
    visit = visiting(prepared)
    page = visit.open("/quests")
    expect(page.locator("#link")).to_contain_text("Live")
    page.get_by_role("button", name="Move second.jsonl up").click()
    expect(page.locator("#r-waiting .qrow").first).to_contain_text("second.jsonl")
    assert [job.name for job in realm.vault.jobs.waiting()] == ["second.jsonl", "waiting.jsonl"]
    row = page.locator(f"[data-job={second.id}]")
    row.locator("summary").press("Enter")
    row.get_by_role("button", name="Low priority").click()
    page.keyboard.press("Escape")
    expect(page.locator("#r-waiting .qrow").last).to_contain_text("Low")
    row.locator("summary").press("Enter")
    row.get_by_role("button", name="Take out of the queue").click()
    expect(row).to_have_count(0)
    assert [job.name for job in realm.vault.jobs.waiting()] == ["waiting.jsonl"]
    visit.check()


def test_a_command_that_nobody_answers_is_told_and_comes_back(prepared: str, world: World, visiting: Visiting) -> None:
    visit = visiting(prepared)  # no daemon runs here
    page = visit.open()
    expect(page.locator("#link")).to_contain_text("Live")
    page.locator("[data-command=pause]").click()
    expect(page.locator("[data-key=command-pause]")).to_be_disabled()
    expect(page.locator(".herald")).to_contain_text("has not confirmed it within 5 s", timeout=20_000)
    expect(page.locator("[data-key=command-pause]")).to_be_enabled()
    visit.check()


def test_lost_contact_is_said_and_ends_by_itself(realm: Realm, world: World, visiting: Visiting) -> None:
    with tavern_process(realm.paths.home) as (_, told):
        visit = visiting(told["address"])
        page = visit.open()
        expect(page.locator("#link")).to_contain_text("Live")
    expect(page.locator("#lost")).to_be_visible()
    expect(page.locator("#link")).to_contain_text("Stale")
    expect(page.locator("[data-command=pause]")).to_be_disabled()
    expect(page.locator("[data-v=xp_total]")).to_have_text("2,000")  # the last known values stay
    with tavern_process(realm.paths.home, ("env", f"REALM_TAVERN__PORT={told['port']}")):
        expect(page.locator("#link")).to_contain_text("Live", timeout=20_000)
        expect(page.locator("#lost")).to_be_hidden()
        expect(page.locator("[data-command=pause]")).to_be_enabled()


def test_after_an_absence_one_line_tells_what_happened(prepared: str, world: World, visiting: Visiting) -> None:
    visit = visiting(prepared)
    page = visit.open("/settings")
    page.evaluate("localStorage.setItem('realm-seen', JSON.stringify({seq: 1, at: Date.now() - 3600e3}))")
    page.goto(prepared)
    expect(page.locator("#away")).to_contain_text("While you were away (60 min): 2 levels, 1 new champion")
    visit.check()
