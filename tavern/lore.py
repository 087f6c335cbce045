"""The dictionary between field words and game words. There is no other, and nothing that it says is stored.

The ledger, the API and the CLI speak of jobs, runs, checkpoints and evaluations; people who look at the Tavern read of
quests, battles and foes. Every entry holds both, so that the setting "plain names" can show the field word alone.

Icons are names in `static/art/icons.txt`; tones are colour tokens (`ember`, `sky`, `moss`, `rose`, `violet`, `brass`,
`muted`). Texts are plain text, never markup: names of files travel through them as they are and are escaped where
they are shown. tests/tavern/test_lore.py checks that every kind of event that the code writes has its words here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from tavern import numbers

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Term:
    """One idea: its game word, its field word and what it means."""

    game: str
    plain: str
    icon: str = "star"
    tone: str = "muted"
    about: str = ""

    def word(self, plain: bool) -> str:
        return self.plain if plain else self.game


class EventWords(TypedDict):
    """What an event says to people."""

    title: str
    text: str
    icon: str
    tone: str
    plain_title: str


PLACES = {
    "tavern": Term("Tavern", "Overview", "tavern", about="Watch the battle"),
    "quests": Term("Quests", "Jobs", "quests", about="What waits, what is fought, what is done"),
    "vault": Term("Vault", "Checkpoints", "vault", about="Checkpoints and how good each one is"),
    "chronicle": Term("Chronicle", "Event log", "chronicle", about="Everything that happened, newest first"),
    "settings": Term("Settings", "Settings", "settings", about="How this realm looks and runs"),
}

TERMS = {
    "quest": Term("Quest", "Job", "quests"),
    "quests": Term("quests", "jobs", "quests"),
    "battle": Term("Battle", "Run", "sword", "ember"),
    "hero": Term("Hero", "Model", "sword"),
    "foe": Term("Foe", "Job", "quests", "rose"),
    "xp": Term("XP", "Steps", "star", "moss", "optimizer steps over all quests"),
    "level": Term("Level", "Thousands of steps", "level", "moss", "1,000 steps make a level"),
    "atk": Term("ATK", "1 / train loss", "sword", "ember"),
    "def": Term("DEF", "1 / val loss", "shield", "sky"),
    "acc": Term("ACC", "Accuracy", "target", "violet"),
    "gold": Term("Gold", "Completed x 100", "coin", "brass"),
    "champion": Term("champion", "best checkpoint", "crown", "brass"),
    "next_quests": Term("Next quests", "Waiting jobs"),
    "new_quest": Term("New quest", "New job", "plus"),
    "chronicle": Term("Chronicle", "Event log"),
}

# What the state chip says. `data-state` in the page has the same keys.
STATES = {
    "preparing": Term("Making ready", "Preparing", "sword", "ember"),
    "loading": Term("Arming", "Loading the model", "sword", "ember"),
    "tokenizing": Term("Sharpening the blade", "Tokenizing", "sword", "ember"),
    "training": Term("Fighting", "Training", "sword", "ember"),
    "evaluating": Term("In trial", "Evaluating", "shield", "sky"),
    "saving": Term("Saving", "Saving a checkpoint", "save", "brass"),
    "paused": Term("Paused", "Paused", "pause", "sky"),
    "resting": Term("Resting", "Idle", "tavern", "moss"),
    "held": Term("Queue held", "Queue held", "pause", "sky"),
    "waiting": Term("Quest at the door", "Job waiting", "schedule", "sky"),
    "down": Term("Down", "Stopped", "skull", "rose"),
    "lost": Term("No contact", "No contact", "unlink", "muted"),
    "new": Term("No hero yet", "No model yet", "tavern", "moss"),
}

PHASES = {
    "preparing": "Preparing",
    "loading": "Loading the model",
    "tokenizing": "Tokenizing",
    "training": "Training",
    "evaluating": "Evaluating",
    "saving": "Saving a checkpoint",
    "paused": "Paused",
    "done": "Done",
}

JOB_STATES = {
    "queued": Term("Waiting", "Queued", "schedule", "muted"),
    "processing": Term("Fighting", "Training", "sword", "ember"),
    "paused": Term("Paused", "Paused", "pause", "sky"),
    "completed": Term("Won", "Completed", "flag", "moss"),
    "failed": Term("Lost", "Failed", "skull", "rose"),
    "refused": Term("Turned away", "Refused", "cross", "rose"),
    "skipped": Term("Skipped", "Skipped", "more", "muted"),
    "cancelled": Term("Withdrawn", "Cancelled", "cross", "muted"),
}

PRIORITIES = {
    "high": Term("High", "High", tone="rose"),
    "normal": Term("Normal", "Normal", tone="muted"),
    "low": Term("Low", "Low", tone="faint"),
}

SERVICES = {
    "arena": Term("Arena", "Daemon"),
    "daemon": Term("Arena", "Daemon"),
    "tavern": Term("Tavern", "Web"),
    "web": Term("Tavern", "Web"),
    "weaver": Term("Weaver", "Supervisor"),
    "worker": Term("Training ground", "Worker"),
}

SERVICE_STATES = {
    "up": ("", ""),
    "starting": ("warn", "starting"),
    "down": ("bad", "down"),
    "broken": ("bad", "broken"),
    "stopped": ("idle", "stopped"),
}


@dataclass(frozen=True)
class Foe:
    """Who stands for a job on the screen."""

    name: str
    sprite: str


SKILL_FOES = {"sy": Foe("Ink Wraith", "wraith"), "bin": Foe("Bit Golem", "golem")}
SLIME = Foe("Slime", "slime")
MIRROR = Foe("Mirror", "mirror")
MIMIC = Foe("Tome Mimic", "mimic")
LONG_JOB_STEPS = 10_000


def foe(name: str, skill: str | None, planned_steps: int | None = None) -> Foe:
    """Return who stands for a job: by its skill, a sparring job by its name, a long one as a boss, else the Slime."""
    if name.startswith("sparring"):
        return MIRROR
    if planned_steps is not None and planned_steps > LONG_JOB_STEPS:
        return MIMIC
    return SKILL_FOES.get((skill or "").lower(), SLIME)


SKILL_ICONS = {
    "sy": Term("Word Weaving", "SY", "puzzle", "violet"),
    "bin": Term("Binary Alchemy", "BIN", "abacus", "ember"),
}


def skill(skill_id: str) -> Term:
    """Return a skill's game name, its short name, icon and tone."""
    return SKILL_ICONS.get(
        skill_id.lower(), Term(skill_id.replace("_", " ").capitalize(), skill_id.upper(), "star", "sky")
    )


