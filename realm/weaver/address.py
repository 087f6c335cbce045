"""Where the Tavern of a home answers: what it says of itself, else what it was told, else the settings."""

from __future__ import annotations

import contextlib

from realm.errors import CorruptFileError, NotFoundError
from realm.files import read_json
from realm.processes import ProcessIdentity
from realm.settings import Settings

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def tavern_port(settings: Settings) -> int:
    """Return the port on which this home's Tavern answers, or would."""
    with contextlib.suppress(NotFoundError, CorruptFileError, KeyError, TypeError, ValueError):
        told = read_json(settings.paths.control / "tavern.json")
        identity = ProcessIdentity.from_dict(told["identity"])
        if identity is not None and identity.is_alive():
            return int(told["port"])
    with contextlib.suppress(NotFoundError, CorruptFileError, KeyError, TypeError, ValueError):
        return int(read_json(settings.paths.control / "weaver.json")["flags"]["tavern.port"])
    return settings.tavern.port


def tavern_host(settings: Settings) -> str:
    """Return the address under which this machine reaches its own Tavern."""
    return _ANY_ADDRESS.get(settings.tavern.host, settings.tavern.host)


def tavern_address(settings: Settings) -> str:
    """Return the address to open in a browser."""
    host = tavern_host(settings)
    return f"http://{f'[{host}]' if ':' in host else host}:{tavern_port(settings)}/"
