"""How a BIN answer compares with the golden one: order and every character count.

Two verdicts are kept apart. `whole` asks for the entire turn, work included; `final` for the last line
only, so that a right result under wrong work (or the other way round) can be seen. A wrong final line
is sorted into a near-miss class, which sparring and the battle log show.

Digits are compared as sequences, circled ones as what they are: `①⓪` is not `⓪①`, and neither is `10`.
"""

from __future__ import annotations

from guild.skills.contract import Score


def score(expected: str, got: str) -> Score:
    """Compare an answer with the golden one. Only the white space around the turn is forgiven."""
    expected, got = expected.strip(), got.strip()
    wanted, last = _last_line(expected), _last_line(got)
    final = wanted == last
    return Score(expected == got, final, "" if final else near_miss(wanted, last))


def near_miss(wanted: str, got: str) -> str:
    """Name the way in which a final line is wrong."""
    call, _, value = wanted.rpartition(" = ")
    got_call, equals, got_value = got.rpartition(" = ")
    if not equals:
        return "no_equation"
    if got_call != call:
        return "other_problem" if got_value != value else "call_miscopied"
    if not got_value:
        return "no_value"
    if {value, got_value} == {"true", "false"}:
        return "opposite"
    if sorted(got_value) == sorted(value):
        return "digits_in_another_order"
    if got_value.lstrip("⓪") == value:
        return "leading_zeros"
    if abs(len(got_value) - len(value)) == 1 and (value.startswith(got_value) or got_value.startswith(value)):
        return "one_digit_more_or_less"
    if len(got_value) == len(value) and sum(a != b for a, b in zip(got_value, value, strict=True)) == 1:
        return "one_digit_wrong"
    return "wrong_value"


def _last_line(text: str) -> str:
    return text.rpartition("\n")[2].strip()
