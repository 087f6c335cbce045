"""`realm control …`: pause, resume, stop, skip and save, answered when they have been carried out."""

from __future__ import annotations

import time

import typer

from realm.cli import context
from realm.errors import RealmError

MEANINGS = {
    "pause": "Save, then hold the battle and the queue until `resume`.",
    "resume": "Go on after a pause or a stop.",
    "stop": "Save and end the battle; it goes back into the queue, which is held until `resume`.",
    "skip": "Save and end the battle for good; the next quest follows.",
    "save": "Write a checkpoint now.",
}
SETTLE_S = 40.0


def register(app: typer.Typer) -> None:
    control = typer.Typer(help="Commands to the battle.", no_args_is_help=True)
    for verb, meaning in MEANINGS.items():
        control.command(verb, help=meaning)(_command(verb))
    app.add_typer(control, name="control")


def _command(verb: str):  # type: ignore[no-untyped-def]
    def run(no_wait: bool = typer.Option(False, "--no-wait", help="Do not wait for the answer.")) -> None:
        carry_out(verb, wait_s=0.0 if no_wait else SETTLE_S)

    return run


def carry_out(verb: str, *, wait_s: float) -> None:
    """Enter a command and wait until the arena has answered it. Raises RealmError when it was refused."""
    client = context.client()
    command = client.command(verb)
    deadline = time.monotonic() + wait_s
    while command["state"] in ("pending", "sent") and time.monotonic() < deadline:
        time.sleep(0.05)
        command = client.command_state(command["id"])
    effect = (command["effect"] or {}).get("effect", "waiting for the arena; is it up? See `realm status`")
    if command["state"] == "refused":
        raise RealmError(f"{verb}: {effect}.", code=(command["effect"] or {}).get("code", "refused"))
    context.show(command, f"{verb}: {command['state']}, {effect}")
    if command["state"] != "done" and wait_s:
        raise typer.Exit(1)
