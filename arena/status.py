"""How the realm stands now: hero, battle, queue, services, machine, and what a person should know.

One function of the ledger and the run directories, without torch or a web framework, so that the command line, the
API and the event stream all tell the same. Every number can be traced to a row.
"""

from __future__ import annotations

import time
from typing import Any

import realm
from arena.machine import Machine
from realm.services import weaver_identity
from realm.settings import Settings
from vault.records import STEPS_PER_LEVEL, Checkpoint, Evaluation, Hero, Job, Run
from vault.store import Vault

PACE_STEPS = 50
"""Steps over which the pace is taken."""
_WORKING = ("preparing", "loading", "tokenizing", "training", "evaluating", "saving", "paused")


def build_status(
    vault: Vault,
    settings: Settings,
    *,
    services: list[dict[str, Any]] | None = None,
    machine: Machine | None = None,
    now: float | None = None,
) -> dict[str, Any]:
    """Return the whole status as plain JSON values. `services` come from whoever supervises them."""
    now = time.time() if now is None else now
    heroes = {hero.id: hero for hero in vault.ledger.heroes()}
    hero = heroes.get(settings.hero) or next(iter(heroes.values()), None)
    processing = vault.jobs.processing()
    battle = _battle(vault, processing[0]) if processing else None
    if battle and _all_stopped(services):
        battle |= {"state": "paused", "eta_s": None}
    queue = _queue(vault, battle)
    reading = (machine or Machine()).read(settings.home)
    return {
        "at": now,
        "realm": {"home": str(settings.home), "version": realm.__version__},
        "hero": _hero(vault, hero) if hero else None,
        "battle": battle,
        "queue": queue,
        "services": services or [],
        "machine": reading,
        "notices": [
            *_notices(vault, settings, queue, services or [], reading),
            *_model_notices(settings, queue, hero),
            *_stopped_notices(battle, services),
        ],
    }


def _hero(vault: Vault, hero: Hero) -> dict[str, Any]:
    stats = vault.ledger.stats(hero.id)
    champion, latest = vault.ledger.champion(hero.id), vault.ledger.latest(hero.id)
    return {
        "id": hero.id,
        "name": hero.name,
        "trainer": hero.trainer,
        "model": hero.model,
        "xp": stats.xp,
        "level": stats.level,
        "xp_into_level": stats.xp_into_level,
        "xp_per_level": STEPS_PER_LEVEL,
        "atk": stats.atk,
        "train_loss": stats.train_loss,
        "def": stats.defence,
        "val_loss": stats.val_loss,
        "acc": stats.acc,
        "acc_correct": stats.acc_correct,
        "acc_total": stats.acc_total,
        "gold": stats.gold,
        "completed": stats.completed,
        "champion": _checkpoint(champion),
        "latest_checkpoint": _checkpoint(latest),
        "skills": _skills(vault.ledger.latest_evaluations(hero.id)),
    }