def service(name: str, plain: bool) -> str:
    term = SERVICES.get(name)
    return term.word(plain) if term else name.replace("_", " ").capitalize()


# Events


@dataclass(frozen=True)
class EventTerm:
    """How one kind of event is told."""

    game: str
    plain: str
    icon: str
    tone: str
    text: Callable[[Data], str]


def _name(data: Data) -> str:
    return str(data.get("name") or data.get("job_id") or data.get("run_id") or "")


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _at_step(data: Data) -> str:
    return f"step {numbers.whole(data['step'])}" if data.get("step") is not None else ""


def _named_step(data: Data) -> str:
    return _join(_name(data), _at_step(data))


def _loss(data: Data) -> str:
    return _join(
        f"loss {numbers.loss(data['train_loss'])}" if data.get("train_loss") is not None else "",
        f"val loss {numbers.loss(data['val_loss'])}" if data.get("val_loss") is not None else "",
    )


def _reason(data: Data) -> str:
    reason = data.get("reason") or data.get("error") or data.get("message") or ""
    if isinstance(reason, Mapping):
        return str(reason.get("message") or reason.get("code") or "")
    return str(reason)


def _with_reason(data: Data) -> str:
    return ": ".join(part for part in (_named_step(data), _reason(data)) if part)


def _queued(data: Data) -> str:
    rows = numbers.count(int(data["rows"]), "example") if data.get("rows") else ""
    return _join(_name(data), rows, "tried again" if data.get("again") else "")


def _by(data: Data) -> str:
    return f"by {data['by']}" if data.get("by") not in (None, "", "ledger") else ""


def _requeued(data: Data) -> str:
    wait = data.get("retry_in_s")
    return _with_reason(data) + (f" Next try in {numbers.span(float(wait))}." if wait else "")


def _checkpoint(data: Data) -> str:
    return _join(
        f"Step {numbers.whole(data['step'])}" if data.get("step") is not None else _name(data),
        numbers.size(data["size"]) if data.get("size") else "",
        _loss(data),
    )


def _evaluation(data: Data) -> str:
    if data.get("total"):
        share = numbers.percent(int(data.get("correct", 0)) / int(data["total"]))
        score = f"{numbers.whole(data.get('correct', 0))} of {numbers.whole(data['total'])} right ({share} %)"
    else:
        score = ""
    what = " ".join(
        part
        for part in (
            str(data.get("skill") or "").upper(),
            f"L{data['level']}" if data.get("level") is not None else "",
            str(SPLITS.get(str(data.get("split")), data.get("split") or "")),
        )
        if part
    )
    return _join(": ".join(part for part in (what, score) if part), _at_step(data))


SPLITS = {"known": "known", "heldout": "held out"}
CONTRASTS = {"direct": "Direct answers"}


