"""Finds skills: every `*.yaml` in the skills folder whose name does not begin with an underscore.

The folder is `configs/skills` beside the installed packages, or one that the caller names. Definitions
are read when asked for, generators imported only when used.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path

from guild.skills.contract import SkillGenerator
from guild.skills.definition import SkillDefinition, load_yaml_model
from realm.errors import ConfigError, NotFoundError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
"""The configs folder of this installation, beside the packages."""


class SkillRegistry:
    """The skills of one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or CONFIGS / "skills"
        self._definitions: dict[str, SkillDefinition] | None = None
        self._generators: dict[str, SkillGenerator] = {}

    def list(self) -> list[SkillDefinition]:
        return list(self._load().values())

    def get(self, skill_id: str) -> SkillDefinition:
        skills = self._load()
        if skill_id not in skills:
            raise NotFoundError(
                f"There is no skill {skill_id!r}.",
                hint=f"Skills here: {', '.join(skills) or 'none'}.",
            )
        return skills[skill_id]

    def generator(self, skill_id: str) -> SkillGenerator:
        if skill_id not in self._generators:
            self._generators[skill_id] = _build(self.get(skill_id))
        return self._generators[skill_id]

    def _load(self) -> dict[str, SkillDefinition]:
        if self._definitions is None:
            if not self.folder.is_dir():
                raise ConfigError(
                    f"The skills folder {self.folder} does not exist.",
                    hint="It ships with the project as configs/skills.",
                )
            found: dict[str, SkillDefinition] = {}
            for path in sorted(self.folder.glob("*.yaml")):
                if path.name.startswith("_"):
                    continue
                skill = load_yaml_model(path, SkillDefinition)
                if skill.id in found:
                    raise ConfigError(f"{path}: id: {skill.id!r} is taken by another file.")
                found[skill.id] = skill
            self._definitions = found
        return self._definitions


def _build(skill: SkillDefinition) -> SkillGenerator:
    if skill.api.generator is None:
        raise ConfigError(
            f"Skill {skill.id} is served at {skill.api.url}; it has no generator here.",
            hint="Name a module in api.generator to generate its problems in this process.",
        )
    try:
        module = importlib.import_module(skill.api.generator)
    except ModuleNotFoundError as error:
        raise ConfigError(f"Skill {skill.id}: api.generator: no module {skill.api.generator!r} ({error}).") from error
    build = getattr(module, "build", None)
    if not callable(build):
        raise ConfigError(f"Skill {skill.id}: api.generator: {module.__name__} has no build().")
    generator: SkillGenerator = build(skill)
    return generator


@lru_cache(maxsize=8)
def _registry(folder: Path | None) -> SkillRegistry:
    return SkillRegistry(folder)


def list_skills(folder: Path | None = None) -> list[SkillDefinition]:
    """Return all skills, by file name."""
    return _registry(folder).list()


def get_skill(skill_id: str, folder: Path | None = None) -> SkillDefinition:
    """Return a skill's definition. Raises NotFoundError."""
    return _registry(folder).get(skill_id)


def get_trainer(skill_id: str, folder: Path | None = None) -> SkillGenerator:
    """Return the generator that trains and examines a skill. Raises NotFoundError."""
    return _registry(folder).generator(skill_id)
