"""The Tavern itself: the hall, the battle bar, the hero, the loss, what is next, what happened, the machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tavern import lore, numbers
from tavern.views.events import Line, loud
from tavern.views.quests import QuestRow, row_from_status
from tavern.views.shell import BATTLING, Preferences, Status, realm_state
from tavern.views.skills import SkillView
from vault.records import Event

ARENAS = {"wraith": "library", "golem": "foundry", "mirror": "ring", "mimic": "library", "slime": "glade"}
MOODS = {"down": "down", "paused": "rest", "held": "rest", "resting": "rest", "new": "rest", "waiting": "rest"}
LOG_LINES = 40


@dataclass(frozen=True)
class Banner:
    icon: str
    title: str
    text: str
    action: str
    """"new-quest", "resume", "" or an address."""
    action_label: str = ""


@dataclass(frozen=True)
class Hall:
    label: str
    arena: str
    pose: str
    foe: str
    banner: Banner | None


@dataclass(frozen=True)
class Battle:
    """The bar under the hall."""

    active: bool
    paused: bool
    can_save: bool
    run_id: str
    job_id: str
    foe: str
    name: str
    phase: str
    left: str
    left_share: float
    done_steps: str
    max_steps: int | None
    run_step: int


@dataclass(frozen=True)
class Stat:
    key: str
    label: str
    icon: str
    tone: str
    value: str
    raw_label: str
    raw: str
    raw_key: str


@dataclass(frozen=True)
class HeroView:
    id: str
    name: str
    model: str
    mood: str
    stone: bool
    champion: str
    champion_href: str
    level: str
    xp: str
    xp_share: float
    xp_total: int
    next_level: str
    completed: str
    stats: list[Stat]
    skills: list[SkillView]


@dataclass(frozen=True)
class Gauge:
    label: str
    value: str
    share: float
    tone: str
    key: str


@dataclass(frozen=True)
class Machine:
    icon: str
    name: str
    about: str
    gauges: list[Gauge]
    heat: str


@dataclass(frozen=True)
class ServiceView:
    name: str
    mark: str
    note: str


@dataclass(frozen=True)
class ChartLegend:
    train: str
    val: str
    gap: str
    grad_norm: str
    lr: str
    label: str


@dataclass(frozen=True)
class Home:
    hall: Hall
    battle: Battle
    hero: HeroView | None
    legend: ChartLegend
    chart: dict[str, Any]
    quests: list[QuestRow]
    waiting: int
    held: str
    log: list[Line]
    machines: list[Machine]
    services: list[ServiceView]


def build_home(
    status: Status,
    prefs: Preferences,
    events: Sequence[Event],
    chart: dict[str, Any],
    skills: list[SkillView],
) -> Home:
    state = realm_state(status)
    plain = prefs.plain
    held = status["queue"].get("held")
    queued = [job for job in status["queue"]["jobs"] if job.get("state", "queued") == "queued"]
    return Home(
        hall=_hall(status, state, plain),
        battle=_battle(status, state, plain),
        hero=_hero(status, state, plain, skills),
        legend=_legend(status, chart),
        chart=chart,
        quests=[row_from_status(job, plain) for job in queued],
        waiting=int(status["queue"]["waiting"]),
        held=_held(held),
        log=loud(list(events), plain, LOG_LINES),
        machines=_machines(status["machine"]),
        services=[_service(service, plain) for service in status["services"]],
    )


def _held(held: dict[str, Any] | None) -> str:
    """Say who holds the queue, and since when: "Paused by the owner since 22:59."."""
    if not held:
        return ""
    by = f" by {held['by']}" if held.get("by") else ""
    return f"{str(held.get('reason') or 'held').capitalize()}{by} since {numbers.clock(held.get('at'))}."


def _hall(status: Status, state: str, plain: bool) -> Hall:
    battle = status.get("battle")
    hero = status["hero"]["name"] if status.get("hero") else "DIO"
    if battle is None:
        pose = "hurt" if state == "down" else "rest0"
        label = f"{hero} rests by the hearth." if pose == "rest0" else f"{hero} is down."
        return Hall(label, "night", pose, "", _banner(status, state, hero, plain))
    foe = lore.foe(str(battle["name"]), battle.get("skill"), battle.get("max_steps"))
    pose = {"paused": "idle0", "down": "hurt"}.get(state, "idle0")
    label = f"{hero} and the {foe.name}: {battle['name']}."
    return Hall(label, ARENAS.get(foe.sprite, "glade"), pose, foe.sprite, _banner(status, state, hero, plain))


def _banner(status: Status, state: str, hero: str, plain: bool) -> Banner | None:
    if state == "down":
        arena = next(s for s in status["services"] if s["name"] in ("arena", "daemon"))
        latest = (status.get("hero") or {}).get("latest_checkpoint")
        safe = f" Checkpoint {numbers.whole(latest['step'])} is safe." if latest else ""
        text = f"{arena.get('detail') or 'The arena does not run'}.{safe}".replace("..", ".")
        return Banner(
            "skull",
            "The daemon is down" if plain else f"{hero} is down",
            text,
            "/chronicle?show=services",
            "Read the log",
        )
    if state == "resting":
        title = "The queue is empty" if plain else "The quest board is empty"
        text = "Nothing waits." if plain else f"{hero} rests by the hearth. Drop a training file to send him out again."
        return Banner("tavern", title, text, "new-quest", "New job" if plain else "New quest")
    if state == "new":
        title = "No model has been trained yet" if plain else f"{hero} has not fought yet"
        return Banner(
            "tavern",
            title,
            "Drop a training file anywhere, or make a first quest.",
            "new-quest",
            "New job" if plain else "New quest",
        )
    if state == "held":
        return Banner("pause", "The queue is held", _held(status["queue"]["held"]), "resume", "Resume")
    if state == "waiting":
        return Banner(
            "schedule", "A job waits" if plain else "A quest waits at the door", "The arena takes it next.", ""
        )
    return None


def _battle(status: Status, state: str, plain: bool) -> Battle:
    battle = status.get("battle")
    if battle is None:
        return Battle(
            False, False, False, "", "", "No job" if plain else "No quest", "", "", numbers.NONE, 0.0, "", None, 0
        )
    step, most = int(battle.get("run_step") or 0), battle.get("max_steps")
    left = max(0, int(most) - step) if most else None
    foe = lore.foe(str(battle["name"]), battle.get("skill"), most)
    return Battle(
        active=True,
        paused=state == "paused",
        can_save=state in BATTLING or state == "paused",
        run_id=str(battle["run_id"]),
        job_id=str(battle["job_id"]),
        foe="Job" if plain else foe.name,
        name=str(battle["name"]),
        phase=lore.PHASES.get(str(battle["state"]), str(battle["state"])),
        left=numbers.whole(left),
        left_share=left / int(most) if most and left is not None else 0.0,
        done_steps=numbers.whole(step),
        max_steps=int(most) if most else None,
        run_step=step,
    )


def _hero(status: Status, state: str, plain: bool, skills: list[SkillView]) -> HeroView | None:
    hero = status.get("hero")
    if hero is None:
        return None
    battle = status.get("battle") or {}
    loss = battle.get("loss_smooth") or hero.get("train_loss")
    val = battle.get("val_loss") or hero.get("val_loss")
    champion = hero.get("champion")
    pace = battle.get("steps_per_s")
    left = int(hero["xp_per_level"]) - int(hero["xp_into_level"])
    return HeroView(
        id=str(hero["id"]),
        name=str(hero["name"]),
        model=str(hero["model"]),
        mood=MOODS.get(state, "fight"),
        stone=False,
        champion=numbers.whole(champion["step"]) if champion else "",
        champion_href=f"/vault#{champion['id']}" if champion else "",
        level=numbers.whole(hero["level"]),
        xp=numbers.whole(hero["xp_into_level"]),
        xp_share=int(hero["xp_into_level"]) / int(hero["xp_per_level"]),
        xp_total=int(hero["xp"]),
        next_level=f"Next in {numbers.span(left / pace)}"
        if pace and state != "paused"
        else f"{numbers.whole(left)} steps to the next",
        completed=numbers.count(int(hero["completed"]), "job" if plain else "quest")
        + (" completed" if plain else " won"),
        stats=_stats(hero, loss, val, plain),
        skills=skills,
    )


def _stats(hero: dict[str, Any], loss: float | None, val: float | None, plain: bool) -> list[Stat]:
    word = {key: lore.TERMS[key] for key in ("atk", "def", "acc", "gold")}
    acc_total = int(hero.get("acc_total") or 0)
    rows = (
        ("atk", numbers.stat(1 / loss if loss else None), "loss", numbers.loss(loss), "loss"),
        ("def", numbers.stat(1 / val if val else None), "val loss", numbers.loss(val), "val"),
        (
            "acc",
            numbers.percent(hero.get("acc")),
            "held out" if acc_total else "no",
            f"{numbers.whole(hero['acc_correct'])}/{numbers.whole(acc_total)}" if acc_total else "eval yet",
            "acc_counts",
        ),
        (
            "gold",
            numbers.whole(hero["gold"]),
            "jobs" if plain else "quests",
            f"{numbers.whole(hero['completed'])} x 100",
            "completed",
        ),
    )
    return [
        Stat(key, word[key].word(plain), word[key].icon, word[key].tone, value, raw_label, raw, raw_key)
        for key, value, raw_label, raw, raw_key in rows
    ]


def _legend(status: Status, chart: dict[str, Any]) -> ChartLegend:
    battle = status.get("battle") or {}
    hero = status.get("hero") or {}
    loss = battle.get("loss_smooth") or hero.get("train_loss") or _last(chart["smooth"])
    val = battle.get("val_loss") or hero.get("val_loss") or (chart["val"][-1][1] if chart["val"] else None)
    gap = val - loss if loss is not None and val is not None else None
    return ChartLegend(
        train=numbers.loss(loss),
        val=numbers.loss(val),
        gap=numbers.loss(gap),
        grad_norm=numbers.fixed(battle.get("grad_norm"), 2),
        lr=numbers.rate(battle.get("lr")),
        label=f"Training loss by step, now {numbers.loss(loss)}; validation loss {numbers.loss(val)}.",
    )


def _last(values: list[float | None]) -> float | None:
    return values[-1] if values else None


def _machines(machine: dict[str, Any]) -> list[Machine]:
    memory, disk = machine["memory"], machine["disk"]
    cpus, load = machine.get("cpus") or 1, machine.get("load")
    load = load[0] if isinstance(load, list | tuple) else load
    used_disk = disk["total"] - disk["free"]
    gauges = [
        Gauge("Load", f"{numbers.fixed(load, 1)} / {cpus}", min(1.0, (load or 0.0) / cpus), "ember", "load"),
        Gauge(
            "Memory",
            f"{_gib(memory['used'])}/{_gib(memory['total'])} GiB",
            _share(memory["used"], memory["total"]),
            "brass",
            "memory",
        ),
        Gauge(
            "Disk free",
            numbers.size(disk["free"]),
            _share(used_disk, disk["total"]),
            "rose" if _share(used_disk, disk["total"]) > 0.9 else "sky",
            "disk",
        ),
    ]
    found = [Machine("chip", "This machine", numbers.count(int(cpus), "core"), gauges, "")]
    for gpu in machine.get("gpus") or []:
        index = gpu.get("index", 0)
        busy = gpu.get("busy_percent")
        heat = gpu.get("temperature_c")
        found.append(
            Machine(
                "chip",
                str(gpu.get("name") or f"GPU {index}"),
                f"GPU {index}",
                [
                    Gauge("GPU", f"{numbers.whole(busy)}%", (busy or 0) / 100, "ember", f"gpu{index}"),
                    Gauge(
                        "VRAM",
                        f"{_gib(gpu.get('memory_used'))}/{_gib(gpu.get('memory_total'))} GiB",
                        _share(gpu.get("memory_used"), gpu.get("memory_total")),
                        "brass",
                        f"vram{index}",
                    ),
                ],
                f"{numbers.whole(heat)}" if heat is not None else "",
            )
        )
    return found


def _share(part: float | None, whole: float | None) -> float:
    return max(0.0, min(1.0, part / whole)) if part is not None and whole else 0.0


def _gib(size: float | None) -> str:
    return numbers.fixed(size / 2**30 if size is not None else None, 1)


def _service(service: dict[str, Any], plain: bool) -> ServiceView:
    mark, note = lore.SERVICE_STATES.get(str(service["state"]), ("idle", str(service["state"])))
    detail = str(service.get("detail") or "") if mark else ""
    return ServiceView(lore.service(str(service["name"]), plain), mark, detail or note)
