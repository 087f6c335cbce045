"""Quests: data files made of a skill's problems, and the evaluation sets that go with them.

A quest file is JSON lines, one training row each, in a seeded order; the same arguments write the same
bytes, so its SHA-256 is a name for it. No row of it is held out. Beside it there may be a quest
specification (YAML) that says how to train on it:

    trainer: sft
    data: bin-L1-3.jsonl
    skill: bin
    level: 3
    config: {batch_size: 16, learning_rate: 0.003}
    evaluation: {levels: [1, 2, 3, 4]}

Evaluation sets are never written into training data: `evaluation_sets_for` hands them to the caller,
which puts them into the run directory's `eval/`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from guild.skills.contract import EvaluationSet, EvaluationSplit, Row, SkillGenerator, Split
from guild.skills.registry import get_skill, get_trainer
from realm.errors import ConfigError, RefusedError
from realm.files import durable_write

EVALUATION_SPLITS: tuple[EvaluationSplit, ...] = ("known", "heldout")


@dataclass(frozen=True)
class QuestFile:
    """A data file that was written, and how to make it again."""

    path: Path
    sha256: str
    rows: int
    skill: str
    levels: dict[int, float]
    """Level → share of the rows."""
    seed: int
    mix: dict[str, float] | None = None

    @property
    def level(self) -> int:
        """The level that the quest trains: its highest."""
        return max(self.levels)


@dataclass(frozen=True)
class QuestSpec:
    """How to train on a data file: what a dropped quest specification says."""

    data: str
    skill: str
    level: int
    trainer: str = "sft"
    priority: str = "normal"
    config: dict[str, Any] = field(default_factory=dict)
    evaluation_levels: tuple[int, ...] = ()


def make_quest_rows(
    skill_id: str,
    levels: int | Sequence[int] | Mapping[int, float],
    count: int,
    seed: int,
    mix: Mapping[str, float] | None = None,
    *,
    split: Split = "train",
    folder: Path | None = None,
) -> list[Row]:
    """Return `count` rows, shared among the levels (equally, or by weight) and shuffled.

    `mix` gives the share of each tag; by default every level has the mix of its definition.
    """
    if count < 1:
        raise ConfigError(f"A quest needs at least one row, not {count}.")
    generator = get_trainer(skill_id, folder)
    shares = _shares(levels)
    rng = random.Random(f"{skill_id}/{sorted(shares.items())}/{count}/{seed}")
    picked = rng.choices(list(shares), list(shares.values()), k=count)
    rows = [
        row
        for level in sorted(shares)
        for row in generator.sample(level, picked.count(level), seed=seed, split=split, mix=mix)
    ]
    rng.shuffle(rows)
    return rows


def make_quest(  # noqa: PLR0917
    skill_id: str,
    levels: int | Sequence[int] | Mapping[int, float],
    count: int,
    seed: int,
    out_path: Path,
    mix: Mapping[str, float] | None = None,
    *,
    folder: Path | None = None,
) -> QuestFile:
    """Write a data file of training rows at `out_path` (JSON lines), complete or not at all."""
    rows = make_quest_rows(skill_id, levels, count, seed, mix, folder=folder)
    refuse_held_out(rows, get_trainer(skill_id, folder))
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    out_path.parent.mkdir(parents=True, exist_ok=True)
    durable_write(out_path, data)
    return QuestFile(
        path=out_path,
        sha256=hashlib.sha256(data).hexdigest(),
        rows=len(rows),
        skill=skill_id,
        levels=_shares(levels),
        seed=seed,
        mix=dict(mix) if mix is not None else None,
    )


def write_spec(path: Path, spec: QuestSpec) -> Path:
    """Write a quest specification beside its data file."""
    content: dict[str, Any] = {
        "trainer": spec.trainer,
        "data": spec.data,
        "skill": spec.skill,
        "level": spec.level,
        "priority": spec.priority,
        "config": spec.config,
        "evaluation": {"levels": list(spec.evaluation_levels)},
    }
    durable_write(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
    return path


def evaluation_sets_for(
    skill_id: str, level: int, *, count: int | None = None, folder: Path | None = None
) -> list[EvaluationSet]:
    """Return the sets of every level up to the next one, known and held out.

    Each level has a set in the tags whose accuracy is the level's number and, in a set of its own with
    the tag behind its name, one for every tag that is evaluated for contrast.
    """
    skill, generator = get_skill(skill_id, folder), get_trainer(skill_id, folder)
    skill.level(level)
    sets = []
    for number in range(1, min(level + 1, skill.max_level) + 1):
        for split in EVALUATION_SPLITS:
            sets.append(generator.evaluation_set(number, split, count=count))
            for tag in skill.eval.contrast_tags:
                contrast = generator.evaluation_set(number, split, count=count, tags=[tag])
                sets.append(named(contrast, f"{contrast.name}/{tag}"))
    return sets


def named(evaluation: EvaluationSet, name: str) -> EvaluationSet:
    """Return the same set under another name."""
    return EvaluationSet(
        name,
        evaluation.skill,
        evaluation.level,
        evaluation.split,
        evaluation.rows,
        evaluation.space,
        evaluation.tags,
    )


def refuse_held_out(rows: Iterable[Row], generator: SkillGenerator) -> None:
    """Raise RefusedError where any row's text holds a held-out problem."""
    for number, row in enumerate(rows, start=1):
        for message in row["messages"]:
            if generator.is_held_out(message["content"]):
                raise RefusedError(
                    f"Row {number} is an evaluation problem or its equal: {message['content']!r}.",
                    code="held_out_row",
                    row=number,
                )


def parse_mix(text: str) -> dict[str, float]:
    """Read `show-work=0.7,direct=0.3`. Raises ConfigError."""
    mix: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, share = part.partition("=")
        try:
            mix[name.strip()] = float(share)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"mix: {part!r} is not TAG=SHARE.", hint="For example show-work=0.7,direct=0.3.")
    return mix


def _shares(levels: int | Sequence[int] | Mapping[int, float]) -> dict[int, float]:
    weights = (
        {int(level): float(weight) for level, weight in levels.items()}
        if isinstance(levels, Mapping)
        else dict.fromkeys([levels] if isinstance(levels, int) else levels, 1.0)
    )
    total = sum(weights.values())
    if not weights or total <= 0 or min(weights.values()) < 0:
        raise ConfigError("A quest needs at least one level with a share above zero.")
    return {level: weight / total for level, weight in sorted(weights.items()) if weight}
