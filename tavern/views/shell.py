"""What every page shows: places, the head-up display, notices, and the reader's own preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tavern import lore, numbers

Status = dict[str, Any]
BATTLING = ("preparing", "loading", "training", "evaluating", "saving")
_CHOICES = {
    "theme": ("", "hearth", "parchment"),
    "names": ("game", "plain"),
    "lettering": ("pixel", "plain"),
    "motion": ("", "still"),
    "keys": ("on", "off"),
}


@dataclass(frozen=True)
class Preferences:
    """How this browser wants its pages, from its cookies. The first choice of each is the default."""

    theme: str = ""
    names: str = "game"
    lettering: str = "pixel"
    motion: str = ""
    keys: str = "on"

    @classmethod
    def from_cookies(cls, cookies: Mapping[str, str]) -> Preferences:
        values = {key: cookies.get(f"realm_{key}", allowed[0]) for key, allowed in _CHOICES.items()}
        return cls(**{key: value if value in _CHOICES[key] else _CHOICES[key][0] for key, value in values.items()})

    @property
    def plain(self) -> bool:
        return self.names == "plain"


@dataclass(frozen=True)
class Place:
    key: str
    href: str
    icon: str
    label: str
    about: str
    badge: str = ""


@dataclass(frozen=True)
class Notice:
    tone: str
    icon: str
    text: str
    action: str


@dataclass(frozen=True)
class Hud:
    state: str
    state_word: str
    state_icon: str
    step: str
    pace: str
    ends: str
    clear: str
    gold: str
    gold_source: str


@dataclass(frozen=True)
class QuestForm:
    """What the dialog for a new job needs to know."""

    skills: list[SkillChoice]
    upload_limit: str


@dataclass(frozen=True)
class SkillChoice:
    id: str
    name: str
    max_level: int
    level: int


@dataclass(frozen=True)
class Shell:
    title: str
    here: str
    prefs: Preferences
    places: list[Place]
    foot: list[Place]
    hud: Hud
    notices: list[Notice]
    words: dict[str, str]
    form: QuestForm
    hero_name: str
    version: str
    data: dict[str, Any]

    def word(self, game: str, plain: str) -> str:
        """Choose between two wordings that occur in one place only."""
        return plain if self.prefs.plain else game


def realm_state(status: Status) -> str:
    """Return the one word for what is going on: a key of lore.STATES."""
    battle, queue = status.get("battle"), status["queue"]
    down = [s for s in status["services"] if s["name"] in ("arena", "daemon") and s["state"] in ("down", "broken")]
    if down:
        return "down"
    if battle is not None:
        state = str(battle.get("state") or "training")
        return state if state in lore.STATES else "training"
    if queue.get("held"):
        return "held"
    if queue["waiting"]:
        return "waiting"
    return "new" if status.get("hero") is None else "resting"


def build_shell(
    status: Status, prefs: Preferences, *, here: str, title: str, form: QuestForm, seq: int, now: float
) -> Shell:
    state = realm_state(status)
    hero = status.get("hero")
    term = lore.STATES[state]
    waiting = int(status["queue"]["waiting"])
    places = [
        Place(
            key,
            href,
            place.icon,
            place.word(prefs.plain),
            place.about,
            str(waiting) if key == "quests" and waiting else "",
        )
        for key, href, place in (
            ("tavern", "/", lore.PLACES["tavern"]),
            ("quests", "/quests", lore.PLACES["quests"]),
            ("vault", "/vault", lore.PLACES["vault"]),
            ("chronicle", "/chronicle", lore.PLACES["chronicle"]),
        )
    ]
    settings = lore.PLACES["settings"]
    foot = [Place("settings", "/settings", settings.icon, settings.word(prefs.plain), settings.about)]
    gold, completed = (int(hero["gold"]), int(hero["completed"])) if hero else (0, 0)
    battle = status.get("battle") or {}
    clear = status["queue"].get("eta_s")
    clear_s = clear[1] if isinstance(clear, list | tuple) else clear
    hud = Hud(
        state=state,
        state_word=term.word(prefs.plain),
        state_icon=term.icon,
        step=numbers.whole(battle.get("step") if battle else _hero_step(hero)),
        pace=numbers.pace(battle.get("steps_per_s") if state != "paused" else None),
        ends=numbers.span_range(battle.get("eta_s")) if state != "paused" else numbers.NONE,
        clear=numbers.clock(now + clear_s) if clear_s and state != "paused" else numbers.NONE,
        gold=numbers.whole(gold),
        gold_source=f"{lore.TERMS['gold'].word(prefs.plain)}: {numbers.count(completed, 'completed job')} x 100",
    )
    words = {key: term.word(prefs.plain) for key, term in lore.TERMS.items()}
    data = {"seq": seq, "plain": prefs.plain, "keys": prefs.keys == "on", "here": here, "signature": signature(status)}
    return Shell(
        title=title,
        here=here,
        prefs=prefs,
        places=places,
        foot=foot,
        hud=hud,
        notices=[_notice(notice) for notice in status["notices"] if not _shown_already(notice, here, state)],
        words=words,
        form=form,
        hero_name=str(hero["name"]) if hero else "DIO",
        version=str(status["realm"]["version"]),
        data=data,
    )


def signature(status: Status) -> str:
    """A short text that changes when a page must be drawn anew (and not with every step). live.js has the same."""
    battle, queue = status.get("battle"), status["queue"]
    parts = [
        f"{battle['run_id']}/{battle['state']}" if battle else "-",
        "held" if queue.get("held") else "",
        ",".join(f"{job['id']}:{job['priority']}" for job in queue["jobs"]),
        str(queue["waiting"]),
        ",".join(f"{service['name']}={service['state']}" for service in status["services"]),
        ",".join(str(notice["code"]) for notice in status["notices"]),
    ]
    return ";".join(parts)


def _hero_step(hero: dict[str, Any] | None) -> int | None:
    if hero is None:
        return None
    latest = hero.get("latest_checkpoint")
    return int(latest["step"]) if latest else None


def _shown_already(notice: dict[str, Any], here: str, state: str) -> bool:
    """The Tavern's hall says by itself that the queue is held, with the button to resume."""
    return here == "tavern" and notice["code"] == "queue_held" and state in ("paused", "held")


def _notice(notice: dict[str, Any]) -> Notice:
    error = notice["level"] == "error"
    return Notice("rose" if error else "brass", "warn", str(notice["text"]), str(notice.get("action") or ""))
