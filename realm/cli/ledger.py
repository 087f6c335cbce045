"""`realm ledger …`: the checkpoints and what each is worth."""

from __future__ import annotations

from typing import Any

import typer

from realm.cli import context
from realm.cli.context import number, size, stamp, table


def register(app: typer.Typer) -> None:
    ledger = typer.Typer(help="The ledger of checkpoints.", no_args_is_help=True)
    ledger.command("list")(list_)
    ledger.command("best")(best)
    ledger.command("show")(show)
    app.add_typer(ledger, name="ledger")


def list_(
    hero: str | None = typer.Option(None, "--hero", help="Only this hero's."),
    limit: int = typer.Option(20, "--limit", "--tail", min=1, max=200),
) -> None:
    """List verified checkpoints, newest first."""
    found = context.client().checkpoints(hero, limit)
    context.show(found, _table(found) if found else "No checkpoints yet.")


def best(
    metric: str = typer.Option("val_loss", "--metric", help="val_loss or train_loss."),
    hero: str | None = typer.Option(None, "--hero", help="Only this hero's."),
) -> None:
    """Show the checkpoint with the lowest loss, the later of equals."""
    from realm.errors import ConfigError, NotFoundError

    if metric not in ("val_loss", "train_loss"):
        raise ConfigError(f"No metric {metric!r} to rank by.", hint="val_loss or train_loss.", code="usage")
    ranked = [entry for entry in context.client().checkpoints(hero, 200) if entry[metric] is not None]
    if not ranked:
        raise NotFoundError(f"No checkpoint has a {metric} yet.", code="no_checkpoint")
    found = min(ranked, key=lambda entry: (entry[metric], -entry["created_at"]))
    context.show(found, _table([found]))


def show(checkpoint_id: str = typer.Argument(..., metavar="ID")) -> None:
    """Show one checkpoint with its identity card."""
    found = context.client().checkpoint(checkpoint_id)
    facts = {key: found[key] for key in ("name", "status", "step", "run_step", "run_id", "manifest_sha256")}
    facts |= {"size": size(found["size"]), "created": stamp(found["created_at"])}
    facts |= {f"card.{key}": value for key, value in found["card"].items() if not isinstance(value, dict | list)}
    context.show(found, "\n".join(f"{key:<24} {value}" for key, value in facts.items()))


def _table(found: list[dict[str, Any]]) -> str:
    rows = [
        (c["id"], f"{c['step']:,}", number(c["train_loss"]), number(c["val_loss"]), size(c["size"]), c["name"])
        for c in found
    ]
    return table(rows, ("id", "step", "train loss", "val loss", "size", "name"))