def contrast(tag: str) -> str:
    """Say what a set beside the level's own shows."""
    return CONTRASTS.get(tag, tag.replace("_", " ").replace("-", " ").capitalize())


def _level(data: Data) -> str:
    return _at_step(data).capitalize()


def _champion(data: Data) -> str:
    return _join(
        f"Step {numbers.whole(data['step'])} leads" if data.get("step") is not None else _name(data),
        f"val loss {numbers.loss(data['val_loss'])}" if data.get("val_loss") is not None else "",
        _by(data),
    )


def _nonfinite(data: Data) -> str:
    norm = data.get("grad_norm")
    return _join(_at_step(data).capitalize(), f"grad norm {numbers.rate(norm)}" if norm is not None else "")


def _moved(data: Data) -> str:
    return f"{_name(data)} to {data.get('priority', 'another place')}"


def _service(data: Data) -> str:
    name = str(data.get("service") or data.get("name") or "")
    return ": ".join(part for part in (service(name, plain=False) if name else "", _reason(data)) if part)


def _command(data: Data) -> str:
    effect = data.get("effect")
    if isinstance(effect, Mapping):
        effect = effect.get("message") or effect.get("detail") or effect.get("state")
    return _join(str(data.get("verb") or ""), str(effect or data.get("state") or ""), _by(data))


def _held(data: Data) -> str:
    return " ".join(part for part in (str(data.get("reason") or ""), _by(data)) if part)


def _named_text(data: Data) -> str:
    return ": ".join(part for part in (_name(data), str(data.get("text") or data.get("reason") or "")) if part)


def _phase(data: Data) -> str:
    phase = str(data.get("phase") or "")
    return ": ".join(part for part in (PHASES.get(phase, phase), _name(data)) if part)


EVENTS: dict[str, EventTerm] = {
    "hero_created": EventTerm("A hero enters the hall", "Model added", "star", "brass", _name),
    "job_arrived": EventTerm("A scroll arrives", "File arrived", "quests", "muted", _name),
    "job_queued": EventTerm("Quest posted", "Job queued", "quests", "brass", _queued),
    "job_refused": EventTerm("Quest turned away", "Job refused", "cross", "rose", _with_reason),
    "job_started": EventTerm("Battle begins", "Run started", "sword", "ember", _named_step),
    "job_resumed": EventTerm("Battle resumed", "Run resumed", "sword", "ember", _named_step),
    "job_completed": EventTerm("Quest complete", "Job completed", "flag", "moss", lambda d: _join(_name(d), _loss(d))),
    "job_failed": EventTerm("Quest lost", "Job failed", "skull", "rose", _with_reason),
    "job_requeued": EventTerm("Back to the board", "Job requeued", "schedule", "sky", _requeued),
    "job_skipped": EventTerm("Quest skipped", "Job skipped", "more", "muted", _named_step),
    "job_cancelled": EventTerm("Quest withdrawn", "Job cancelled", "cross", "muted", lambda d: _join(_name(d), _by(d))),
    "job_moved": EventTerm("Quest moved", "Job moved", "move", "muted", _moved),
    "run_phase": EventTerm("Battle", "Run", "sword", "ember", _phase),
    "run_paused": EventTerm("Battle paused", "Run paused", "pause", "sky", _named_step),
    "run_resumed": EventTerm("Battle resumed", "Run resumed", "play", "ember", _named_step),
    "run_resumed_after_crash": EventTerm(
        "Back on his feet", "Run resumed after a crash", "sword", "ember", _named_step
    ),
    "checkpoint_saved": EventTerm("Placed in the Vault", "Checkpoint saved", "vault", "brass", _checkpoint),
    "checkpoint_quarantined": EventTerm(
        "Set aside", "Checkpoint quarantined", "warn", "rose", lambda d: _join(_checkpoint(d), _reason(d))
    ),
    "checkpoint_missing": EventTerm("Gone from the shelf", "Checkpoint missing", "warn", "rose", _checkpoint),
    "checkpoint_verified": EventTerm("Found again", "Checkpoint verified", "vault", "moss", _checkpoint),
    "checkpoint_deleted": EventTerm("Cleared from the Vault", "Checkpoint deleted", "trash", "muted", _checkpoint),
    "evaluation_recorded": EventTerm("Trial", "Evaluation", "shield", "sky", _evaluation),
    "level_reached": EventTerm("Level reached", "1,000 steps more", "level", "moss", _level),
    "champion_changed": EventTerm("New champion", "New best checkpoint", "crown", "brass", _champion),
    "nonfinite": EventTerm("Cursed: the loss is not a number", "Loss is not finite", "flask", "violet", _nonfinite),
    "rollback": EventTerm("The curse is lifted", "Rolled back", "flask", "violet", _named_step),
    "out_of_memory": EventTerm("Out of memory", "Out of memory", "skull", "rose", _with_reason),
    "disk_full": EventTerm("No room left", "Disk full", "warn", "rose", _with_reason),
    "disk_has_room": EventTerm("Room again", "Disk has room", "check", "moss", _named_step),
    "loss_spike": EventTerm("A heavy blow", "Loss spike", "warn", "rose", _named_step),
    "queue_held": EventTerm("Queue held", "Queue held", "pause", "sky", _held),
    "queue_released": EventTerm("Queue released", "Queue released", "play", "moss", _by),
    "command_applied": EventTerm("Order carried out", "Command applied", "check", "muted", _command),
    "service_started": EventTerm("Service started", "Service started", "spider", "muted", _service),
    "service_up": EventTerm("Service stands ready", "Service up", "spider", "moss", _service),
    "service_down": EventTerm("Service down", "Service down", "spider", "rose", _service),
    "service_broken": EventTerm("Service will not stay up", "Service broken", "spider", "rose", _service),
    "model_missing": EventTerm("The base model is missing", "Base model missing", "warn", "rose", _with_reason),
    "view_restored": EventTerm("File put back", "File put back", "move", "muted", _named_text),
    "file_known": EventTerm("Fought before", "File known", "check", "muted", _named_text),
    "file_waits": EventTerm("A file waits at the door", "File waits", "warn", "sky", _named_text),
    "file_left": EventTerm("Left at the door", "File left alone", "warn", "muted", _named_text),
    "file_quarantined": EventTerm("File set aside", "File quarantined", "warn", "rose", _with_reason),
}
# Kinds that the Chronicle leaves out unless asked: they repeat what other lines say.
QUIET = ("run_phase", "command_applied", "job_arrived", "service_started")
# What the Chronicle's filter offers.
GROUPS = {
    "quests": Term("Quests", "Jobs"),
    "battles": Term("Battles", "Runs"),
    "vault": Term("Vault", "Checkpoints"),
    "trials": Term("Trials", "Evaluations"),
    "trouble": Term("Trouble", "Trouble"),
    "services": Term("Services", "Services"),
}
_GROUP_PREFIXES: dict[str, tuple[str, ...]] = {
    "quests": ("job_", "queue_"),
    "battles": ("run_", "job_started", "job_resumed", "job_completed", "level_", "rollback", "nonfinite"),
    "vault": ("checkpoint_", "champion_"),
    "trials": ("evaluation_", "level_"),
    "trouble": (
        "job_failed",
        "job_refused",
        "job_requeued",
        "nonfinite",
        "rollback",
        "out_of_memory",
        "disk_full",
        "service_down",
        "service_broken",
        "checkpoint_quarantined",
        "file_quarantined",
    ),
    "services": ("service_", "command_"),
}


