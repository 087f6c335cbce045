"""What a hero knows: for each skill the ladder of levels, the pips towards the next one, and the newest results.

Whether a level is mastered is `guild.curriculum`'s word, by the threshold and the levels that the skill's YAML gives;
the accuracies are the ledger's. Held-out problems count; known ones count where a level holds none out.
tests/tavern/test_skills.py holds it to ledgers with a known history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from guild.curriculum import EVALUATIONS_TO_ADVANCE, MASTERY, mastered_level, mastery, training_level
from guild.skills.definition import SkillDefinition
from guild.skills.registry import get_skill, get_trainer
from realm.errors import RealmError
from tavern import lore, numbers

Newest = Callable[[str], Sequence[float]]
"""From the name of an evaluation set to its newest accuracies, oldest first."""
History = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Split:
    label: str
    correct: str
    total: str
    share: float
    percent: str


@dataclass(frozen=True)
class Rung:
    """One level on the ladder."""

    level: int
    state: str
    """"on" when mastered, "cur" for the one that is trained, "" otherwise."""


@dataclass(frozen=True)
class SkillView:
    id: str
    name: str
    short: str
    icon: str
    tone: str
    """Class that gives the skill's colour: of its own where its definition is here, else a common tone."""
    level: str
    about: str
    ladder: list[Rung]
    ladder_label: str
    pips: list[bool]
    pips_label: str
    known: Split | None
    heldout: Split | None
    contrast: str


def history_of(skill_id: str, entries: Sequence[Mapping[str, Any]], newest: Newest) -> dict[int, Sequence[float]]:
    """Return level → accuracies that count towards mastery, for the levels that were ever measured."""
    found: dict[int, Sequence[float]] = {}
    for entry in entries:
        if entry["skill"] != skill_id or entry.get("level") is None:
            continue
        level = int(entry["level"])
        if entry.get("heldout"):
            found[level] = newest(f"{skill_id}/L{level}/heldout")
        elif entry.get("known") and _holds_nothing_out(skill_id, level):
            found[level] = newest(f"{skill_id}/L{level}/known")
    return found


def level_to_train(definition: SkillDefinition, history: History) -> int:
    return training_level(history, definition.max_level, threshold(definition))


def threshold(definition: SkillDefinition) -> float:
    return definition.accuracy_thresholds.get("mastered", MASTERY)


def build_skills(entries: Sequence[Mapping[str, Any]], newest: Newest) -> list[SkillView]:
    """Return a view for each skill that was ever measured, in the order in which they stand in the status."""
    return [_build(skill_id, entries, newest) for skill_id in dict.fromkeys(str(entry["skill"]) for entry in entries)]


def _build(skill_id: str, entries: Sequence[Mapping[str, Any]], newest: Newest) -> SkillView:
    own = [entry for entry in entries if entry["skill"] == skill_id]
    term = lore.skill(skill_id)
    try:
        definition = get_skill(skill_id)
    except RealmError:  # measured once; its definition is not here any more
        last = max(own, key=lambda entry: entry.get("level") or 0)
        level = f"L{last['level']}" if last.get("level") is not None else ""
        return _view(skill_id, term, last, level=level)
    history = history_of(skill_id, entries, newest)
    bar = threshold(definition)
    current = level_to_train(definition, history)
    done = mastered_level(history, bar)
    shown = next((entry for entry in own if entry.get("level") == current), own[-1])
    at = "" if shown.get("level") == current else f" L{shown.get('level')}"
    goal = numbers.percent(bar, 0)
    good = [accuracy >= bar for accuracy in history.get(current, ())[-EVALUATIONS_TO_ADVANCE:]]
    all_mastered = done == definition.max_level
    return SkillView(
        id=skill_id,
        name=definition.rpg_name,
        short=definition.display.short_name,
        icon=term.icon,
        tone=f"k-{skill_id}",
        level=f"L{current} / {definition.max_level}",
        about=definition.level(current).desc,
        ladder=[
            Rung(number, "on" if _mastered(history, number, bar) else "cur" if number == current else "")
            for number in range(1, definition.max_level + 1)
        ],
        ladder_label=f"{done} of {definition.max_level} levels mastered"
        + ("" if all_mastered else f", level {current} is trained"),
        pips=sorted(good + [False] * (EVALUATIONS_TO_ADVANCE - len(good)), reverse=True),
        pips_label=f"{sum(good)} of the last {EVALUATIONS_TO_ADVANCE} evaluations of level {current} "
        f"at {goal} % or more",
        known=_split("Known" + at, shown.get("known")),
        heldout=_split("Held out" + at, shown.get("heldout")),
        contrast=_contrast(shown.get("contrast") or {}),
    )


def _view(skill_id: str, term: lore.Term, entry: Mapping[str, Any], *, level: str) -> SkillView:
    return SkillView(
        id=skill_id,
        name=term.game,
        short=term.plain,
        icon=term.icon,
        tone=f"t-{term.tone}",
        level=level,
        about="",
        ladder=[],
        ladder_label="",
        pips=[],
        pips_label="",
        known=_split("Known", entry.get("known")),
        heldout=_split("Held out", entry.get("heldout")),
        contrast=_contrast(entry.get("contrast") or {}),
    )


def _mastered(history: History, level: int, bar: float) -> bool:
    mean = mastery(history.get(level, ()))
    return mean is not None and mean >= bar


def _split(label: str, value: Mapping[str, Any] | None) -> Split | None:
    if not value or not value.get("total"):
        return None
    share = int(value["correct"]) / int(value["total"])
    return Split(label, numbers.whole(value["correct"]), numbers.whole(value["total"]), share, numbers.percent(share))


def _contrast(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The results beside the level's own, in one line: "Direct answers 41.2 % held out, 88.0 % known"."""
    lines = []
    for tag, by_split in results.items():
        shares = [
            f"{numbers.percent(by_split[split]['correct'] / by_split[split]['total'])} % {lore.SPLITS[split].lower()}"
            for split in ("heldout", "known")
            if by_split.get(split) and by_split[split].get("total")
        ]
        if shares:
            lines.append(f"{lore.contrast(tag)} {', '.join(shares)}")
    return "; ".join(lines)


@lru_cache(maxsize=256)
def _holds_nothing_out(skill_id: str, level: int) -> bool:
    """Tell whether no problem of a level is held out, so that its known problems are all there are."""
    try:
        return get_trainer(skill_id).evaluation_set(level, "heldout", count=1).space == 0
    except RealmError:
        return False
