"""How numbers, sizes, spans and times are written for people: one way, the same in `static/js/format.js`.

Thousands commas; losses with three decimals; spans as "40 s", "6 min" or "2 h 14 min"; a value that does not exist is
an en dash. Times are Unix seconds and shown in the server's time zone until the page rewrites them in the reader's.
Checked by tests/tavern/test_pages.py against a table that the browser tests run through the JavaScript as well.
"""

from __future__ import annotations

import math
from datetime import datetime

NONE = "–"


def whole(value: float | None) -> str:
    """1234 → "1,234"."""
    return NONE if value is None or not math.isfinite(value) else f"{round(value):,}"


def fixed(value: float | None, decimals: int) -> str:
    """0.41237, 3 → "0.412"."""
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{decimals}f}"


def loss(value: float | None) -> str:
    """0.41237 → "0.412"; what would read as nothing is written out: 0.00008 → "8.0e-5"."""
    return rate(value) if value is not None and 0 < abs(value) < 0.0005 else fixed(value, 3)


def stat(value: float | None) -> str:
    """One over a loss, in six characters: 18.718 → "18.72"; 694.39 → "694.4"; 1245.4 → "1,245"; then "1.2e4"."""
    if value is None or not math.isfinite(value):
        return NONE
    return rate(value) if value >= 1e4 else fixed(value, 2 if value < 100 else 1 if value < 1000 else 0)


def percent(share: float | None, decimals: int = 1) -> str:
    """0.834 → "83.4"; the sign stands beside it where it is shown."""
    return NONE if share is None else fixed(share * 100, decimals)


def rate(value: float | None) -> str:
    """A learning rate or another number of unknown size: 0.0004 → "4.0e-4"."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def pace(value: float | None) -> str:
    """Steps per second."""
    if value is None or not math.isfinite(value):
        return NONE
    return fixed(value, 1 if value < 100 else 0)


def span(seconds: float | None) -> str:
    """190 → "3 min"; 8040 → "2 h 14 min"."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NONE
    if seconds < 90:
        return f"{round(seconds)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{round(hours / 24)} days"


def span_range(bounds: list[float] | tuple[float, float] | None) -> str:
    """An estimate with its bounds: "4 to 6 min"; one number where both read the same."""
    if not bounds:
        return NONE
    low, high = span(bounds[0]), span(bounds[1])
    if low == high or NONE in (low, high):
        return high if low == NONE else low
    if low.count(" ") == high.count(" ") == 1 and low.split()[1] == high.split()[1]:
        return f"{low.split()[0]} to {high}"
    return f"{low} to {high}"


def size(count: float | None) -> str:
    """Bytes, in powers of 1024: 1503238553 → "1.4 GiB"."""
    if count is None or not math.isfinite(count):
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def clock(at: float | None) -> str:
    """Time of day."""
    return NONE if at is None else datetime.fromtimestamp(at).astimezone().strftime("%H:%M")


def date(at: float | None) -> str:
    """27 Nov 2025, 22:10"""
    if at is None:
        return NONE
    moment = datetime.fromtimestamp(at).astimezone()
    return f"{moment.day} {moment:%b %Y}, {moment:%H:%M}"


def iso(at: float | None) -> str:
    """For `<time datetime>`."""
    return "" if at is None else datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def count(number: int, one: str, many: str | None = None) -> str:
    """3, "quest" → "3 quests"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
