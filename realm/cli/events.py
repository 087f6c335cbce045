"""`realm events`: what happened, and with `--follow` what happens."""

from __future__ import annotations

import json
import time
from typing import Any

import typer

from realm.cli import context
from realm.cli.context import stamp

POLL_S = 0.25


def register(app: typer.Typer) -> None:
    app.command()(events)


def events(
    tail: int = typer.Option(20, "--tail", "--limit", min=1, max=200, help="How many of the newest."),
    follow: bool = typer.Option(False, "--follow", help="Go on printing as they come; Ctrl+C ends."),
) -> None:
    """Show the newest events of the ledger, oldest first. With --json one JSON object a line."""
    client = context.client()
    found = client.events(after=None, limit=tail)
    _print(found)
    last = found[-1]["seq"] if found else 0
    while follow:
        time.sleep(POLL_S)
        found = client.events(after=last, limit=200)
        _print(found)
        last = found[-1]["seq"] if found else last


def _print(found: list[dict[str, Any]]) -> None:
    for event in found:
        if context.current.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            print(f"{stamp(event['at'])}  {event['kind']:<24} {_words(event)}".rstrip(), flush=True)


def _words(event: dict[str, Any]) -> str:
    data = event["data"]
    plain = [f"{key}={value}" for key, value in data.items() if isinstance(value, str | int | float) and value != ""]
    return " ".join(" ".join(plain).split())[:160]
