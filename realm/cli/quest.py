"""`realm quest …`: make, hand in, look at and move jobs."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realm.cli import context
from realm.cli.context import stamp, table

if TYPE_CHECKING:
    from realm.cli.clients import Client

ENDED = ("completed", "failed", "refused", "skipped", "cancelled")
OPEN = ("processing", "queued")
PROGRESS_S = 4.0
PRIORITY_HELP = "high, normal or low."


def register(app: typer.Typer) -> None:
    quest = typer.Typer(help="Quests: files to train on.", no_args_is_help=True)
    for verb in (make, add, list_, show, retry, cancel, move, report):
        quest.command(verb.__name__.rstrip("_"))(verb)
    app.add_typer(quest, name="quest")


def make(
    skill: str = typer.Argument("bin", help="Skill whose problems to train; see configs/skills."),
    *,
    level: int | None = typer.Option(None, "--level", min=1, help="Level (default: the one to train next)."),
    count: int | None = typer.Option(None, "--count", min=1, help="Rows (default: what suits the hero)."),
    seed: int | None = typer.Option(
        None, "--seed", min=0, help="The same seed makes the same file (default: a fresh one)."
    ),
    mix: str = typer.Option("", "--mix", help="Shares of the tags, for example show-work=0.7,direct=0.3."),
    priority: str = typer.Option("normal", "--priority", help=PRIORITY_HELP),
    out: str = typer.Option("", "--out", help="Write the file there and do not hand it in."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be made."),
    follow: bool = typer.Option(False, "--follow", help="Wait until the battle is over."),
) -> None:
    """Let the guild make a quest file and drop it into the inbox."""
    from guild.quests import make_quest, parse_mix

    plan = _plan(skill, level, count)
    level, count = plan["level"], plan["count"]
    seed = secrets.randbelow(2**31) if seed is None else seed
    name = f"{skill}-L{level}-{count}-{seed}.jsonl"
    facts = {"skill": skill, "level": level, "count": count, "seed": seed, "name": name, "priority": priority}
    if dry_run:
        context.show(facts, f"Would make {name}: {count:,} rows of {skill}, level {level}.")
        return
    shares = parse_mix(mix) or plan["mix"]
    levels = plan["shares"] or level
    if out:
        made = make_quest(skill, levels, count, seed, Path(out).resolve(), mix=shares)
        context.show({**facts, "path": str(made.path), "sha256": made.sha256}, f"{made.path}: {made.rows:,} rows")
        return
    client = context.client()
    with tempfile.TemporaryDirectory() as folder:
        made = make_quest(skill, levels, count, seed, Path(folder) / name, mix=shares)
        handed = client.submit(made.path, name, priority)
    _handed_in(client, handed, f"{name}: {made.rows:,} rows of {skill}, level {level}", follow)


def add(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .txt, .parquet or .yaml file.")],
    priority: str = typer.Option("normal", "--priority", help=PRIORITY_HELP),
    name: str = typer.Option("", "--name", help="Another name for it."),
    follow: bool = typer.Option(False, "--follow", help="Wait until the battle is over."),
) -> None:
    """Hand in a file; it is copied, never trained where it lies."""
    from realm.errors import NotFoundError

    if not file.is_file():
        raise NotFoundError(f"{file} is not a file.", hint="Give the path of one file.", path=str(file))
    _check_priority(priority)
    client = context.client()
    handed = client.submit(file, name or file.name, priority)
    _handed_in(client, handed, handed["name"], follow)


def list_(
    all_: bool = typer.Option(False, "--all", help="Ended ones too."),
    state: str = typer.Option("", "--state", help=f"Only this state: {', '.join((*OPEN, *ENDED))}."),
    limit: int = typer.Option(50, "--limit", "--tail", min=1, max=200),
) -> None:
    """List the quests in the order in which they will be fought."""
    client = context.client()
    if state:
        jobs = client.jobs((state,), limit)
    else:
        jobs = [*client.jobs(("processing",), limit), *client.jobs(("queued",), limit)]
        jobs += client.jobs(ENDED, limit) if all_ else []
    rows = [(job["id"], job["state"], job["priority"], f"{job['rows']:,}", job["name"]) for job in jobs]
    words = (
        table(rows, ("id", "state", "priority", "rows", "name")) if jobs else "No quests. Make one: realm quest make"
    )
    context.show(jobs, words)


def show(job_id: str = typer.Argument(..., metavar="ID")) -> None:
    """Show one quest."""
    job = context.client().job(job_id)
    facts: list[tuple[str, Any]] = [(key, job[key]) for key in ("name", "state", "priority", "rows", "planned_steps")]
    facts += [("skill", f"{job['skill']} level {job['level']}" if job["skill"] else None), ("run", job["run_id"])]
    facts += [(key, stamp(job[f"{key}_at"])) for key in ("created", "started", "finished")]
    facts += [("attempts", job["attempts"]), ("reason", (job["reason"] or {}).get("message"))]
    context.show(job, "\n".join(f"{key:<14} {value if value is not None else '-'}" for key, value in facts))


def retry(job_id: str = typer.Argument(..., metavar="ID")) -> None:
    """Put an ended quest back into the queue."""
    job = context.client().retry(job_id)
    context.show(job, f"{job['name']} waits again ({job['priority']}).")


def cancel(
    job_id: str = typer.Argument(..., metavar="ID"),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be taken out."),
) -> None:
    """Take a waiting quest out of the queue (`realm quest retry` puts it back)."""
    client = context.client()
    job = client.job(job_id)
    if dry_run:
        context.show(job, f"Would take {job['name']} ({job['state']}) out of the queue.")
        return
    context.confirm(f"Take {job['name']} out of the queue?", yes)
    job = client.cancel(job_id)
    context.show(job, f"{job['name']} is out of the queue. Put it back: realm quest retry {job_id}")


def move(
    job_id: str = typer.Argument(..., metavar="ID"),
    priority: str | None = typer.Option(None, "--priority", help=PRIORITY_HELP),
    before: str | None = typer.Option(None, "--before", metavar="ID", help="Directly before this waiting quest."),
) -> None:
    """Give a waiting quest another place in the queue."""
    from realm.errors import ConfigError

    if (priority is None) == (before is None):
        raise ConfigError("Say where to: --priority or --before.", hint="One of the two.", code="usage")
    _check_priority(priority or "normal")
    job = context.client().move(job_id, priority, before)
    context.show(job, f"{job['name']} now waits at {job['priority']} priority.")


def report(job_id: str = typer.Argument(..., metavar="ID")) -> None:
    """Show what the gatekeepers found in a quest's file."""
    found = context.client().report(job_id)
    short = {key: value for key, value in found.items() if key != "preview"}
    context.show(found, json.dumps(short, indent=1, ensure_ascii=False))


