"""How numbers are written for people."""

from __future__ import annotations

import math

import pytest

from tavern import numbers


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (190, "3 min"), (5400, "1 h 30 min"), (8040, "2 h 14 min"), (-1, "–")],
)
def test_a_span_reads_as_people_say_it(seconds: float, words: str) -> None:
    assert numbers.span(seconds) == words


@pytest.mark.parametrize(
    ("bounds", "words"),
    [([240, 360], "4 to 6 min"), ([40, 50], "40 to 50 s"), ([60, 120], "60 s to 2 min"), ([5, 5], "5 s"), (None, "–")],
)
def test_an_estimate_keeps_its_bounds(bounds: list[float] | None, words: str) -> None:
    assert numbers.span_range(bounds) == words


def test_what_does_not_exist_is_a_dash_and_never_a_zero() -> None:
    writers = (
        numbers.whole,
        numbers.loss,
        numbers.stat,
        numbers.rate,
        numbers.pace,
        numbers.span,
        numbers.size,
        numbers.percent,
    )
    assert {write(None) for write in writers} == {"–"}
    assert {numbers.loss(math.nan), numbers.whole(math.inf), numbers.rate(math.nan)} == {"–"}


def test_numbers_carry_their_usual_form() -> None:
    assert numbers.whole(182430) == "182,430"
    assert numbers.loss(0.41237) == "0.412"
    assert numbers.loss(0.00008) == "8.0e-5"
    assert numbers.loss(0.0) == "0.000"
    assert [numbers.stat(value) for value in (18.718, 694.39, 1245.4, 12454.4)] == [
        "18.72",
        "694.4",
        "1,245",
        "1.2e4",
    ]
    assert numbers.rate(2.9e-5) == "2.9e-5"
    assert numbers.percent(0.834) == "83.4"
    assert numbers.size(1503238553) == "1.4 GiB"
    assert numbers.count(1, "quest") == "1 quest"
    assert numbers.count(2, "quest") == "2 quests"
