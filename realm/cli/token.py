"""`realm token …`: API tokens for other machines and programs."""

from __future__ import annotations

from typing import Annotated

import typer

from realm.cli import context
from realm.cli.context import stamp, table


def register(app: typer.Typer) -> None:
    token = typer.Typer(help="API tokens.", no_args_is_help=True)
    token.command("create")(create)
    token.command("list")(list_)
    token.command("revoke")(revoke)
    app.add_typer(token, name="token")


def create(
    name: str = typer.Argument(..., help="What it is for."),
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read (default), operate, admin or zone; repeatable.")
    ] = None,
    days: int | None = typer.Option(
        None, "--days", min=1, max=3650, help="Expires after this many days (default: never)."
    ),
) -> None:
    """Make a token. Its secret is shown this once. A home that is not there yet is made."""
    if not context.current.server:
        context.settings().paths.ensure()
    made = context.client().create_token(name, scope or ["read"], None if days is None else days * 86400)
    context.show(made, made["secret"])
    context.say(f"Token {made['id']} ({', '.join(made['scopes'])}). Keep the line above: it is not shown again.")


def list_() -> None:
    """List tokens and browser sessions."""
    found = context.client().tokens()
    rows = [
        (
            entry["id"],
            entry["name"],
            ",".join(entry["scopes"]),
            "revoked" if entry["revoked_at"] else "valid",
            stamp(entry["expires_at"]),
            stamp(entry["last_used_at"]),
        )
        for entry in found
    ]
    context.show(
        found, table(rows, ("id", "name", "scopes", "state", "expires", "last used")) if rows else "No tokens."
    )


def revoke(
    token_id: str = typer.Argument(..., metavar="ID"),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """End a token now."""
    context.confirm(f"Revoke token {token_id}?", yes)
    entry = context.client().revoke_token(token_id)
    context.show(entry, f"Token {entry['name']} is revoked.")
