"""The watchtower: read-only views of what goes on, over the vault and the arena.

`Realm().watchtower.pool.gaze().battle_state` is the call that users know. A gaze is a frozen record taken at one
moment; nothing here changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realm.services import read_services
from realm.settings import Settings

if TYPE_CHECKING:
    from vault.store import Vault


@dataclass(frozen=True)
class Gaze:
    """How things stood when the pool was looked into."""

    at: float
    battle_state: str
    """`idle`, or what the battle does: preparing, loading, training, evaluating, saving, paused."""
    battle: dict[str, Any] | None
    hero: dict[str, Any] | None
    waiting: int
    held: bool
    services: dict[str, str]
    """Name to state."""
    notices: tuple[str, ...]

    @property
    def is_fighting(self) -> bool:
        return self.battle is not None and self.battle_state != "paused"


class ScryingPool:
    """Shows the present."""

    def __init__(self, vault: Vault, settings: Settings) -> None:
        self._vault = vault
        self._settings = settings

    def gaze(self) -> Gaze:
        """Look once."""
        from arena.status import build_status

        services = [status.to_dict() for status in read_services(self._settings.paths)]
        found = build_status(self._vault, self._settings, services=services)
        battle, queue = found["battle"], found["queue"]
        return Gaze(
            at=found["at"],
            battle_state=battle["state"] if battle else "idle",
            battle=battle,
            hero=found["hero"],
            waiting=queue["waiting"],
            held=queue["held"] is not None,
            services={service["name"]: service["state"] for service in services},
            notices=tuple(notice["text"] for notice in found["notices"]),
        )


class Watchtower:
    """Looks out over one realm."""

    def __init__(self, vault: Vault, settings: Settings) -> None:
        self.pool = ScryingPool(vault, settings)
