"""What happens to a file that arrives: whose job it becomes, and what it must not hold.

The intake is mechanism; these are the realm's rules, lent to it as callables: which hero trains on a file, with which
settings, how strictly it is looked at, that no evaluation problem gets in, and what the run will need of memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena.formats import Row
from arena.formats.quests import GeneratorSpec, QuestSpec
from arena.gatekeepers import Depth, Lengths, Policy
from arena.intake import Arrival, RefusedArrival
from arena.memory import ModelShape, RunShape, estimate
from arena.trainers.sft.config import SftConfig, parse_config
from guild.quests import make_quest_rows
from guild.skills import get_trainer, list_skills
from guild.skills.contract import SkillGenerator
from realm.errors import ConfigError, CorruptFileError, NotFoundError
from realm.files import read_json
from vault.records import Hero, Job, NewJob

if TYPE_CHECKING:
    from realm.wiring import Realm

CPU_ROWS = 64
"""Rows of a forward pass on a CPU when the recipe leaves it open: the whole step, at most so many."""


class Reception:
    """The rules of one realm."""

    def __init__(self, realm: Realm) -> None:
        self._realm = realm

    def accept(self, arrival: Arrival) -> Job:
        """Enter a file that was let in as a job: the commit point of its arrival. Raises ConfigError."""
        hero = self._realm.ensure_hero(arrival.hero)
        spec = arrival.spec
        trainer = spec.trainer if spec is not None else hero.trainer
        overrides = dict(spec.config) if spec is not None else {}
        data = {"sha256": arrival.object_sha256, "canonical_sha256": arrival.canonical_sha256, "rows": arrival.rows}
        data |= {"format": arrival.format, "name": arrival.name, "size": arrival.size}
        new = NewJob(
            hero_id=hero.id,
            trainer=trainer,
            name=arrival.name,
            idem_key=arrival.idem_key,
            source=arrival.source,
            priority=arrival.priority,
            data=[data],
            config=overrides,
            report=arrival.report.to_dict(),
            skill=arrival.skill,
            level=arrival.level,
            rows=arrival.rows,
            planned_steps=self._planned_steps(trainer, {**hero.config, **overrides}, arrival.rows),
        )
        return self._realm.vault.jobs.submit(new)[0]

    def refuse(self, refusal: RefusedArrival) -> Job:
        """Enter a file that was turned down, with its report, so that people find it on the board."""
        hero = self._realm.ensure_hero()
        new = NewJob(
            hero_id=hero.id,
            trainer=hero.trainer,
            name=refusal.name,
            idem_key=refusal.idem_key,
            source=refusal.source,
            priority=refusal.priority,
            report=refusal.report.to_dict() if refusal.report else None,
            skill=refusal.skill,
            level=refusal.level,
        )
        reason = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint}
        return self._realm.vault.jobs.submit(new, state="refused", reason=reason)[0]

    def policy(self, spec: QuestSpec | None) -> Policy:
        """Return how strictly a file is looked at, and by the eyes of which tokenizer."""
        arena = self._realm.settings.arena
        hero = self._realm.ensure_hero(spec.hero if spec is not None else None)
        folder = self._realm.paths.home / hero.model_dir
        recipe = self._recipe(hero, spec)
        policy = Policy(
            depth=Depth.of(arena.validation_depth),
            max_bad_rows=arena.max_bad_rows,
            kinds=frozenset([spec.kind]) if spec is not None and spec.kind else None,
            row_checks=(self._held_out,),
        )
        if recipe is None or not (folder / "tokenizer.json").is_file():
            return policy
        return replace(
            policy,
            tokenizer_dir=folder,
            profile=recipe.profile,
            max_tokens=recipe.max_length,
            estimate_memory=lambda lengths: self._memory(recipe, folder, lengths),
        )

    def generate(self, wish: GeneratorSpec) -> list[dict[str, Any]]:
        """Make the rows that a quest file asks a skill for, in the shares of tags and levels that suit the hero."""
        seed = wish.seed if wish.seed is not None else secrets.randbits(32)
        plan = self._realm.hero_variant()[1].quest
        return list(make_quest_rows(wish.skill, plan.level_shares(wish.level), wish.count, seed, mix=plan.mix))

    # Rules

    def _recipe(self, hero: Hero, spec: QuestSpec | None) -> SftConfig | None:
        """Return the configuration of the run where it is one of ours and valid; a bad one is refused by `accept`."""
        if (spec.trainer if spec is not None else hero.trainer) != "sft":
            return None
        try:
            return parse_config({**hero.config, **(spec.config if spec is not None else {})})
        except ConfigError:
            return None

    def _planned_steps(self, trainer: str, config: dict[str, Any], rows: int) -> int | None:
        """Return how many steps a job will take where that is known before it runs. Raises ConfigError."""
        trainers = self._realm.trainers
        if trainer not in trainers:
            known = ", ".join(sorted(trainers))
            raise ConfigError(f"There is no trainer {trainer!r}.", hint=f"Known trainers: {known}.", key="trainer")
        if trainer != "sft":
            return None
        recipe = parse_config(config)
        if recipe.max_steps is not None:
            return recipe.max_steps
        if recipe.batch_tokens is not None:
            return None
        trained = rows - round(rows * recipe.validation_fraction)
        return max(1, round(recipe.epochs * -(-trained // recipe.batch_size)))

    def _held_out(self, row: Row) -> str | None:
        """Return why a row must not be trained on: it is, or equals, a problem that evaluations use."""
        for generator in self._generators:
            for message in row.get("messages", ()):
                if generator.is_held_out(str(message.get("content", ""))):
                    return "it is an evaluation problem or its equal"
        return None

    @cached_property
    def _generators(self) -> list[SkillGenerator]:
        return [get_trainer(skill.id) for skill in list_skills()]

    def _memory(self, recipe: SftConfig, folder: Path, lengths: Lengths) -> Mapping[str, Any]:
        """Return what the run will need of memory, by part in bytes, and whether that is free now."""
        try:
            shape = ModelShape.from_config(read_json(folder / "config.json"))
        except (NotFoundError, CorruptFileError, KeyError, TypeError, ValueError):
            return {}
        machine = self._realm.machine.read(self._realm.paths.home)
        gpus = machine["gpus"]
        length = min(recipe.max_length, max(1, lengths.longest))
        passes = recipe.micro_batch_size or (recipe.batch_size if not gpus else max(1, 16384 // length))
        run = RunShape(
            rows=min(passes, CPU_ROWS, max(1, lengths.rows)),
            length=length,
            bf16=recipe.precision == "bf16" or (recipe.precision == "auto" and bool(gpus)),
            gradient_checkpointing=recipe.gradient_checkpointing,
            lora_r=recipe.lora.r if recipe.lora else None,
            loss_chunk_tokens=recipe.loss_chunk_tokens,
            eager_attention=recipe.attention == "eager",
            device="cuda" if gpus else "cpu",
        )
        needed = estimate(shape, run)
        free = (
            max(gpu["memory_total"] - gpu["memory_used"] for gpu in gpus)
            if gpus
            else machine["memory"]["total"] - machine["memory"]["used"]
        )
        parts = [asdict(part) for part in needed.parts]
        return {
            "total": needed.total,
            "free": free,
            "fits": needed.fits(free),
            "device": needed.device,
            "parts": parts,
            "rows_a_pass": run.rows,
            "length": run.length,
        }
