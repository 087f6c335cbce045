"""What a skill's generator offers.

A generator module has one function, `build(skill: SkillDefinition) -> SkillGenerator`; the YAML names
the module in `api.generator`. Everything else that a generator does, it does behind these calls.

Invariants that every generator keeps (tests/guild/test_skill_contract.py runs them on each):
the same arguments give the same rows; a training row is never a held-out problem nor its equal;
`problem_key` finds the problem in every prompt that the generator writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Row = dict[str, Any]
"""Training: {"messages": [user, assistant], "metadata": {...}}. Evaluation: {"messages": [user],
"answer": text, "metadata": {...}}. Metadata: skill, level, op, tag, problem, split."""

Split = Literal["train", "heldout"]
EvaluationSplit = Literal["known", "heldout"]


@dataclass(frozen=True)
class EvaluationSet:
    """A static, seeded set of problems of one level, known or held out."""

    name: str
    skill: str
    level: int
    split: EvaluationSplit
    rows: tuple[Row, ...]
    space: int
    """Distinct problems that this split of the level has in all."""
    tags: tuple[str, ...]
    """How the answers reason; the first is the one the headline number stands for."""

    @property
    def distinct_problems(self) -> int:
        return len({row["metadata"]["problem"] for row in self.rows})


@dataclass(frozen=True)
class Score:
    """How an answer compares with the golden one."""

    whole: bool
    """Every character of the turn is right."""
    final: bool
    """The last line is right, whatever the work above it says."""
    near_miss: str
    """Empty when the final line is right, else what kind of wrong it is."""


class SkillGenerator(Protocol):
    """Problems, answers and their judgement for one skill."""

    def sample(
        self,
        level: int,
        count: int,
        *,
        seed: int | None = None,
        split: Split = "train",
        mix: Mapping[str, float] | None = None,
    ) -> list[Row]:
        """Return `count` rows of a level; the same seed gives the same rows, none gives fresh ones."""
        ...

    def evaluation_set(
        self,
        level: int,
        split: EvaluationSplit,
        *,
        count: int | None = None,
        seed: int | None = None,
        tags: Sequence[str] | None = None,
    ) -> EvaluationSet: ...

    def problem_keys(self, text: str) -> list[str]: ...

    def problem_key(self, text: str) -> str | None: ...

    def is_held_out(self, prompt_or_key: str) -> bool: ...

    def check(self, prompt: str, answer: str) -> list[str]: ...

    def score(self, expected: str, got: str) -> Score: ...
