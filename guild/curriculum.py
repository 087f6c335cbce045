"""Which level a hero trains next: a pure function of its recorded accuracies.

A level is mastered when the mean of its last three evaluations is at least 0.80; the training level is
the highest mastered level plus one. Mastery of a level counts whether or not those below it were ever
measured, but is lost when later evaluations pull the mean down: nothing is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

EVALUATIONS_TO_ADVANCE = 3
MASTERY = 0.80


def mastery(accuracies: Sequence[float]) -> float | None:
    """Return the mean of the last three accuracies, oldest first, or None while there are fewer."""
    last = accuracies[-EVALUATIONS_TO_ADVANCE:]
    # Rounded, so that 0.75, 0.80 and 0.85 make 0.80 and not a little less.
    return round(math.fsum(last) / len(last), 9) if len(last) == EVALUATIONS_TO_ADVANCE else None


def mastered_level(history: Mapping[int, Sequence[float]], threshold: float = MASTERY) -> int:
    """Return the highest mastered level, 0 for none. `history` is level → accuracies, oldest first."""
    means = {level: mastery(accuracies) for level, accuracies in history.items()}
    return max((level for level, mean in means.items() if mean is not None and mean >= threshold), default=0)


def training_level(history: Mapping[int, Sequence[float]], max_level: int, threshold: float = MASTERY) -> int:
    """Return the level to train: one above the highest mastered, at most the last."""
    return min(mastered_level(history, threshold) + 1, max_level)
