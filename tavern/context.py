"""What routes work with: the parts of one realm, and who is calling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from realm.paths import RealmPaths
from realm.settings import Settings
from tavern.credentials import Caller, Credentials
from tavern.meters import Meters
from tavern.stream import Hub
from tavern.uploads import UploadDesk
from vault.store import Vault


class RealmParts(Protocol):
    """What the Tavern needs of a realm (`realm.wiring` builds it)."""

    @property
    def settings(self) -> Settings: ...
    @property
    def paths(self) -> RealmPaths: ...
    @property
    def vault(self) -> Vault: ...
    def status(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Tavern:
    """One web server's parts."""

    settings: Settings
    paths: RealmPaths
    vault: Vault
    credentials: Credentials
    hub: Hub
    meters: Meters
    uploads: UploadDesk
    status: Callable[[], dict[str, Any]]


def tavern_of(request: Request) -> Tavern:
    found: Tavern = request.app.state.tavern
    return found


def caller_of(request: Request) -> Caller:
    """Return who is calling: the gate has let nobody through to a guarded route without."""
    caller = request.scope.get("caller")
    assert isinstance(caller, Caller)
    return caller


TavernDep = Annotated[Tavern, Depends(tavern_of)]
CallerDep = Annotated[Caller, Depends(caller_of)]
