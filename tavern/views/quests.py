"""Jobs: the queue and its history, and one job with its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arena.formats.kinds import REASONS
from tavern import lore, numbers
from tavern.views.events import Line
from tavern.views.shell import Preferences, Status
from vault.records import PRIORITIES, Job, Run

SHOWN_EXAMPLES = 3
SHOWN_REJECTS = 20


@dataclass(frozen=True)
class QuestRow:
    """A waiting job, as it stands in lists."""

    id: str
    name: str
    foe: str
    sprite: str
    about: str
    priority: str
    priority_word: str
    tone: str
    higher: str
    lower: str


@dataclass(frozen=True)
class Ended:
    id: str
    name: str
    state: str
    icon: str
    tone: str
    reason: str
    hint: str
    about: str
    when: str
    iso: str
    can_retry: bool


@dataclass(frozen=True)
class Now:
    id: str
    run_id: str
    name: str
    sprite: str
    foe: str
    state: str
    phase: str
    done: str
    total: str
    share: float
    ends: str
    paused: bool


@dataclass(frozen=True)
class Quests:
    now: list[Now]
    waiting: list[QuestRow]
    waiting_count: int
    held: str
    failed: list[Ended]
    done: list[Ended]
    done_more: str
    filter: str
    priorities: list[tuple[str, str]]


@dataclass(frozen=True)
class Reject:
    where: str
    reason: str


@dataclass(frozen=True)
class Turn:
    role: str
    text: str


@dataclass(frozen=True)
class Memory:
    """What the run is expected to need at its peak."""

    total: str
    verdict: str
    fits: bool | None
    parts: list[tuple[str, str, str]]
    """(size, name, why), largest first."""


@dataclass(frozen=True)
class Report:
    """What the gatekeepers found."""

    files: list[tuple[str, str]]
    verdict: str
    """One sentence; "" where the report holds no counts."""
    refusal: str
    facts: list[tuple[str, str]]
    reasons: list[tuple[str, str]]
    """Why rows were turned down, with how many each, most first."""
    rejects: list[Reject]
    more_rejects: str
    warnings: list[str]
    memory: Memory | None
    examples: list[list[Turn]]


@dataclass(frozen=True)
class Quest:
    row: QuestRow
    state: str
    state_word: str
    icon: str
    tone: str
    source: str
    facts: list[tuple[str, str]]
    reason: str
    hint: str
    report: Report | None
    runs: list[tuple[str, str, str]]
    log: list[Line]
    can_cancel: bool
    can_retry: bool
    preview: list[list[tuple[str, bool]]]
    """For the first rows their text in stretches and whether each is trained."""
    preview_why: str
    """Why there is none; "" also where nothing was to be expected."""


def row_from_status(job: dict[str, Any], plain: bool) -> QuestRow:
    return _row(
        str(job["id"]),
        str(job["name"]),
        job.get("skill"),
        job.get("level"),
        job.get("rows"),
        job.get("planned_steps"),
        str(job.get("priority") or "normal"),
        plain,
    )


def row_from_job(job: Job, plain: bool) -> QuestRow:
    return _row(job.id, job.name, job.skill, job.level, job.rows, job.planned_steps, job.priority, plain)


def _row(  # noqa: PLR0917 - one private constructor for two sources
    job_id: str,
    name: str,
    skill: str | None,
    level: int | None,
    rows: int | None,
    steps: int | None,
    priority: str,
    plain: bool,
) -> QuestRow:
    foe = lore.foe(name, skill, steps)
    term = lore.PRIORITIES[priority]
    place = PRIORITIES.index(priority)
    return QuestRow(
        id=job_id,
        name=name,
        foe="" if plain else foe.name,
        sprite=foe.sprite,
        about=_about(skill, level, None if steps else rows, steps),
        priority=priority,
        priority_word=term.word(plain),
        tone=term.tone,
        higher=PRIORITIES[place - 1] if place else "",
        lower=PRIORITIES[place + 1] if place + 1 < len(PRIORITIES) else "",
    )


def _about(skill: str | None, level: int | None, rows: int | None, steps: int | None) -> str:
    parts = []
    if skill:
        parts.append(lore.skill(skill).plain + (f" L{level}" if level is not None else ""))
    if rows:
        parts.append(numbers.count(rows, "example"))
    if steps:
        parts.append(numbers.count(steps, "step"))
    return ", ".join(parts)


def build_quests(
    status: Status,
    prefs: Preferences,
    *,
    processing: Sequence[tuple[Job, Run | None]],
    waiting: Sequence[Job],
    failed: Sequence[Job],
    done: Sequence[Job],
    done_cursor: int | None,
    priority: str,
    held: str,
) -> Quests:
    plain = prefs.plain
    battle = status.get("battle") or {}
    shown = [job for job in waiting if priority in ("", job.priority)]
    return Quests(
        now=[_now(job, run, battle if battle.get("job_id") == job.id else {}, plain) for job, run in processing],
        waiting=[row_from_job(job, plain) for job in shown],
        waiting_count=len(waiting),
        held=held,
        failed=[_ended(job, plain) for job in failed],
        done=[_ended(job, plain) for job in done],
        done_more=f"/quests?before={done_cursor}" if done_cursor else "",
        filter=priority,
        priorities=[("", "All"), *((name, lore.PRIORITIES[name].word(plain)) for name in PRIORITIES)],
    )


def _now(job: Job, run: Run | None, battle: dict[str, Any], plain: bool) -> Now:
    done = int(battle.get("run_step") or (run.step if run else 0))
    total = battle.get("max_steps") or (run.max_steps if run else None) or job.planned_steps
    state = str(battle.get("state") or (run.phase if run else "preparing"))
    foe = lore.foe(job.name, job.skill, job.planned_steps)
    return Now(
        id=job.id,
        run_id=job.run_id or "",
        name=job.name,
        sprite=foe.sprite,
        foe="" if plain else foe.name,
        state=state,
        phase=lore.PHASES.get(state, state),
        done=numbers.whole(done),
        total=numbers.whole(total),
        share=done / total if total else 0.0,
        ends=numbers.span_range(battle["eta_s"]) if battle.get("eta_s") else "",
        paused=state == "paused",
    )


def _ended(job: Job, plain: bool) -> Ended:
    term = lore.JOB_STATES[job.state]
    reason = job.reason or {}
    return Ended(
        id=job.id,
        name=job.name,
        state=term.word(plain),
        icon=term.icon,
        tone=term.tone,
        reason=str(reason.get("message") or ""),
        hint=str(reason.get("hint") or ""),
        about=_about(job.skill, job.level, job.rows, job.planned_steps),
        when=numbers.date(job.finished_at),
        iso=numbers.iso(job.finished_at),
        can_retry=job.state in ("failed", "skipped", "cancelled"),
    )


def build_quest(
    job: Job,
    runs: Sequence[Run],
    log: list[Line],
    prefs: Preferences,
    *,
    preview: list[list[tuple[str, bool]]],
    preview_why: str = "",
) -> Quest:
    term = lore.JOB_STATES[job.state]
    reason = job.reason or {}
    facts = [
        ("Priority", lore.PRIORITIES[job.priority].word(prefs.plain)),
        ("Examples", numbers.whole(job.rows)),
        ("Planned steps", numbers.whole(job.planned_steps)),
        ("Skill", f"{lore.skill(job.skill).word(prefs.plain)} L{job.level}" if job.skill else numbers.NONE),
        ("Arrived", numbers.date(job.created_at)),
        ("Ended", numbers.date(job.finished_at)),
        ("Attempts", numbers.whole(job.attempts)),
    ]
    return Quest(
        row=row_from_job(job, prefs.plain),
        state=job.state,
        state_word=term.word(prefs.plain),
        icon=term.icon,
        tone=term.tone,
        source=job.source,
        facts=facts,
        reason=str(reason.get("message") or ""),
        hint=str(reason.get("hint") or ""),
        report=build_report(job.report, job.data, told=str(reason.get("message") or "")),
        runs=[
            (
                run.id,
                lore.PHASES.get(run.phase, run.phase) if run.outcome is None else str(run.outcome),
                numbers.count(run.step, "step"),
            )
            for run in runs
        ],
        log=log,
        can_cancel=job.state == "queued",
        can_retry=job.state in ("failed", "skipped", "cancelled"),
        preview=preview,
        preview_why=preview_why,
    )


def build_report(report: dict[str, Any] | None, data: Sequence[dict[str, Any]], *, told: str = "") -> Report | None:
    """Put a gatekeepers' report into words; what it does not hold is left out, never guessed, nor `told` twice.

    None where it holds nothing that people would read.
    """
    report = report or {}
    count = int(report.get("rows_rejected") or 0)
    rejects = [_reject(item) for item in report.get("rejected") or ()]
    shown = rejects[:SHOWN_REJECTS]
    left = max(0, count - len(shown))
    examples = [_turns(item) for item in (report.get("examples") or ())[:SHOWN_EXAMPLES]]
    refusal = report.get("refusal") or {}
    if refusal.get("message") == told:
        refusal = {}
    found = Report(
        files=[(str(item.get("name") or "file"), _file_about(item)) for item in data],
        verdict=_verdict(report),
        refusal=" ".join(str(refusal[key]) for key in ("message", "hint") if refusal.get(key)),
        facts=_facts(report),
        reasons=[
            (numbers.count(int(number), "row"), REASONS.get(str(reason), str(reason)))
            for reason, number in sorted((report.get("reasons") or {}).items(), key=lambda pair: -pair[1])
        ],
        rejects=shown,
        more_rejects=f"{numbers.count(left, 'more row')} of these; the quarantine file has all of them."
        if shown and left
        else "",
        warnings=[str(item) for item in report.get("warnings") or ()],
        memory=_memory(report.get("memory")),
        examples=[turns for turns in examples if turns],
    )
    return found if any(vars(found).values()) else None


def _verdict(report: dict[str, Any]) -> str:
    read, good = report.get("rows_read"), report.get("rows_accepted")
    if not isinstance(read, int) or not isinstance(good, int):
        return ""
    if report.get("accepted") is False:
        return f"Turned away. 0 of {numbers.count(read, 'row')} were added."
    if good == read:
        return f"All {numbers.count(read, 'row')} can be used."
    return f"{numbers.whole(good)} of {numbers.count(read, 'row')} can be used."


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for label, key, always in _COUNTS:
        value = report.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and (value or always):
            about = "about " if key in _ESTIMATED and not report.get("tokens_exact") else ""
            found.append((label, about + numbers.whole(value)))
    share = report.get("supervised_share")
    if isinstance(share, float):
        found.append((f"Trained share of {report.get('supervised_by') or 'content'}", f"{numbers.percent(share, 0)}%"))
    return found


_COUNTS = (
    ("Rows read", "rows_read", True),
    ("Rows usable", "rows_accepted", True),
    ("Rows turned down", "rows_rejected", True),
    ("Rows withheld", "rows_withheld", False),
    ("Duplicates", "duplicates", False),
    ("Near duplicates", "near_duplicates", False),
    ("Too long", "rows_too_long", False),
    ("Tokens", "tokens", True),
    ("Longest row, tokens", "longest_tokens", True),
)
_ESTIMATED = ("tokens", "longest_tokens")


def _memory(found: Any) -> Memory | None:
    """Put an estimate into words: {total, free, fits, device, parts: [{name, size, why}]}."""
    if not isinstance(found, dict) or not isinstance(found.get("total"), int):
        return None
    free, fits, device = found.get("free"), found.get("fits"), found.get("device")
    where = "on the GPU" if device == "cuda" else "of this machine"
    verdict = ""
    if isinstance(free, int):
        fit = "" if fits is None else "It fits: " if fits else "It does not fit: "
        words = f"{numbers.size(free)} {where} are free now."
        verdict = fit + words
    parts = [part for part in found.get("parts") or () if isinstance(part, dict)]
    parts.sort(key=lambda part: -int(part.get("size") or 0))
    return Memory(
        numbers.size(found["total"]),
        verdict,
        None if fits is None else bool(fits),
        [(numbers.size(part.get("size")), str(part.get("name") or ""), str(part.get("why") or "")) for part in parts],
    )


def _file_about(item: dict[str, Any]) -> str:
    parts = [numbers.count(int(item["rows"]), "row")] if item.get("rows") is not None else []
    parts += [str(item["format"])] if item.get("format") else []
    return ", ".join(parts)


def _reject(item: dict[str, Any]) -> Reject:
    reason = str(item.get("reason") or "")
    detail = f" ({item['detail']})" if item.get("detail") else ""
    return Reject(f"line {numbers.whole(item.get('line'))}", f"{REASONS.get(reason, reason)}{detail}")


def _turns(item: Any) -> list[Turn]:
    """The turns of an example row."""
    if isinstance(item, dict) and isinstance(item.get("messages"), list):
        return [
            Turn(str(m.get("role") or ""), str(m.get("content") or "")) for m in item["messages"] if isinstance(m, dict)
        ]
    if isinstance(item, dict) and "text" in item:
        return [Turn("text", str(item["text"]))]
    return [Turn("row", str(item))] if item else []
