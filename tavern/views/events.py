"""Lines of the Chronicle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tavern import lore, numbers
from vault.records import Event


@dataclass(frozen=True)
class Line:
    seq: int
    time: str
    day: str
    iso: str
    icon: str
    tone: str
    title: str
    text: str
    href: str


def line(event: Event, plain: bool) -> Line:
    words = lore.event_words(event.kind, event.data, event.subject)
    return Line(
        seq=event.seq,
        time=numbers.clock(event.at),
        day=numbers.date(event.at),
        iso=numbers.iso(event.at),
        icon=words["icon"],
        tone=words["tone"],
        title=words["plain_title"] if plain else words["title"],
        text=words["text"],
        href=_href(event.data),
    )


def _href(data: dict[str, Any]) -> str:
    if data.get("run_id"):
        return f"/runs/{data['run_id']}"
    return f"/quests/{data['job_id']}" if data.get("job_id") else ""


def loud(events: list[Event], plain: bool, limit: int) -> list[Line]:
    """Return the newest lines without those that only repeat others."""
    return [line(event, plain) for event in events if event.kind not in lore.QUIET][:limit]
