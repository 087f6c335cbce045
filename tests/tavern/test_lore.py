"""The dictionary: every kind of event has its words, and words are plain text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tavern import lore
from tavern.pages import static_assets

ROOT = Path(__file__).resolve().parents[2]
_LITERAL = re.compile(
    r"""(?:events\.append\(\s*connection,|events\.record\(|\.note\(\s*[\w.]+,|\.tell\()\s*((?:"\w+"(?:\s+if\s+[^,]+?\s+else\s+)?)+)"""
)
ICONS = re.findall(r'<symbol id="(\w+)"', static_assets().files["icons.svg"].read_text())
TONES = {"ember", "sky", "moss", "rose", "violet", "brass", "muted", "faint"}


def written_kinds() -> set[str]:
    """Every kind of event that the code writes by a literal."""
    found: set[str] = set()
    for package in ("vault", "arena", "realm"):
        for path in (ROOT / package).rglob("*.py"):
            for match in _LITERAL.findall(path.read_text(encoding="utf-8")):
                found |= set(re.findall(r'"(\w+)"', match))
    return found


def test_every_kind_that_the_code_writes_has_words() -> None:
    kinds = written_kinds()
    assert {"job_queued", "job_started", "checkpoint_saved", "level_reached", "service_up"} <= kinds
    assert kinds - set(lore.EVENTS) == set()


@pytest.mark.parametrize("kind", sorted(lore.EVENTS))
def test_an_event_is_told_whatever_its_data_holds(kind: str) -> None:
    whole = {"name": "<b>a</b>.jsonl", "step": 1200, "level": 3, "skill": "bin", "split": "heldout", "correct": 3}
    whole |= {"total": 4, "size": 2**20, "val_loss": 0.5, "train_loss": 0.4, "by": "a person", "retry_in_s": 5.0}
    whole |= {"reason": {"code": "x", "message": "It broke."}, "rows": 2, "priority": "high", "phase": "saving"}
    whole |= {"verb": "pause", "effect": {"effect": "paused"}}
    for data in ({}, whole):
        words = lore.event_words(kind, data, "arena")
        assert words["title"]
        assert words["plain_title"]
        assert words["icon"] in ICONS
        assert words["tone"] in TONES
        assert "None" not in words["text"]


def test_an_unknown_kind_is_told_by_its_name() -> None:
    words = lore.event_words("comet_seen", {"name": "a.jsonl"})
    assert words["title"] == "Comet seen"
    assert words["text"] == "a.jsonl"


def test_names_pass_through_unchanged_for_the_page_to_escape() -> None:
    assert lore.event_words("job_queued", {"name": "<script>alert(1)</script>"})["text"] == "<script>alert(1)</script>"


def test_an_evaluation_says_which_problems_and_how_many_were_right() -> None:
    data = {"skill": "bin", "level": 3, "split": "heldout", "correct": 45, "total": 64, "step": 1200}
    assert (
        lore.event_words("evaluation_recorded", data)["text"] == "BIN L3 held out: 45 of 64 right (70.3 %), step 1,200"
    )


def test_a_service_is_named_by_the_subject_of_its_event() -> None:
    assert lore.event_words("service_up", {"pid": 7}, "arena")["text"] == "Arena"


def test_the_summary_counts_in_words() -> None:
    counts = {"level_reached": 3, "job_completed": 2, "champion_changed": 1, "job_moved": 9}
    assert lore.summary(counts, plain=False) == "3 levels, 2 quests won, 1 new champion"
    assert lore.summary({}, plain=False) == ""


@pytest.mark.parametrize("group", sorted(lore.GROUPS))
def test_a_filter_shows_known_kinds_only(group: str) -> None:
    assert lore.group_kinds(group)
    assert set(lore.group_kinds(group)) <= set(lore.EVENTS)


def test_every_term_has_an_icon_that_exists() -> None:
    tables = (lore.PLACES, lore.TERMS, lore.STATES, lore.JOB_STATES)
    assert {term.icon for table in tables for term in table.values()} <= set(ICONS)


def test_every_foe_has_a_picture() -> None:
    sprites = static_assets().sprites
    foes = [*lore.SKILL_FOES.values(), lore.SLIME, lore.MIRROR, lore.MIMIC]
    assert {f"foe-{foe.sprite}" for foe in foes} <= set(sprites)
    assert lore.foe("sparring_binary_7.jsonl", "bin") == lore.MIRROR
    assert lore.foe("a.jsonl", None, planned_steps=20_000) == lore.MIMIC
    assert lore.foe("a.jsonl", "bin").name == "Bit Golem"
