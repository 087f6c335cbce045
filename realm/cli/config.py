"""`realm config …`: the settings in effect, where each comes from, and their schema."""

from __future__ import annotations

import json

import typer

from realm.cli import context
from realm.cli.context import table


def register(app: typer.Typer) -> None:
    config = typer.Typer(help="Settings.", no_args_is_help=True)
    config.command("show")(show)
    config.command("schema")(schema)
    app.add_typer(config, name="config")


def show() -> None:
    """Show every setting with its value and where the value comes from."""
    from realm.settings import load_with_sources

    _, values = load_with_sources(context.current.home)
    rows = [(entry.key, _plain(entry.key, entry.value), entry.source) for entry in values]
    found = [{"key": key, "value": value, "source": source} for key, value, source in rows]
    context.show(found, table(rows, ("setting", "value", "source")))


def schema() -> None:
    """Print the JSON schema of config.yaml, for editors."""
    from realm.settings import settings_schema

    print(json.dumps(settings_schema(), indent=1))


def _plain(key: str, value: object) -> object:
    """Return a value that may be shown: the password of a database address is left out."""
    if key.endswith("url") and isinstance(value, str) and "@" in value:
        scheme, _, rest = value.partition("://")
        user = rest.partition("@")[0].partition(":")[0]
        return f"{scheme}://{user}:***@{rest.rpartition('@')[2]}"
    return value if isinstance(value, bool | int | float | str | list | None) else str(value)
