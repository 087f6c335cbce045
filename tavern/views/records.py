"""One run, and the shelf of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tavern import lore, numbers
from tavern.views.shell import Preferences
from vault.records import Checkpoint, Evaluation, Hero, Job, Run


@dataclass(frozen=True)
class Score:
    set_name: str
    split: str
    step: str
    score: str
    percent: str
    share: float
    wrong: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Shelf:
    """One checkpoint in a table."""

    id: str
    name: str
    step: str
    train_loss: str
    val_loss: str
    best_train: bool
    best_val: bool
    run_id: str
    trained_on: str
    champion: bool
    champion_by: str
    pinned: bool
    status: str
    size: str
    when: str
    iso: str
    can_promote: bool


@dataclass(frozen=True)
class RunPage:
    id: str
    job_id: str
    name: str
    phase: str
    outcome: str
    tone: str
    icon: str
    active: bool
    error: str
    hint: str
    facts: list[tuple[str, str]]
    chart: dict[str, Any]
    chart_label: str
    scores: list[Score]
    checkpoints: list[Shelf]
    attempts: list[tuple[str, str, str, str]]
    log_tail: str


@dataclass(frozen=True)
class VaultPage:
    checkpoints: list[Shelf]
    more: str
    total: str
    hero: str


def build_run(
    run: Run,
    job: Job,
    hero: Hero,
    prefs: Preferences,
    *,
    chart: dict[str, Any],
    evaluations: Sequence[Evaluation],
    checkpoints: Sequence[Checkpoint],
    attempts: Sequence[dict[str, Any]],
    log_tail: str,
) -> RunPage:
    term = lore.JOB_STATES.get(run.outcome or "processing", lore.JOB_STATES["processing"])
    error = run.error or {}
    last = numbers.loss(chart["smooth"][-1]) if chart["smooth"] else numbers.NONE
    facts = [
        ("Steps", f"{numbers.whole(run.step)} of {numbers.whole(run.max_steps)}"),
        ("Hero steps", f"{numbers.whole(run.hero_step_start)} to {numbers.whole(run.hero_step_start + run.step)}"),
        ("Train loss", numbers.loss(run.train_loss)),
        ("Val loss", numbers.loss(run.val_loss)),
        ("Tokens", numbers.whole(run.tokens)),
        ("Time in steps", numbers.span(run.train_seconds)),
        ("Started", numbers.date(run.started_at)),
        ("Ended", numbers.date(run.finished_at)),
    ]
    return RunPage(
        id=run.id,
        job_id=run.job_id,
        name=job.name,
        phase=lore.PHASES.get(run.phase, run.phase),
        outcome=term.word(prefs.plain) if run.outcome else lore.PHASES.get(run.phase, run.phase),
        tone=term.tone,
        icon=term.icon,
        active=run.outcome is None,
        error=str(error.get("message") or ""),
        hint=str(error.get("hint") or ""),
        facts=facts,
        chart=chart,
        chart_label=f"Training loss by step, last {last}.",
        scores=[_score(evaluation) for evaluation in evaluations],
        checkpoints=shelf(checkpoints, hero, {run.id: job.name}),
        attempts=[_attempt(attempt) for attempt in attempts],
        log_tail=log_tail,
    )


def _score(evaluation: Evaluation) -> Score:
    wrong = evaluation.details.get("wrong") or []
    return Score(
        set_name=f"{evaluation.skill.upper()} L{evaluation.level}"
        + (f", {lore.contrast(evaluation.contrast).lower()}" if evaluation.contrast else ""),
        split=lore.SPLITS.get(evaluation.split, evaluation.split),
        step=numbers.whole(evaluation.step),
        score=f"{numbers.whole(evaluation.correct)} of {numbers.whole(evaluation.total)}",
        percent=numbers.percent(evaluation.accuracy),
        share=evaluation.accuracy,
        wrong=[(str(w.get("prompt")), str(w.get("expected")), str(w.get("got"))) for w in wrong if isinstance(w, dict)][
            :20
        ],
    )


def _attempt(attempt: dict[str, Any]) -> tuple[str, str, str, str]:
    error = attempt.get("error") or {}
    return (
        numbers.whole(attempt["attempt"]),
        numbers.date(attempt["started_at"]),
        str(attempt.get("outcome") or "in progress"),
        str(error.get("message") or ""),
    )


def build_vault(
    checkpoints: Sequence[Checkpoint], hero: Hero | None, names: dict[str, str], cursor: int | None
) -> VaultPage:
    return VaultPage(
        checkpoints=shelf(checkpoints, hero, names),
        more=f"/vault?before={cursor}" if cursor else "",
        total=f"{numbers.count(len(checkpoints), 'checkpoint')}, {numbers.size(sum(c.size for c in checkpoints))}",
        hero=hero.name if hero else "",
    )


def shelf(checkpoints: Sequence[Checkpoint], hero: Hero | None, names: dict[str, str]) -> list[Shelf]:
    """Return table rows; the best of those shown are marked."""
    trains = [c.train_loss for c in checkpoints if c.train_loss is not None]
    vals = [c.val_loss for c in checkpoints if c.val_loss is not None]
    best_train, best_val = min(trains, default=None), min(vals, default=None)
    return [
        Shelf(
            id=c.id,
            name=c.name,
            step=numbers.whole(c.step),
            train_loss=numbers.loss(c.train_loss),
            val_loss=numbers.loss(c.val_loss),
            best_train=c.train_loss is not None and c.train_loss == best_train,
            best_val=c.val_loss is not None and c.val_loss == best_val,
            run_id=c.run_id,
            trained_on=names.get(c.run_id, ""),
            champion=hero is not None and hero.champion_id == c.id,
            champion_by=str(hero.champion_by or "") if hero is not None and hero.champion_id == c.id else "",
            pinned=bool(c.pinned),
            status="" if c.status == "verified" else c.status,
            size=numbers.size(c.size),
            when=numbers.date(c.created_at),
            iso=numbers.iso(c.created_at),
            can_promote=c.status == "verified" and hero is not None and hero.champion_id != c.id,
        )
        for c in checkpoints
    ]
