"""Commands that are a process of the realm: `train`, `worker`, `arena`, `tavern`; and `openapi`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from realm.cli import context


def register(app: typer.Typer) -> None:
    app.command()(openapi)
    app.command()(train)
    app.command()(worker)
    app.command()(arena)
    app.command()(tavern)


def openapi() -> None:
    """Print the OpenAPI document of the HTTP API."""
    import json

    from realm.wiring import Realm
    from tavern.app import create_app, describe

    print(json.dumps(describe(create_app(Realm(context.settings())).inner), indent=1, ensure_ascii=False))


def train(run_dir: Annotated[Path, typer.Argument(help="A run directory with its job.json.")]) -> None:
    """Carry out one run in this process."""
    from arena.worker import train as carry_out
    from realm.wiring import Realm

    raise typer.Exit(carry_out(run_dir.resolve(), Realm(context.settings()).trainers))


def worker(slot: Annotated[Path, typer.Argument(help="Folder through which the daemon hands over runs.")]) -> None:
    """Serve runs one after another, keeping the hero in memory (started by the arena)."""
    from arena.worker import serve
    from realm.output import never_fail
    from realm.wiring import Realm

    never_fail()
    settings = context.settings()
    raise typer.Exit(serve(slot.resolve(), Realm(settings).trainers, settings.arena.worker_idle_s))


def arena() -> None:
    """Be the arena's daemon (started by the Weaver)."""
    from realm.output import never_fail
    from realm.wiring import serve_arena

    never_fail()
    _serve(lambda: serve_arena(context.settings()))


def tavern() -> None:
    """Be the web server (started by the Weaver)."""
    from realm.output import never_fail
    from realm.wiring import Realm
    from tavern.logs import log_to_stderr
    from tavern.server import serve

    never_fail()
    log_to_stderr()
    _serve(lambda: serve(Realm(context.settings())))


def _serve(serve: Callable[[], int]) -> None:
    """Run a service; a configuration that cannot be obeyed ends it with the code that the Weaver understands."""
    from realm.errors import ConfigError
    from realm.services import EXIT_BAD_CONFIG

    try:
        code = serve()
    except ConfigError as error:
        context.say(str(error))
        code = EXIT_BAD_CONFIG
    raise typer.Exit(code)
