"""The ladder, the pips and the skills' colours: from a ledger with a known history, by the guild's own rule."""

from __future__ import annotations

import re
import time

import pytest
from fastapi.testclient import TestClient

from guild.curriculum import MASTERY
from guild.skills.registry import get_skill, list_skills
from realm.wiring import Realm
from tavern.colours import CONTRAST, THEMES, contrast, grounds, lifted, skill_sheet
from tavern.views.skills import SkillView, build_skills, threshold
from tests.tavern.conftest import World
from tests.tavern.test_pages import outline

TOTAL = 100


def examine(
    realm: Realm, world: World, level: int, rights: list[int], *, split: str = "heldout", tag: str = ""
) -> None:
    """Enter evaluations of a level, oldest first: how many of a hundred were right."""
    name = f"bin/L{level}/{split}" + (f"/{tag}" if tag else "")
    for number, right in enumerate(rights):
        realm.vault.ledger.record_evaluation(
            world.run, run_step=3000 + number * 10, name=name, skill="bin", level=level, split=split,
            correct=right, total=TOTAL, details={}, at=time.time(),
        )  # fmt: skip


def view(realm: Realm, world: World) -> SkillView:
    def newest(name: str) -> list[float]:
        items = realm.vault.ledger.evaluations(hero_id=world.hero, name=name, limit=3).items
        return [evaluation.accuracy for evaluation in reversed(items)]

    (found,) = build_skills(realm.status()["hero"]["skills"], newest)
    return found


def states(found: SkillView) -> list[str]:
    return [rung.state for rung in found.ladder]


def test_one_cell_a_level_mastered_trained_or_open(realm: Realm, world: World) -> None:
    examine(realm, world, 1, [10, 79, 80, 81])
    examine(realm, world, 2, [90, 95])
    examine(realm, world, 3, [99], split="known")
    found = view(realm, world)
    assert states(found) == ["on", "cur", "", "", "", "", "", ""]
    assert found.level == "L2 / 8"
    assert found.pips == [True, True, False]
    assert found.pips_label == "2 of the last 3 evaluations of level 2 at 80 % or more"
    assert found.ladder_label == "1 of 8 levels mastered, level 2 is trained"
    assert found.heldout is not None
    assert (found.heldout.correct, found.heldout.percent) == ("95", "95.0")


def test_a_level_that_slips_is_open_again(realm: Realm, world: World) -> None:
    examine(realm, world, 1, [80, 80, 80])
    assert states(view(realm, world))[:2] == ["on", "cur"]
    examine_again = [79]
    realm.vault.ledger.record_evaluation(
        world.run, run_step=9000, name="bin/L1/heldout", skill="bin", level=1, split="heldout",
        correct=examine_again[0], total=TOTAL, details={}, at=time.time(),
    )  # fmt: skip
    found = view(realm, world)
    assert states(found)[:2] == ["cur", ""]
    assert found.pips == [True, True, False]


def test_known_problems_do_not_count_where_some_are_held_out(realm: Realm, world: World) -> None:
    examine(realm, world, 1, [100, 100, 100], split="known")
    found = view(realm, world)
    assert states(found)[0] == "cur"
    assert found.pips == [False, False, False]
    assert found.heldout is None
    assert found.known is not None


def test_known_problems_count_where_none_is_held_out(
    realm: Realm, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tavern.views.skills._holds_nothing_out", lambda skill, level: True)
    examine(realm, world, 1, [100, 100, 100], split="known")
    assert states(view(realm, world))[:2] == ["on", "cur"]


def test_direct_answers_stand_beside_and_never_count(realm: Realm, world: World) -> None:
    examine(realm, world, 1, [50])
    examine(realm, world, 1, [100, 100, 100], tag="direct")
    found = view(realm, world)
    assert found.contrast == "Direct answers 100.0 % held out"
    assert found.pips == [False, False, False]
    assert states(found)[0] == "cur"


def test_a_level_that_was_not_measured_borrows_no_numbers(realm: Realm, world: World) -> None:
    found = view(realm, world)  # the ledger knows level 3 only
    assert found.level == "L1 / 8"
    assert found.heldout is not None
    assert found.heldout.label == "Held out L3"
    assert found.pips == [False, False, False]


def test_the_rule_is_the_skills_own() -> None:
    skill = get_skill("bin")
    assert threshold(skill) == skill.accuracy_thresholds["mastered"]
    assert threshold(skill.model_copy(update={"accuracy_thresholds": {"mastered": 0.5}})) == 0.5
    assert threshold(skill.model_copy(update={"accuracy_thresholds": {}})) == MASTERY


def test_a_skill_without_a_definition_keeps_its_numbers(realm: Realm, world: World) -> None:
    entry = {"skill": "lost", "level": 2, "known": None, "heldout": {"correct": 1, "total": 4}, "contrast": {}}
    (found,) = build_skills([entry], lambda name: [])
    assert (found.level, found.ladder, found.tone) == ("L2", [], "t-sky")
    assert found.heldout is not None
    assert found.heldout.percent == "25.0"


def test_the_page_shows_them_and_suggests_the_level_to_train(owner: TestClient, realm: Realm, world: World) -> None:
    examine(realm, world, 1, [80, 80, 80])
    examine(realm, world, 2, [41], tag="direct")
    page = outline(owner, "/")
    assert "Direct answers 41.0 % held out" in page.text
    assert "L2 / 8" in page.text
    (levels,) = [entry for entry in page.all("input") if entry.get("name") == "level"]
    assert (levels["value"], levels["max"]) == ("2", "8")
    assert "L2, direct answers" in outline(owner, f"/runs/{world.run}").text


def test_the_colours_of_skills_can_be_read_on_both_themes(owner: TestClient) -> None:
    for theme in THEMES:
        for colour in [skill.display.color for skill in list_skills()] + ["#8B5CF6", "#000000", "#ffffff", "#ff0000"]:
            for ground in grounds()[theme]:
                assert contrast(lifted(colour, grounds()[theme]), ground) >= CONTRAST, (theme, colour)
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    sheet = owner.get("/skills.css")
    assert sheet.headers["content-type"].startswith("text/css")
    assert sheet.text == skill_sheet()
    assert len(re.findall(r"--c: #[0-9a-f]{6};", sheet.text)) == 3 * len(list_skills())


def test_grounds_are_those_of_the_themes() -> None:
    assert grounds() == {"hearth": ("#162622", "#1d322d"), "parchment": ("#f3e7c9", "#e9d9b3")}
