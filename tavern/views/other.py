"""The Chronicle, the settings and the page for what went wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from realm.settings import Settings, load_with_sources
from tavern import lore
from tavern.assets import Assets
from tavern.views.events import Line, line
from tavern.views.shell import Preferences
from vault.records import Event


@dataclass(frozen=True)
class Chronicle:
    lines: list[Line]
    groups: list[tuple[str, str]]
    group: str
    newer: bool
    older: str


@dataclass(frozen=True)
class Choice:
    key: str
    title: str
    about: str
    value: str
    options: list[tuple[str, str]]


@dataclass(frozen=True)
class Vendored:
    name: str
    version: str
    licence: str
    used_for: str
    licence_href: str


@dataclass(frozen=True)
class SettingsPage:
    choices: list[Choice]
    config: list[tuple[str, str, str]]
    home: str
    version: str
    vendored: list[Vendored]


@dataclass(frozen=True)
class ErrorPage:
    status: int
    heading: str
    text: str
    hint: str


def build_chronicle(
    events: Sequence[Event], prefs: Preferences, *, group: str, newer: bool, older_seq: int | None
) -> Chronicle:
    show = f"show={group}&" if group else ""
    return Chronicle(
        lines=[line(event, prefs.plain) for event in events if group or event.kind not in lore.QUIET],
        groups=[("", "All"), *((key, term.word(prefs.plain)) for key, term in lore.GROUPS.items())],
        group=group,
        newer=newer,
        older=f"/chronicle?{show}before={older_seq}" if older_seq else "",
    )


def build_settings(settings: Settings, prefs: Preferences, assets: Assets, version: str) -> SettingsPage:
    choices = [
        Choice(
            "theme",
            "Theme",
            "Hearth is dark, Parchment is light.",
            prefs.theme,
            [("", "As the system"), ("hearth", "Hearth"), ("parchment", "Parchment")],
        ),
        Choice(
            "names",
            "Names",
            "Game words, or the plain words of the field.",
            prefs.names,
            [("game", "Game"), ("plain", "Plain")],
        ),
        Choice(
            "lettering",
            "Lettering",
            "Headings and numbers in pixel letters, or in plain ones.",
            prefs.lettering,
            [("pixel", "Pixel"), ("plain", "Plain")],
        ),
        Choice(
            "motion",
            "Motion",
            "Whether anything on the page may move.",
            prefs.motion,
            [("", "As the system"), ("still", "Still")],
        ),
        Choice(
            "keys",
            "Keyboard shortcuts",
            "They never fire while you type. Press ? for the list.",
            prefs.keys,
            [("on", "On"), ("off", "Off")],
        ),
    ]
    return SettingsPage(
        choices=choices,
        config=_config(settings),
        home=str(settings.home),
        version=version,
        vendored=_vendored(assets),
    )


def _config(settings: Settings) -> list[tuple[str, str, str]]:
    """Every effective value with its source; a password in a database address is not shown."""
    _, values = load_with_sources(settings.home)
    source_of = {value.key: (value.value, value.source) for value in values}
    rows = []
    for key, value in _leaves(settings.model_dump(mode="json")):
        known, source = source_of.get(key, (None, "default"))
        if str(known) != str(value) and key != "home":
            source = "flag at the start"
        rows.append((key, _safe(value), source))
    return rows


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _safe(value: Any) -> str:
    text = "not set" if value is None else "yes" if value is True else "no" if value is False else str(value)
    if "://" in text:
        parts = urlsplit(text)
        if parts.password:
            host = parts.netloc.rpartition("@")[2]
            text = urlunsplit(parts._replace(netloc=f"{parts.username}:•••@{host}"))
    return text


def _vendored(assets: Assets) -> list[Vendored]:
    manifest = json.loads(assets.files["vendor/VENDOR.json"].read_text(encoding="utf-8"))
    return [
        Vendored(
            package["name"],
            package["version"],
            package["licence"],
            package["used_for"],
            assets.url("vendor/" + next(f["path"] for f in package["files"] if f["path"].endswith("LICENSE"))),
        )
        for package in manifest["packages"]
    ]
