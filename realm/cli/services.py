"""`realm up` and `realm down`: start and stop everything."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from realm.cli import context

if TYPE_CHECKING:
    from realm.settings import Settings


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)


def up(
    port: int | None = typer.Option(None, "--port", help="Port of the web page (default 8888)."),
    foreground: bool = typer.Option(False, "--foreground", help="Stay here and watch; Ctrl+C stops everything."),
) -> None:
    """Start the realm: the Tavern, the arena, and the Weaver that watches over them."""
    from realm.weaver import control
    from realm.wiring import SERVICES

    settings = context.settings(tavern__port=port)
    flags = {} if port is None else {"tavern.port": port}
    if foreground:
        _watch(settings, flags)
        return
    context.say(f"Home: {settings.home}")
    started = control.start(settings, SERVICES, flags, lambda words: context.say(f"  {words}"))
    url = _address(settings)
    states = [status.to_dict() for status in started.services]
    context.show({"url": url, "already_running": started.already_running, "services": states}, _welcome(settings, url))


def down() -> None:
    """Stop the realm. A battle saves first and goes on at the next start."""
    from realm.weaver import control
    from realm.wiring import SERVICES

    settings = context.settings()
    done = control.stop(settings.paths, SERVICES, lambda words: context.say(f"  {words}"))
    if not done.ended and not done.killed:
        context.show(vars(done), "Nothing was running.")
        return
    killed = f" Had to be killed: {', '.join(done.killed)}." if done.killed else ""
    context.show(vars(done), f"Stopped {', '.join(done.ended) or 'nothing'} in {done.seconds:.1f} s.{killed}")
    if done.killed:
        raise typer.Exit(1)


def _watch(settings: Settings, flags: dict[str, int]) -> None:
    from realm.services import read_identity
    from realm.weaver import control
    from realm.weaver.supervisor import Weaver
    from realm.wiring import SERVICES

    settings.paths.ensure()
    control.check_room(settings)
    if read_identity(settings.paths, "tavern") is None:
        control.check_port(settings)
    weaver = Weaver(settings, SERVICES, flags=flags)
    if not weaver.take_over():
        from realm.errors import ConflictError

        raise ConflictError("The realm runs already.", hint="`realm down` stops it.", code="already_running")
    print(_welcome(settings, _address(settings)), file=sys.stderr, flush=True)
    weaver.run()


def _address(settings: Settings) -> str:
    """Return the address, with a launch code where the kernel cannot tell the Tavern who calls."""
    from realm.weaver.address import tavern_address

    url = tavern_address(settings)
    if sys.platform == "linux" and settings.tavern.host in ("127.0.0.1", "localhost", "::1"):
        return url
    from tavern.credentials import create_launch_code

    return f"{url}login#{create_launch_code(settings.paths)}"


def _welcome(settings: Settings, url: str) -> str:
    return "\n".join(
        [
            "",
            f"The Tavern is open: {url}",
            "",
            "Give DIO a quest: drop a .jsonl file on that page, copy one into",
            f"  {settings.paths.inbox}",
            "or let the guild make one:  realm quest make bin --level 1",
            "",
            "See `realm status`; stop with `realm down`.",
        ]
    )
