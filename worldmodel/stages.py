"""The six legal stages of Super Smash Bros. Melee: ground, platforms and blast zones, in game units.

Ids are the external ones of a replay's Game Start event. A stage is symmetric in x except for the blast zones of
Yoshi's Story. A fighter whose position leaves the blast zones loses a stock, so simulations on one stage must never be
judged by the zones of another.
"""

from __future__ import annotations

from dataclasses import dataclass

from realm.errors import NotFoundError


@dataclass(frozen=True)
class Platform:
    """A platform that fighters can drop through, from `left` to `right` at height `y`."""

    left: float
    right: float
    y: float


@dataclass(frozen=True)
class BlastZones:
    """Positions beyond which a stock is lost."""

    left: float
    right: float
    top: float
    bottom: float

    def holds(self, x: float, y: float) -> bool:
        """Tell whether a position is still inside."""
        return self.left <= x <= self.right and self.bottom <= y <= self.top


@dataclass(frozen=True)
class Stage:
    """One stage. `ground` is the half width of the main floor at y = 0."""

    id: int
    name: str
    short_name: str
    ground: float
    platforms: tuple[Platform, ...]
    blast: BlastZones
    moving_platforms: bool = False
    """Whether platforms move, so that their heights must come from the replay (Slippi 3.18.0 and later)."""


def _sides(inner: float, outer: float, y: float) -> tuple[Platform, Platform]:
    return Platform(-outer, -inner, y), Platform(inner, outer, y)


STAGES = (
    Stage(2, "Fountain of Dreams", "FoD", 63.35, (), BlastZones(-198.75, 198.75, 202.5, -146.25), True),
    Stage(3, "Pokémon Stadium", "PS", 87.75, _sides(25.0, 55.0, 25.0), BlastZones(-230.0, 230.0, 180.0, -111.0)),
    Stage(
        8,
        "Yoshi's Story",
        "YS",
        56.0,
        (*_sides(28.0, 60.0, 23.45), Platform(-15.75, 15.75, 42.0)),
        BlastZones(-175.7, 173.6, 168.0, -91.0),
    ),
    Stage(
        28,
        "Dream Land",
        "DL",
        77.27,
        (*_sides(31.73, 63.0, 30.14), Platform(-19.0, 19.0, 51.43)),
        BlastZones(-255.0, 255.0, 250.0, -123.0),
    ),
    Stage(
        31,
        "Battlefield",
        "BF",
        68.4,
        (*_sides(20.0, 57.6, 27.2), Platform(-18.8, 18.8, 54.4)),
        BlastZones(-224.0, 224.0, 200.0, -108.8),
    ),
    Stage(32, "Final Destination", "FD", 85.57, (), BlastZones(-246.0, 246.0, 188.0, -140.0)),
)
_BY_ID = {stage.id: stage for stage in STAGES}


def get_stage(stage_id: int) -> Stage:
    """Return a legal stage by its external id. Raises NotFoundError naming those that are legal."""
    if stage_id not in _BY_ID:
        known = ", ".join(f"{stage.id} {stage.name}" for stage in STAGES)
        raise NotFoundError(f"Stage {stage_id} is not a legal one.", hint=f"Legal: {known}.", code="illegal_stage")
    return _BY_ID[stage_id]
