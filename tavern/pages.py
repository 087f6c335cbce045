"""The pages: full HTML from the server, so that everything can be read before any script runs.

Each route gathers records, builds one view model (tavern/views) and renders one template with exactly two names,
`shell` and `page`. Pages only read; every effect goes through /api/v1. Templates escape everything: no filter and no
type lets markup through (tests/tavern/test_pages.py).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, JSONResponse, Response

from guild.curriculum import EVALUATIONS_TO_ADVANCE
from guild.skills.registry import list_skills
from realm.errors import NotFoundError, RealmError
from tavern import lore
from tavern.assets import Assets
from tavern.bounds import PathId
from tavern.colours import skill_sheet
from tavern.context import Tavern, TavernDep
from tavern.previews import token_preview
from tavern.views.charts import hero_chart, run_chart
from tavern.views.events import line
from tavern.views.home import build_home
from tavern.views.other import ErrorPage, build_chronicle, build_settings
from tavern.views.quests import build_quest, build_quests
from tavern.views.records import build_run, build_vault
from tavern.views.shell import Preferences, QuestForm, SkillChoice, build_shell
from tavern.views.skills import build_skills, history_of, level_to_train
from vault.records import PRIORITIES, Hero, Job, Run

TEMPLATES = Path(__file__).resolve().parent / "templates"
WINDOWS = (0, 500, 2000)
PAGE_LINES = 100
PAGE_JOBS = 50
PAGE_CHECKPOINTS = 200
LOG_TAIL_BYTES = 16_384
AWAY_AT_MOST = 5000
Before = Annotated[int | None, Query(ge=1, le=2**53)]
router = APIRouter(include_in_schema=False)


@lru_cache(maxsize=1)
def static_assets() -> Assets:
    return Assets.load()


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The template environment: everything escaped, nothing undefined, whitespace kept small."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assets = static_assets()
    found.globals |= {"asset": assets.url, "sprite_sizes": assets.sprites, "skill_sheet": _sheet_address()}
    return found


def _sheet_address() -> str:
    return f"/skills.css?v={hashlib.sha256(skill_sheet().encode()).hexdigest()[:12]}"


class Pages:
    """One request's way from records to HTML."""

    def __init__(self, tavern: Tavern, request: Request) -> None:
        self.tavern, self.vault = tavern, tavern.vault
        self.prefs = Preferences.from_cookies(request.cookies)
        self.seq = self.vault.events.latest_seq()
        self.status = tavern.status()

    def render(self, template: str, page: Any, *, here: str, title: str, code: int = 200) -> HTMLResponse:
        form = QuestForm(self._skill_choices(), f"{self.tavern.settings.tavern.upload_limit_mib:,} MiB")
        shell = build_shell(self.status, self.prefs, here=here, title=title, form=form, seq=self.seq, now=time.time())
        text = environment().get_template(template).render(shell=shell, page=page)
        return HTMLResponse(text, code, {"Cache-Control": "no-store", "Vary": "Cookie"})

    def _skill_choices(self) -> list[SkillChoice]:
        """Skills that can make a job of their own, with the level to train next as the one suggested."""
        return [
            SkillChoice(
                skill.id,
                f"{skill.rpg_name} ({skill.display.short_name})",
                skill.max_level,
                level_to_train(skill, history_of(skill.id, self.skills(), self.newest)),
            )
            for skill in list_skills()
            if skill.api.generator is not None
        ]

    def title(self, place: str) -> str:
        return lore.PLACES[place].word(self.prefs.plain)

    def hero(self) -> Hero | None:
        status = self.status.get("hero")
        return self.vault.ledger.hero(status["id"]) if status else None

    def skills(self) -> list[dict[str, Any]]:
        """What the hero was measured in: skill, level and the newest results."""
        return list((self.status.get("hero") or {}).get("skills") or [])

    def newest(self, name: str) -> list[float]:
        """Return a set's newest accuracies, oldest first: as many as decide whether a level is mastered."""
        hero = self.status["hero"]["id"]
        found = self.vault.ledger.evaluations(hero_id=hero, name=name, limit=EVALUATIONS_TO_ADVANCE).items
        return [evaluation.accuracy for evaluation in reversed(found)]

    def guarded(self, build: Callable[[], Response], here: str) -> Response:
        """Show an error that is meant for people as a page of its own."""
        try:
            return build()
        except RealmError as error:
            heading = "Nothing is here" if error.status == 404 else "That did not work"
            page = ErrorPage(error.status, heading, error.message, error.hint)
            return self.render("error.html", page, here=here, title=heading, code=error.status)


def _pages(tavern: TavernDep, request: Request) -> Pages:
    return Pages(tavern, request)


PagesDep = Annotated[Pages, Depends(_pages)]


@router.get("/")
def home(pages: PagesDep) -> Response:
    hero = pages.hero()
    chart = hero_chart(pages.vault, hero.id, WINDOWS[-1]) if hero else hero_chart(pages.vault, "", WINDOWS[-1])
    events = list(pages.vault.events.list(limit=120, newest_first=True))
    skills = build_skills(pages.skills(), pages.newest)
    page = build_home(pages.status, pages.prefs, events, chart, skills)
    return pages.render("home.html", page, here="tavern", title=pages.title("tavern"))