def _plan(skill: str, level: int | None, count: int | None) -> dict[str, Any]:
    """Fill in what was not said: the level to train next, and the rows that suit the hero."""
    from realm.cli.local import LocalClient

    plan: dict[str, Any] = {"level": level, "count": count, "mix": None, "shares": None}
    if context.current.server:
        plan["level"] = level or _next_level(context.client(), skill)
        plan["count"] = count or 2000
        return plan
    client = context.client()
    assert isinstance(client, LocalClient)
    _, variant = client.realm.hero_variant()
    plan["mix"] = variant.quest.mix
    plan["count"] = count or variant.quest.count
    plan["level"] = level or _next_level(client, skill)
    plan["shares"] = variant.quest.level_shares(plan["level"])
    return plan


def _next_level(client: Client, skill: str) -> int:
    from guild.curriculum import training_level
    from guild.skills import get_skill

    history: dict[int, list[float]] = {}
    for evaluation in reversed(client.evaluations(None, 200)):
        if evaluation["name"] == f"{skill}/L{evaluation['level']}/heldout":
            history.setdefault(evaluation["level"], []).append(evaluation["accuracy"])
    return training_level(history, get_skill(skill).max_level)


def _check_priority(priority: str) -> None:
    from realm.errors import ConfigError
    from realm.paths import PRIORITIES

    if priority not in PRIORITIES:
        raise ConfigError(f"No priority {priority!r}.", hint=PRIORITY_HELP, code="usage")


def _handed_in(client: Client, handed: dict[str, Any], words: str, follow: bool) -> None:
    if not follow:
        context.show(handed, f"Handed in {words}. See `realm quest list`.")
        return
    context.say(f"Handed in {words}.")
    job = _follow(client, handed["sha256"])
    context.show(job, f"{job['name']}: {job['state']}. {(job['reason'] or {}).get('message', '')}".strip())
    if job["state"] != "completed":
        raise typer.Exit(1)


def _follow(client: Client, sha256: str) -> dict[str, Any]:
    """Wait until the job made of a file is over, telling each change of its state and how the battle goes."""
    from realm.cli.status import progress

    told, told_at = "", 0.0
    while True:
        job = client.job_of(sha256)
        state = job["state"] if job else "arriving"
        if job is not None and state in ENDED:
            return job
        words = state
        if job is not None and state == "processing":
            battle = client.status()["battle"]
            words = progress(battle) if battle and battle["job_id"] == job["id"] else "preparing"
        if words != told and (state != "processing" or time.monotonic() - told_at > PROGRESS_S):
            told, told_at = words, time.monotonic()
            context.say(f"  {words}")
        time.sleep(0.5)
