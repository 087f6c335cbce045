"""The command line: `realm NOUN VERB` and a few single commands.

Only what a command needs is imported: `main` looks at the first word and loads the module of that noun alone, so that
`realm status` answers in a fraction of a second. Exit codes: 0 ok, 1 failed, 2 usage, 3 unreachable. An error is one
line: what happened, where, what to do. With `--json` it is a JSON object on standard error.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from realm.errors import RealmError

if TYPE_CHECKING:
    import typer

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
MODULES = {
    "up": "services",
    "down": "services",
    "status": "status",
    "doctor": "doctor",
    "quest": "quest",
    "control": "control",
    "run": "run",
    "ledger": "ledger",
    "events": "events",
    "config": "config",
    "token": "token",
    "openapi": "processes",
    "train": "processes",
    "worker": "processes",
    "tavern": "processes",
    "arena": "processes",
}
"""First word of a command line to the module in `realm.cli` that knows it, in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    from realm.cli import context

    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        words = context.take_globals(words)
        return _dispatch(words)
    except RealmError as error:
        _complain(error, as_json)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return EXIT_OK
    except Exception as error:
        told = context.unwritable(error)
        if told is not None:
            _complain(told, as_json)
            return EXIT_FAILED
        if hasattr(error, "format_message"):  # what Typer says about a command line it cannot read
            _complain(RealmError(f"{error.format_message()}", hint="See `realm --help`.", code="usage"), as_json)
            return EXIT_USAGE
        context.note_crash(words)
        _complain(RealmError(f"{type(error).__name__}: {error}.", hint="logs/cli.log has the whole story."), as_json)
        return EXIT_FAILED


def build_app(only: str | None = None) -> typer.Typer:
    """Return the command tree, or the part of it that the word `only` needs."""
    import typer

    app = typer.Typer(
        name="realm",
        help="Train, watch, evaluate and keep models on your own machines.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    if only in MODULES:  # describing the global options costs a tenth of a second: only the help needs it
        app.callback()(lambda: None)
    else:
        _offer_global_options(app)
    modules = [MODULES[only]] if only in MODULES else dict.fromkeys(MODULES.values())
    for name in modules:
        importlib.import_module(f"realm.cli.{name}").register(app)
    return app


def _offer_global_options(app: typer.Typer) -> None:
    import typer

    @app.callback()
    def options(
        home: str = typer.Option("", "--home", help="Folder of the realm (default: the nearest realm-home)."),
        as_json: bool = typer.Option(False, "--json", help="Answer in JSON."),
        server: str = typer.Option("", "--server", help="Address of a Tavern to ask in place of the local ledger."),
        token: str = typer.Option("", "--token", help="Token for that Tavern, or @FILE that holds it."),
    ) -> None:
        """Train, watch, evaluate and keep models on your own machines. These options may stand anywhere."""


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        from realm import __version__

        print(__version__)
        return EXIT_OK
    if words == ["status"]:  # asked every few seconds by scripts and prompts: it does without Typer's start-up
        from realm.cli.status import status

        return status()
    app = build_app(words[0] if words else None)
    result: Any = app(args=words or ["--help"], prog_name="realm", standalone_mode=False)
    return result if isinstance(result, int) else EXIT_OK


def _complain(error: RealmError, as_json: bool) -> None:
    if as_json:
        import json

        content = {"error": {"code": error.code, "message": error.message, "hint": error.hint, **error.data}}
        print(json.dumps(content, ensure_ascii=False, default=str), file=sys.stderr)
    else:
        print(" ".join(f"{error}".split()), file=sys.stderr)
