"""Answers are compared in order and character by character."""

import pytest

from guild.skills import get_trainer
from guild.skills.bin.scoring import near_miss

BIN = get_trainer("bin")
GOLDEN = "5 + 3 = 8\nadd(①⓪①, ①①) = ①⓪⓪⓪"


def test_the_golden_answer_is_right():
    score = BIN.score(GOLDEN, GOLDEN + "\n")
    assert score.whole and score.final and not score.near_miss


def test_wrong_work_over_a_right_result_is_told_apart():
    score = BIN.score(GOLDEN, GOLDEN.replace("= 8", "= 9"))
    assert not score.whole and score.final


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("⓪⓪⓪①", "digits_in_another_order"),
        ("①⓪⓪", "one_digit_more_or_less"),
        ("⓪①⓪⓪⓪", "leading_zeros"),
        ("①⓪①⓪", "one_digit_wrong"),
        ("①①①①", "wrong_value"),
        ("1000", "wrong_value"),
        ("", "no_equation"),
    ],
)
def test_a_wrong_value_is_wrong_and_has_a_name(value, kind):
    score = BIN.score(GOLDEN, f"5 + 3 = 8\nadd(①⓪①, ①①) = {value}")
    assert not score.whole and not score.final
    assert score.near_miss == kind


def test_other_near_misses():
    assert near_miss("equals(①, ①) = true", "equals(①, ①) = false") == "opposite"
    assert near_miss("add(①, ①) = ①⓪", "add(①, ⓪) = ①⓪") == "call_miscopied"
    assert near_miss("add(①, ①) = ①⓪", "add(①, ⓪) = ①") == "other_problem"


def test_order_matters_in_every_pair_of_different_answers():
    # Compared as sets of digits, most of these would be equal.
    values = {row["answer"].rpartition(" = ")[2] for row in BIN.evaluation_set(3, "known").rows}
    numbers = sorted(value for value in values if value[0] in "⓪①")
    for a in numbers:
        for b in numbers:
            assert BIN.score(f"f(①) = {a}", f"f(①) = {b}").final == (a == b)
