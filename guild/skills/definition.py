"""A skill as its YAML file describes it. The file is the only source of truth about a skill.

Unknown keys and contradictions are errors that name the file and the key. `configs/skills/_template.yaml`
shows every field; files whose name begins with an underscore are not skills.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from realm.errors import ConfigError

Category = Literal[
    "reasoning",
    "math",
    "compression",
    "generation",
    "classification",
    "tool_use",
    "instruction",
    "code",
]
Share = Annotated[float, Field(ge=0, le=1)]
Model = TypeVar("Model", bound=BaseModel)
SkillId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,31}$")]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Display(Part):
    icon: str = Field(min_length=1, max_length=8)
    color: str = Field(pattern=r"^#[0-9A-Fa-f]{6}$")
    short_name: str = Field(min_length=1, max_length=12)


class Endpoints(Part):
    health: str = "/health"
    info: str = "/info"
    levels: str = "/levels"
    generate: str = "/generate"
    eval: str = "/eval"


class Api(Part):
    generator: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*$")
    """Module with `build(skill)`; the built-in way."""
    url: str | None = None
    """Base URL of a skill server, where the skill is not built in."""
    port: int | None = Field(default=None, ge=1, le=65535)
    endpoints: Endpoints = Endpoints()

    @model_validator(mode="after")
    def _one_source(self) -> Api:
        if (self.generator is None) == (self.url is None):
            raise ValueError("give exactly one of api.generator and api.url")
        return self


class Level(Part):
    desc: str
    bits: int | None = Field(default=None, ge=1)
    """Width of the operands, for skills on numbers."""
    operations: tuple[str, ...] = ()
    mix: dict[str, Share] = {}
    """Share of each tag in the level's training rows."""
    symbol_language: Share = 0.0
    """Share of rows written in a made-up language with a key."""


class OutputSchema(Part):
    type: Literal["text", "json"] = "text"
    description: str
    pattern: str | None = None


class TrainingFormat(Part):
    format: Literal["chat_messages"] = "chat_messages"
    fields: tuple[str, ...] = ("messages", "metadata")


class EvaluationPlan(Part):
    samples_per_level: int = Field(default=5, ge=1)
    seed: int = 0
    seeded: Literal[True] = True
    local_cache: bool = True
    headline_tags: tuple[str, ...] = ()
    """Tags of the evaluation whose accuracy is the level's number."""
    contrast_tags: tuple[str, ...] = ()
    """Tags evaluated beside it in sets of their own; they never decide a level."""


class SkillDefinition(Part):
    id: SkillId
    name: str
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    description: str
    category: Category
    display: Display
    api: Api
    max_level: int = Field(ge=1)
    level_progression: dict[int, Level]
    output_schema: OutputSchema
    training: TrainingFormat = TrainingFormat()
    eval: EvaluationPlan = EvaluationPlan()
    metrics: tuple[str, ...]
    primary_metric: str
    accuracy_thresholds: dict[str, Share] = {}
    xp_multiplier: float = Field(default=1.0, gt=0)
    rpg_name: str
    rpg_description: str
    primitives: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _levels_are_complete(self) -> SkillDefinition:
        expected = set(range(1, self.max_level + 1))
        if set(self.level_progression) != expected:
            odd = sorted(set(self.level_progression) ^ expected)
            raise ValueError(
                f"level_progression and max_level disagree: levels {odd} "
                f"are missing or too many for max_level {self.max_level}"
            )
        if self.primary_metric not in self.metrics:
            raise ValueError("primary_metric is not one of metrics")
        for number, level in self.level_progression.items():
            if level.mix and abs(sum(level.mix.values()) - 1) > 1e-6:
                raise ValueError(f"level_progression.{number}.mix does not add up to 1")
        return self

    def level(self, number: int) -> Level:
        if number not in self.level_progression:
            raise ConfigError(f"{self.id} has no level {number}.", hint=f"Levels are 1 to {self.max_level}.")
        return self.level_progression[number]


def load_yaml_model(path: Path, kind: type[Model]) -> Model:
    """Read and validate one YAML file. Every error names the file and, where it can, the key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {faults}", path=str(path)) from error
