"""BIN rows: training samples, static evaluation sets, and the split that keeps them apart.

A level gives the width of the operands, the operations, the mix of tags and the share of symbol
language; all four stand in the skill's YAML. Sampling draws the operation first, so that `increment`
with its few operands is met as often as `add`.

Evaluation sets are drawn from the enumerated space where a level is small enough to enumerate (all of
it, where it has no more problems than were asked for) and by seeded rejection where it is not. They
are always in plain notation up to the level at which the symbol language begins.

Invariant: a row of split `train` never has a held-out key (tests/guild/test_bin_split.py); equal
arguments give equal rows (tests/guild/test_skill_contract.py).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence

from guild.skills.bin import checker, scoring
from guild.skills.bin.answers import answer
from guild.skills.bin.notation import PLAIN, invent
from guild.skills.bin.problems import (
    OPERATIONS,
    PREFIX,
    Problem,
    draw,
    enumerate_space,
    is_held_out_key,
    space_size,
)
from guild.skills.bin.prompts import DIFFICULTY, DIRECT, TAGS, Prompt, find_problems, render
from guild.skills.contract import EvaluationSet, EvaluationSplit, Row, Score, Split
from guild.skills.definition import Level, SkillDefinition
from realm.errors import ConfigError

ENUMERABLE = 50_000
"""Spaces up to this size are listed and shuffled; larger ones are drawn from."""


class BinGenerator:
    """Makes and judges the problems of one skill definition."""

    def __init__(self, skill: SkillDefinition) -> None:
        self.skill = skill
        for number, level in skill.level_progression.items():
            unknown = set(level.operations) - OPERATIONS
            if unknown or not level.operations or level.bits is None:
                fault = f"unknown operations {sorted(unknown)}" if unknown else "needs bits and operations"
                raise ConfigError(f"Skill {skill.id}: level_progression.{number}: {fault}.")
            normal_mix(level.mix)

    def sample(
        self,
        level: int,
        count: int,
        *,
        seed: int | None = None,
        split: Split = "train",
        mix: Mapping[str, float] | None = None,
    ) -> list[Row]:
        """Return `count` rows of a level. `mix` gives the share of each tag; default: the level's.

        The same seed gives the same rows; without one they are fresh.
        """
        seed = secrets.randbits(53) if seed is None else seed
        rules = self.skill.level(level)
        shares = normal_mix(mix if mix is not None else rules.mix)
        rng = random.Random(f"{self.skill.id}/{level}/{split}/{seed}")
        prompts = [
            self._dress(self._draw(rules, split, rng), tag, rules, rng)
            for tag in rng.choices(list(shares), list(shares.values()), k=count)
        ]
        return [self._training_row(prompt, level, split) for prompt in prompts]

    def evaluation_set(
        self,
        level: int,
        split: EvaluationSplit,
        *,
        count: int | None = None,
        seed: int | None = None,
        tags: Sequence[str] | None = None,
    ) -> EvaluationSet:
        """Return a static set of up to `count` distinct prompts, spread evenly over `tags`."""
        plan, rules = self.skill.eval, self.skill.level(level)
        wanted = plan.samples_per_level if count is None else count
        chosen = tuple(normal_mix(dict.fromkeys(tags or plan.headline_tags or (DIRECT,), 1.0)))
        rng = random.Random(f"{self.skill.id}/{level}/{split}/{plan.seed if seed is None else seed}/eval")
        problems, space = self._evaluation_problems(rules, split, wanted, rng)
        prompts = [
            self._dress(problem, chosen[index % len(chosen)], rules, rng)
            for index, problem in enumerate(problems[:wanted])
        ]
        rows = tuple(self._evaluation_row(prompt, level, split) for prompt in prompts)
        return EvaluationSet(f"{self.skill.id}/L{level}/{split}", self.skill.id, level, split, rows, space, chosen)

    def problem_keys(self, text: str) -> list[str]:
        """Return the keys of all problems that a text contains."""
        return list(dict.fromkeys(problem.key for problem in find_problems(text)))

    def problem_key(self, text: str) -> str | None:
        """Return the key of the first problem in a text, or None."""
        return next(iter(self.problem_keys(text)), None)

    def is_held_out(self, prompt_or_key: str) -> bool:
        """True where any problem in the text, or the key itself, is held out."""
        if prompt_or_key.startswith(PREFIX):
            return is_held_out_key(prompt_or_key)
        return any(is_held_out_key(key) for key in self.problem_keys(prompt_or_key))

    def check(self, prompt: str, answer: str) -> list[str]:
        return checker.check(prompt, answer)

    def score(self, expected: str, got: str) -> Score:
        return scoring.score(expected, got)

    def space(self, level: int) -> int:
        """Return how many problems a level has, both sides of the split together."""
        rules = self.skill.level(level)
        return space_size(rules.operations, _bits(rules))

    def _draw(self, rules: Level, split: Split, rng: random.Random) -> Problem:
        while True:
            problem = draw(rng, rules.operations, _bits(rules))
            if problem.held_out == (split == "heldout"):
                return problem

    def _dress(self, problem: Problem, tag: str, rules: Level, rng: random.Random) -> Prompt:
        symbolic = rules.symbol_language and rng.random() < rules.symbol_language
        return Prompt(problem, tag, invent(rng, problem.operation) if symbolic else PLAIN)

    def _evaluation_problems(
        self, rules: Level, split: EvaluationSplit, wanted: int, rng: random.Random
    ) -> tuple[list[Problem], int]:
        """Return distinct problems in random order, and how many the split has (an estimate where
        the space is too large to list: four fifths, or one fifth, of it)."""
        size, held = space_size(rules.operations, _bits(rules)), split == "heldout"
        if size <= ENUMERABLE:
            listed = [p for p in enumerate_space(rules.operations, _bits(rules)) if p.held_out == held]
            rng.shuffle(listed)
            return listed, len(listed)
        drawn: dict[Problem, None] = {}
        while len(drawn) < wanted:
            drawn.setdefault(self._draw(rules, "heldout" if held else "train", rng))
        return list(drawn), size // 5 if held else size - size // 5

    def _training_row(self, prompt: Prompt, level: int, split: str) -> Row:
        messages = [
            {"role": "user", "content": render(prompt)},
            {"role": "assistant", "content": answer(prompt)},
        ]
        return {"messages": messages, "metadata": self._metadata(prompt, level, split)}

    def _evaluation_row(self, prompt: Prompt, level: int, split: str) -> Row:
        return {
            "messages": [{"role": "user", "content": render(prompt)}],
            "answer": answer(prompt),
            "metadata": self._metadata(prompt, level, split),
        }

    def _metadata(self, prompt: Prompt, level: int, split: str) -> dict[str, object]:
        return {
            "skill": self.skill.id,
            "level": level,
            "op": prompt.problem.operation,
            "tag": prompt.tag,
            "problem": prompt.problem.key,
            "split": split,
        }


def normal_mix(mix: Mapping[str, float]) -> dict[str, float]:
    """Return tag → share, by the tags' own names and in their own order.

    Difficulties (`easy` … `expert`) are taken for the tags that they stand for. Raises ConfigError.
    """
    shares = dict.fromkeys(TAGS, 0.0)
    for name, share in mix.items():
        tag = DIFFICULTY.get(name, name)
        if tag not in shares or share < 0:
            raise ConfigError(
                f"mix: {name}={share} is not a tag with a share.",
                hint=f"Tags: {', '.join(TAGS)}; or {', '.join(DIFFICULTY)}.",
            )
        shares[tag] += share
    used = {tag: share for tag, share in shares.items() if share}
    if not used:
        raise ConfigError("mix: no tag has a share.", hint=f"Tags: {', '.join(TAGS)}.")
    return used


def _bits(rules: Level) -> int:
    assert rules.bits is not None, "checked when the generator was built"
    return rules.bits