def _skills(evaluations: Any) -> list[dict[str, Any]]:
    """One entry per skill and level, known and held-out results kept apart, sets for contrast below them."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for evaluation in evaluations:
        key = (evaluation.skill, evaluation.level)
        fresh: dict[str, Any] = {"skill": key[0], "level": key[1], "known": None, "heldout": None, "contrast": {}}
        entry = found.setdefault(key, fresh)
        if evaluation.contrast is None:
            entry[evaluation.split] = _evaluation(evaluation)
        else:
            entry["contrast"].setdefault(evaluation.contrast, {})[evaluation.split] = _evaluation(evaluation)
    return [found[key] for key in sorted(found)]


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "id": evaluation.id,
        "correct": evaluation.correct,
        "total": evaluation.total,
        "accuracy": evaluation.accuracy,
        "step": evaluation.step,
        "run_id": evaluation.run_id,
    }


def _checkpoint(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return None
    return {
        "id": checkpoint.id,
        "name": checkpoint.name,
        "step": checkpoint.step,
        "val_loss": checkpoint.val_loss,
        "train_loss": checkpoint.train_loss,
        "created_at": checkpoint.created_at,
    }


def _battle(vault: Vault, job: Job) -> dict[str, Any] | None:
    if job.run_id is None:
        return None
    run = vault.ledger.run(job.run_id)
    latest = vault.metrics.latest(run.id)
    pace = _pace(vault, run)
    step = max(run.step, latest["loss"][0] if "loss" in latest else 0)
    return {
        "run_id": run.id,
        "job_id": job.id,
        "name": job.name,
        "state": run.phase if run.phase in _WORKING else "training",
        "skill": job.skill,
        "level": job.level,
        "trainer": run.trainer,
        "step": run.hero_step_start + step,
        "run_step": step,
        "max_steps": run.max_steps,
        "loss": _value(latest, "loss"),
        "loss_smooth": _value(latest, "loss_smooth"),
        "val_loss": _value(latest, "val_loss"),
        "lr": _value(latest, "lr"),
        "grad_norm": _value(latest, "grad_norm"),
        "steps_per_s": pace,
        "eta_s": _eta(step, run.max_steps, pace),
        "started_at": run.started_at,
        "attempt": job.attempts,
    }


def _value(latest: dict[str, tuple[int, float]], name: str) -> float | None:
    return latest[name][1] if name in latest else None


def _pace(vault: Vault, run: Run) -> float | None:
    """Steps a second over the newest steps: the median keeps saves and evaluations out of it."""
    durations = sorted(point.value for point in vault.metrics.series(run.id, "step_s", last_steps=PACE_STEPS))
    middle = durations[len(durations) // 2] if durations else 0.0
    return 1.0 / middle if middle > 0 else None


def _eta(step: int, max_steps: int | None, pace: float | None) -> list[float] | None:
    """A range: at the pace of the newest steps, and a fifth longer for evaluations and saves."""
    if not max_steps or not pace:
        return None
    seconds = max(0, max_steps - step) / pace
    return [round(seconds, 1), round(seconds * 1.2 + 1.0, 1)]


def _queue(vault: Vault, battle: dict[str, Any] | None) -> dict[str, Any]:
    waiting = vault.jobs.waiting(20)
    counts = vault.jobs.counts()
    pace = battle["steps_per_s"] if battle else None
    planned = [job.planned_steps for job in waiting]
    eta = None
    if battle and battle["eta_s"] and pace and counts.get("queued", 0) == len(waiting) and all(planned):
        eta = round(battle["eta_s"][1] + sum(steps or 0 for steps in planned) / pace, 1)
    return {
        "held": vault.jobs.held(),
        "waiting": counts.get("queued", 0),
        "failed": counts.get("failed", 0) + counts.get("refused", 0),
        "completed": counts.get("completed", 0),
        "jobs": [_job(job) for job in waiting],
        "eta_s": eta if waiting else (battle["eta_s"][1] if battle and battle["eta_s"] else None),
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "priority": job.priority,
        "skill": job.skill,
        "level": job.level,
        "trainer": job.trainer,
        "rows": job.rows,
        "planned_steps": job.planned_steps,
        "state": job.state,
        "reason": job.reason,
        "not_before": job.not_before,
    }


def _notices(
    vault: Vault,
    settings: Settings,
    queue: dict[str, Any],
    services: list[dict[str, Any]],
    reading: dict[str, Any],
) -> list[dict[str, str]]:
    """What a person should know or do, most pressing first."""
    notices = []
    floor = settings.arena.disk_floor_mib << 20
    free = reading["disk"]["free"]
    if free < floor:
        words = f"Only {free >> 20} MiB are free; saves wait until there are {floor >> 20} MiB."
        notices.append(_notice("error", "disk_full", words, "Free some space; training goes on by itself."))
    for service in services:
        if service["state"] == "broken":
            words = f"{service['name']} keeps falling down: {service['detail'] or 'no message'}"
            notices.append(_notice("error", "service_broken", words, "It is tried again; see `realm doctor`."))
    if any(service["state"] != "stopped" for service in services) and weaver_identity(settings.paths) is None:
        words = "The Weaver does not run: a service that falls down stays down."
        notices.append(_notice("error", "weaver_down", words, "Say `realm up`; it interrupts nothing."))
    waiting_for_room = list(vault.events.list(kinds=("disk_full", "disk_has_room"), limit=1, newest_first=True))
    if waiting_for_room and waiting_for_room[0].kind == "disk_full" and vault.jobs.processing():
        needed = waiting_for_room[0].data.get("needed")
        room = f"{int(needed) >> 20} MiB are needed" if needed else "room is needed"
        notices.append(_notice("error", "save_waits", f"A save waits for disk space: {room}.", "Free some space."))
    if queue["held"]:
        held = queue["held"]
        words = f"The queue was {held['reason']} by {held['by']}."
        notices.append(_notice("warning", "queue_held", words, "Resume to go on."))
    return notices


def _model_notices(settings: Settings, queue: dict[str, Any], hero: Hero | None) -> list[dict[str, str]]:
    """Say why quests wait while there is no model to train."""
    if hero is None or not queue["waiting"] or (settings.home / hero.model_dir / "config.json").is_file():
        return []
    words = f"Jobs wait: {hero.name}'s model {hero.model} is not in {hero.model_dir} yet."
    action = "A squire is built there by itself (logs/forge.log); any other model must be put there."
    return [_notice("warning", "model_missing", words, action)]


def _stopped_notices(battle: dict[str, Any] | None, services: list[dict[str, Any]] | None) -> list[dict[str, str]]:
    if battle is None or not _all_stopped(services):
        return []
    words = f"The realm is stopped; {battle['name']} goes on from its newest checkpoint."
    return [_notice("warning", "realm_stopped", words, "Say `realm up`.")]


def _all_stopped(services: list[dict[str, Any]] | None) -> bool:
    return bool(services) and all(service["state"] == "stopped" for service in services or [])


def _notice(level: str, code: str, text: str, action: str) -> dict[str, str]:
    return {"level": level, "code": code, "text": text, "action": action}
