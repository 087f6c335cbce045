"""The training level is a pure function of recorded accuracies."""

import pytest

from guild.curriculum import mastered_level, mastery, training_level


@pytest.mark.parametrize(
    ("accuracies", "mean"),
    [([], None), ([0.9, 0.9], None), ([0.9, 0.9, 0.9], 0.9), ([0.0, 0.8, 0.7, 0.9], 0.8)],
)
def test_mastery_is_the_mean_of_the_last_three(accuracies, mean):
    assert mastery(accuracies) == (None if mean is None else pytest.approx(mean))


def test_a_hero_without_evaluations_trains_level_one():
    assert mastered_level({}) == 0
    assert training_level({}, 8) == 1


def test_a_mastered_level_leads_to_the_next():
    assert training_level({1: [0.75, 0.8, 0.85]}, 8) == 2
    assert training_level({1: [0.9] * 3, 2: [0.9, 0.7, 0.7]}, 8) == 2
    assert training_level({1: [0.9] * 3, 2: [0.1, 0.9, 0.9, 0.9]}, 8) == 3


def test_mastery_can_be_lost_again():
    assert training_level({1: [0.9] * 3 + [0.1] * 3}, 8) == 1


def test_the_last_level_has_no_next():
    assert training_level({8: [1.0] * 3}, 8) == 8