_AWAY = {
    "level_reached": ("level", "level"),
    "job_completed": ("quest won", "job completed"),
    "champion_changed": ("new champion", "new best checkpoint"),
    "checkpoint_saved": ("checkpoint", "checkpoint"),
    "job_failed": ("quest lost", "job failed"),
    "job_refused": ("quest turned away", "job refused"),
}
_MANY = {
    "quest won": "quests won",
    "job completed": "jobs completed",
    "quest lost": "quests lost",
    "job failed": "jobs failed",
}
_MANY |= {"quest turned away": "quests turned away", "job refused": "jobs refused"}


MILESTONES = tuple(_AWAY)


def summary(counts: Mapping[str, int], plain: bool) -> str:
    """Return what happened in one line: "3 levels, 2 quests won, 1 new champion". Empty when nothing did."""
    parts = []
    for kind, words in _AWAY.items():
        if counts.get(kind):
            one = words[1] if plain else words[0]
            parts.append(numbers.count(counts[kind], one, _MANY.get(one)))
    return ", ".join(parts)


def group_kinds(group: str) -> list[str]:
    """Return the kinds of event that a filter of the Chronicle shows."""
    prefixes = _GROUP_PREFIXES[group]
    return [kind for kind in EVENTS if kind.startswith(prefixes)]


def event_words(kind: str, data: Data, subject: str = "") -> EventWords:
    """Return what an event says. A kind that has no entry is told by its own name; a service by its subject."""
    if kind.startswith("service_"):
        data = {"service": subject, **data}
    term = EVENTS.get(kind)
    if term is None:
        title = kind.replace("_", " ").capitalize()
        return {"title": title, "text": _with_reason(data), "icon": "star", "tone": "muted", "plain_title": title}
    title, plain = term.game, term.plain
    if kind == "level_reached" and data.get("level") is not None:
        title = plain = f"Level {numbers.whole(data['level'])} reached"
    return {"title": title, "text": term.text(data), "icon": term.icon, "tone": term.tone, "plain_title": plain}