@router.get("/quests")
def quests(pages: PagesDep, priority: str = "", before: Before = None) -> Response:
    jobs = pages.vault.jobs
    processing = [(job, _run_of(pages, job)) for job in jobs.processing()]
    done = jobs.list(("completed", "skipped", "cancelled"), limit=PAGE_JOBS, before_seq=before)
    held = pages.status["queue"].get("held")
    page = build_quests(
        pages.status,
        pages.prefs,
        processing=processing,
        waiting=jobs.waiting(),
        failed=jobs.list(("failed", "refused"), limit=PAGE_JOBS).items,
        done=done.items,
        done_cursor=done.next_cursor,
        priority=priority if priority in PRIORITIES else "",
        held=f"The queue was {held['reason']} by {held['by']}." if held else "",
    )
    return pages.render("quests.html", page, here="quests", title=pages.title("quests"))


@router.get("/quests/{job_id}")
def quest(pages: PagesDep, job_id: PathId) -> Response:
    def build() -> Response:
        job = pages.vault.jobs.get(job_id)
        runs = pages.vault.ledger.runs(job_id=job_id, limit=20).items
        events = pages.vault.events.list(subject=job_id, limit=50, newest_first=True)
        lines = [line(event, pages.prefs.plain) for event in events]
        try:
            preview, why = token_preview(job, pages.vault.ledger.hero(job.hero_id), pages.tavern.paths.home), ""
        except RealmError as error:
            preview, why = [], str(error) if error.status == 409 else ""
        page = build_quest(job, runs, lines, pages.prefs, preview=preview, preview_why=why)
        return pages.render("quest.html", page, here="quests", title=job.name)

    return pages.guarded(build, "quests")


@router.get("/runs/{run_id}")
def run(pages: PagesDep, run_id: PathId) -> Response:
    def build() -> Response:
        ledger = pages.vault.ledger
        found = ledger.run(run_id)
        job = pages.vault.jobs.get(found.job_id)
        page = build_run(
            found,
            job,
            ledger.hero(found.hero_id),
            pages.prefs,
            chart=run_chart(pages.vault, found),
            evaluations=ledger.evaluations(run_id=run_id, limit=60).items,
            checkpoints=ledger.checkpoints(run_id=run_id, limit=60).items,
            attempts=ledger.attempts(run_id),
            log_tail=_log_tail(pages.tavern.paths.runs / found.id / "worker.log"),
        )
        return pages.render("run.html", page, here="quests", title=job.name)

    return pages.guarded(build, "quests")


@router.get("/vault")
def vault(pages: PagesDep, before: Before = None) -> Response:
    hero = pages.hero()
    found = pages.vault.ledger.checkpoints(
        hero.id if hero else None,
        statuses=("verified", "quarantined", "missing"),
        limit=PAGE_CHECKPOINTS,
        before_seq=before,
    )
    names = {}
    for run_id in {checkpoint.run_id for checkpoint in found.items}:
        names[run_id] = pages.vault.jobs.get(pages.vault.ledger.run(run_id).job_id).name
    page = build_vault(found.items, hero, names, found.next_cursor)
    return pages.render("vault.html", page, here="vault", title=pages.title("vault"))


@router.get("/chronicle")
def chronicle(pages: PagesDep, show: str = "", before: Before = None) -> Response:
    group = show if show in lore.GROUPS else ""
    kinds = lore.group_kinds(group) if group else None
    events = list(pages.vault.events.list(before=before, kinds=kinds, limit=PAGE_LINES + 1, newest_first=True))
    older = events[PAGE_LINES - 1].seq if len(events) > PAGE_LINES else None
    page = build_chronicle(events[:PAGE_LINES], pages.prefs, group=group, newer=before is not None, older_seq=older)
    return pages.render("chronicle.html", page, here="chronicle", title=pages.title("chronicle"))


@router.get("/settings")
def settings(pages: PagesDep) -> Response:
    version = str(pages.status["realm"]["version"])
    page = build_settings(pages.tavern.settings, pages.prefs, static_assets(), version)
    return pages.render("settings.html", page, here="settings", title=pages.title("settings"))


@router.get("/charts/loss")
def loss_chart(tavern: TavernDep, hero: str | None = None, run: str | None = None, window: int = 0) -> Response:
    """The numbers of a loss chart, for the windows that a page was not sent with."""
    if run is not None:
        return JSONResponse(run_chart(tavern.vault, tavern.vault.ledger.run(run)))
    if hero is None or window not in WINDOWS:
        raise NotFoundError("There is no such chart.", hint="Name a run, or a hero and a window of 0, 500 or 2000.")
    return JSONResponse(hero_chart(tavern.vault, tavern.vault.ledger.hero(hero).id, window))


@router.get("/charts/away")
def away(tavern: TavernDep, request: Request, after: Annotated[int, Query(ge=0, le=2**53)]) -> Response:
    """What happened since an event, in one line."""
    found = tavern.vault.events.list(after, kinds=lore.MILESTONES, limit=AWAY_AT_MOST)
    counts = Counter(event.kind for event in found)
    return JSONResponse({"text": lore.summary(counts, Preferences.from_cookies(request.cookies).plain)})


@router.get("/skills.css")
def skill_colours() -> Response:
    """The skills' own colours; their address on a page changes with them."""
    return Response(skill_sheet(), media_type="text/css", headers={"Cache-Control": "private, max-age=86400"})


@router.get("/assets/{build}/{name:path}")
def asset(build: str, name: str) -> Response:
    return static_assets().response(build, name)


def _run_of(pages: Pages, job: Job) -> Run | None:
    return pages.vault.ledger.run(job.run_id) if job.run_id else None


def _log_tail(path: Path) -> str:
    """Return the last lines of a worker's log, control characters replaced; "" when there is none."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - LOG_TAIL_BYTES))
            text = file.read(LOG_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    lines = text.splitlines()[1 if size > LOG_TAIL_BYTES else 0 :]
    return "\n".join("".join(c if c.isprintable() or c == "\t" else "·" for c in row) for row in lines)
