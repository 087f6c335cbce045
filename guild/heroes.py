"""Heroes and how to train them: `configs/heroes/<id>.yaml`.

A hero has variants, the best first. `choose_variant` takes the first whose plain requirements are met
by the machine: CUDA, a model folder. The last variant asks for nothing, so that there is always one.
A variant holds everything that a quest needs: where the model comes from, the trainer's configuration,
and what the quest files made for it look like.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from guild.skills.definition import Part, SkillId, load_yaml_model
from guild.skills.registry import CONFIGS
from realm.errors import ConfigError, NotFoundError


class Requires(Part):
    cuda: bool = False
    model: str | None = None
    """Name of a folder under the realm's `models/`."""


class ModelSource(Part):
    kind: Literal["folder", "squire"]
    name: str
    """Folder under `models/`: one that is there, or the one that the squire is built in."""
    size: str = "squire"
    seed: int = 0


class QuestPlan(Part):
    """What quest files for this hero look like unless somebody says otherwise."""

    count: int = Field(ge=1)
    mix: dict[str, float] | None = None
    """Share of each tag; null takes the mix of every level's definition."""
    rehearsal: float = Field(default=0.0, ge=0, lt=1)
    """Share of the rows that comes, equally, from the levels below the one that is trained."""

    def level_shares(self, level: int) -> dict[int, float]:
        """Return level → share of the rows for a quest that trains `level`."""
        if level == 1 or not self.rehearsal:
            return {level: 1.0}
        return {**dict.fromkeys(range(1, level), self.rehearsal / (level - 1)), level: 1 - self.rehearsal}


class Variant(Part):
    id: SkillId
    description: str
    requires: Requires = Requires()
    model: ModelSource
    trainer: str = "sft"
    config: dict[str, Any] = {}
    quest: QuestPlan


class HeroRecipe(Part):
    id: SkillId
    name: str
    description: str
    skills: tuple[SkillId, ...]
    variants: tuple[Variant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _last_variant_asks_for_nothing(self) -> HeroRecipe:
        if self.variants[-1].requires != Requires():
            raise ValueError(f"variants: the last one, {self.variants[-1].id!r}, has requirements")
        return self

    def variant(self, variant_id: str) -> Variant:
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        raise NotFoundError(
            f"{self.name} has no variant {variant_id!r}.",
            hint=f"Variants: {', '.join(v.id for v in self.variants)}.",
        )


def load_hero(hero_id: str, folder: Path | None = None) -> HeroRecipe:
    """Read a hero's recipe. Raises NotFoundError, ConfigError."""
    path = (folder or CONFIGS / "heroes") / f"{hero_id}.yaml"
    if not path.is_file():
        raise NotFoundError(f"There is no hero {hero_id!r}.", hint=f"{path} does not exist.")
    hero = load_yaml_model(path, HeroRecipe)
    if hero.id != hero_id:
        raise ConfigError(f"{path}: id: {hero.id!r} is not the file's name.")
    return hero


def choose_variant(hero: HeroRecipe, *, cuda: bool, models: Collection[str]) -> Variant:
    """Return the first variant that this machine can train."""
    return next(
        variant
        for variant in hero.variants
        if (cuda or not variant.requires.cuda) and (variant.requires.model is None or variant.requires.model in models)
    )
