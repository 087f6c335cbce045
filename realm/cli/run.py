"""`realm run …`: what was fought, and its curves."""

from __future__ import annotations

import typer

from realm.cli import context
from realm.cli.context import duration, number, stamp, table


def register(app: typer.Typer) -> None:
    run = typer.Typer(help="Runs: each execution of a quest.", no_args_is_help=True)
    run.command("list")(list_)
    run.command("show")(show)
    run.command("metrics")(metrics)
    app.add_typer(run, name="run")


def list_(limit: int = typer.Option(20, "--limit", "--tail", min=1, max=200)) -> None:
    """List runs, newest first."""
    runs = context.client().runs(limit)
    rows = [
        (
            run["id"],
            run["outcome"] or run["phase"],
            f"{run['step']:,}",
            number(run["train_loss"]),
            number(run["val_loss"]),
        )
        for run in runs
    ]
    context.show(runs, table(rows, ("id", "state", "steps", "train loss", "val loss")) if runs else "No runs yet.")


def show(run_id: str = typer.Argument(..., metavar="ID")) -> None:
    """Show one run with its attempts."""
    run = context.client().run(run_id)
    facts = [
        ("state", run["outcome"] or run["phase"]),
        ("steps", f"{run['step']:,}/{run['max_steps'] or '?'}, from hero step {run['hero_step_start']:,}"),
        ("train loss", number(run["train_loss"], 4)),
        ("val loss", number(run["val_loss"], 4)),
        ("tokens", f"{run['tokens']:,}"),
        ("training", duration(run["train_seconds"])),
        ("started", stamp(run["started_at"])),
        ("finished", stamp(run["finished_at"])),
        ("attempts", len(run["attempts"])),
        ("data hash", run["data_hash"] or "-"),
        ("error", (run["error"] or {}).get("message", "-")),
    ]
    context.show(run, "\n".join(f"{key:<11} {value}" for key, value in facts))


def metrics(
    run_id: str = typer.Argument(..., metavar="ID"),
    name: str = typer.Option("loss", "--name", help="For example loss, val_loss, lr, grad_norm."),
    points: int = typer.Option(50, "--points", min=2, max=5000),
) -> None:
    """Print one curve: step, mean, least and greatest of each bucket."""
    found = context.client().metrics(run_id, name, points)
    rows = [(int(step), *(f"{value:.6g}" for value in values)) for step, *values in found]
    words = table(rows, ("step", name, "least", "greatest")) if rows else f"No points of {name}."
    context.show({"run_id": run_id, "name": name, "points": found}, words)
