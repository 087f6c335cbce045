"""What every command shares: the global options, the settings, the realm to ask, and how answers are printed."""

from __future__ import annotations

import contextlib
import errno
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm.errors import ConfigError, DiskFullError, RealmError
from realm.files import is_disk_full

if TYPE_CHECKING:
    from realm.cli.clients import Client
    from realm.settings import Settings

_VALUED = ("--home", "--server", "--token")


@dataclass
class Globals:
    """The options that may stand anywhere on the command line."""

    home: str | None = None
    server: str | None = None
    token: str | None = None
    json: bool = False


current = Globals()


def take_globals(words: Sequence[str]) -> list[str]:
    """Take the global options out of a command line, keep them, and return the rest. Raises ConfigError."""
    current.__init__()  # type: ignore[misc]
    rest: list[str] = []
    waiting = iter(words)
    for word in waiting:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *waiting]
        elif word == "--json":
            current.json = True
        elif name in _VALUED:
            if not equals:
                value = next(waiting, "")
            if not value:
                raise ConfigError(f"{name} needs a value.", hint="See `realm --help`.", code="usage")
            setattr(current, name[2:], value)
        else:
            rest.append(word)
    return rest


def settings(**flags: Any) -> Settings:
    """Load the settings of the chosen home; `flags` are dotted keys with `__` for the dot."""
    from realm.settings import load_settings

    return load_settings(current.home, {key.replace("__", "."): value for key, value in flags.items()})


def client() -> Client:
    """Return the realm to work with: the server that was named, else the local ledger."""
    if current.server:
        from realm.cli.remote import RemoteClient

        return RemoteClient(current.server, secret())
    from realm.cli.local import LocalClient

    return LocalClient(settings())


def secret() -> str | None:
    """Return the token given by `--token`, read from a file when it begins with @."""
    token = current.token
    if token and token.startswith("@"):
        try:
            return Path(token[1:]).expanduser().read_text().strip()
        except OSError as error:
            raise ConfigError(f"--token: {token[1:]} cannot be read: {error.strerror}.") from error
    return token


def show(value: Any, words: str) -> None:
    """Print an answer: `value` with `--json`, else `words`."""
    print(json.dumps(value, ensure_ascii=False, indent=1, default=str) if current.json else words)


def say(words: str) -> None:
    """Tell people what is going on; programs that read standard output are not disturbed."""
    print(words, file=sys.stderr, flush=True)


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone. Raises RealmError when the answer is not yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Nobody is here to answer.", hint="Add --yes.", code="needs_yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise RealmError("Nothing was done.", code="not_confirmed")


def table(rows: Iterable[Sequence[Any]], head: Sequence[str]) -> str:
    """Return rows as aligned columns under a head."""
    lines = [[str(cell) if cell is not None else "-" for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def stamp(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "-"


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """Return a span as people say it: `40 s`, `6 min`, `2 h 14 min`."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Return a number of bytes as people say it."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:,.0f} {unit}" if unit == "B" else f"{amount:,.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} GiB"


def unwritable(error: Exception) -> RealmError | None:
    """Return what to say when a folder cannot be written to, for want of room or of the right; None for the rest."""
    if is_disk_full(error):
        return DiskFullError(f"The disk is full: {error}.", hint="Free some space and say it again.")
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and error.filename:
        hint = "Make it writable, or name another folder with --home."
        return RealmError(f"{error.filename} cannot be written: {error.strerror}.", hint=hint, code="not_writable")
    return None


def note_crash(words: Sequence[str]) -> None:
    """Write the traceback of an unexpected error into the home's logs, if there is a home."""
    import traceback

    with contextlib.suppress(Exception):
        logs = settings().paths.logs
        if logs.is_dir():
            with open(logs / "cli.log", "a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} realm {' '.join(words)}\n{traceback.format_exc()}\n")
