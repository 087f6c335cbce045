"""The gatekeepers: each row ends in exactly one place, and a bad file is refused with its reasons."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arena.formats import rows_from_values
from arena.gatekeepers import Depth, Lengths, Policy, Verdict, inspect_file, inspect_rows, render
from arena.gatekeepers.content import DigestSet, loose


def chat(*turns: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": t} for n, t in enumerate(turns)], **more}


GOOD = [chat(f"add {n}?", f"{n + 1}", metadata={"skill": "bin", "level": 3}) for n in range(60)]
BAD = [{"messages": []}, chat("only asked"), chat("x", "<|im_end|>"), "no object", {"wrong": 1}]


class Gate:
    """Inspects values or bytes in a fresh folder each time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.canonical = self.quarantine = folder

    def __call__(self, content: list[Any] | bytes, policy: Policy | None = None, name: str = "a.jsonl") -> Verdict:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir(parents=True)
        path = folder / "dropped"
        if isinstance(content, list):
            content = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in content).encode()
        path.write_bytes(content)
        self.canonical, self.quarantine = folder / "rows", folder / "rejected"
        return inspect_file(path, name, self.canonical, self.quarantine, policy)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.canonical.read_bytes().splitlines()]

    def turned_down(self) -> list[dict[str, Any]]:
        if not self.quarantine.exists():
            return []
        return [json.loads(line) for line in self.quarantine.read_bytes().splitlines()]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_good_rows_come_out_canonical_hashed_and_counted(gate: Gate) -> None:
    verdict = gate(GOOD)
    assert verdict.accepted
    assert gate.rows() == GOOD
    assert verdict.canonical_sha256 == hashlib.sha256(gate.canonical.read_bytes()).hexdigest()
    assert verdict.canonical_size == gate.canonical.stat().st_size
    report = verdict.report
    assert (report.rows_read, report.rows_accepted, report.rows_rejected, verdict.rows) == (60, 60, 0, 60)
    assert (report.format, report.skill, report.level, report.kinds) == ("jsonl/messages", "bin", 3, {"messages": 60})
    assert [example["messages"] for example in report.examples] == [row["messages"] for row in GOOD[:3]]
    assert report.supervised_by == "characters"
    assert not gate.quarantine.exists()
    assert json.loads(json.dumps(report.to_dict()))["rows_read"] == 60


def test_bad_rows_are_quarantined_with_line_and_reason(gate: Gate) -> None:
    verdict = gate(GOOD + BAD, Policy(max_bad_rows=0.1))
    assert verdict.accepted
    assert gate.rows() == GOOD
    reasons = ["bad_message", "no_assistant_turn", "special_token", "not_an_object", "unknown_fields"]
    assert [(r.line, r.reason) for r in verdict.report.rejected] == list(zip(range(61, 66), reasons, strict=True))
    assert [(r["line"], r["reason"]) for r in gate.turned_down()] == list(zip(range(61, 66), reasons, strict=True))
    assert json.loads(gate.turned_down()[4]["row"]) == {"wrong": 1}
    text = render(verdict.report)
    assert "line 63" in text
    assert "marker of the chat template" in text


def test_past_the_share_of_bad_rows_the_file_is_refused(gate: Gate) -> None:
    report = gate(GOOD + BAD).report
    assert not report.accepted
    assert report.refusal is not None
    assert report.refusal.code == "too_many_bad_rows"
    assert "5 of 65" in report.refusal.message
    assert "refused" in render(report)
    assert gate(GOOD[:57] + BAD[:3]).accepted  # exactly 5 %


@pytest.mark.parametrize("content", [b"\n\n  \n", b"[]", b'{"data": []}', b"prompt,completion\n"])
def test_nothing_is_accepted_on_nothing(gate: Gate, content: bytes) -> None:
    name = "a.csv" if content.startswith(b"p") else "a.json"
    report = gate(content, Policy(max_bad_rows=1), name).report
    assert not report.accepted
    assert report.refusal is not None
    assert report.refusal.code == "no_rows"


def test_a_file_without_one_usable_row_is_refused_however_much_may_be_bad(gate: Gate) -> None:
    report = gate(BAD, Policy(max_bad_rows=1)).report
    assert report.refusal is not None
    assert report.refusal.code == "no_usable_rows"


def test_an_unreadable_file_is_refused_in_a_report(gate: Gate) -> None:
    report = gate(b"PK\x03\x04", None, "a.zip").report
    assert report.refusal is not None
    assert (report.refusal.code, report.rows_read) == ("unknown_format", 0)
    report = gate(json.dumps(GOOD).encode()[:-9], None, "a.json").report
    assert report.refusal is not None
    assert report.refusal.code == "broken_json"
    assert report.rows_read == 59


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat("a", "b", "c"), "role_order"),
        ({"messages": [chat("a", "b")["messages"][1]]}, "role_order"),
        ({"messages": [{"role": "user", "content": "a"}] + chat("a", "b")["messages"]}, "role_order"),
        (chat("a", " \n"), "empty_turn"),
        (chat("", "b"), "empty_turn"),
        ({"messages": chat("a", "b")["messages"] + [{"role": "system", "content": "s"}]}, "role_order"),
    ],
)
def test_turns_are_checked_everywhere_but_beyond_a_quick_look(gate: Gate, row: dict[str, Any], reason: str) -> None:
    many = GOOD * 4
    found = gate([*many, row], Policy(depth=Depth.STANDARD)).report
    assert found.reasons == {reason: 1}
    assert gate([row, *many], Policy(depth=Depth.QUICK)).report.reasons == {reason: 1}
    assert gate([*many, row], Policy(depth=Depth.QUICK)).report.reasons == {}


def test_surrogates_and_infinities_cannot_reach_the_canonical_file(gate: Gate) -> None:
    lines = [json.dumps(row) for row in GOOD]
    lines += ['{"text": "half \\ud800 pair"}', '{"text": "x", "metadata": {"n": 1e999}}']
    verdict = gate("\n".join(lines).encode())
    assert verdict.report.reasons == {"bad_character": 1, "not_a_number": 1}
    assert gate.rows() == GOOD


def test_duplicates_are_counted_and_kept_unless_told_otherwise(gate: Gate) -> None:
    content = [*GOOD[:50], GOOD[0] | {"metadata": {"id": 1}}, GOOD[1]]
    kept = gate(content).report
    assert (kept.duplicates, kept.rows_accepted) == (2, 52)
    assert any("duplicates" in warning for warning in kept.warnings)
    dropped = gate(content, Policy(drop_duplicates=True)).report
    assert (dropped.duplicates, dropped.rows_accepted, dropped.accepted) == (2, 50, True)
    assert dropped.reasons == {"duplicate": 2}
    assert gate(content, Policy(depth=Depth.QUICK)).report.duplicates is None


def test_near_duplicates_are_seen_when_looking_deeply(gate: Gate) -> None:
    content = [chat("What is  A?", "x"), chat("what is a", "X."), chat("what is -a", "x")]
    assert gate(content, Policy(depth=Depth.DEEP)).report.near_duplicates == 1
    assert gate(content).report.near_duplicates is None
    assert loose("3 - 2.") != loose("3 2")


def test_row_checks_withhold_rows_at_every_depth_without_calling_them_bad(gate: Gate) -> None:
    def held_out(row: dict[str, Any]) -> str | None:
        return "problem 7 of bin/L3" if row["messages"][0]["content"] in ("add 1?", "add 59?") else None

    for depth in Depth:
        report = gate(GOOD, Policy(depth=depth, row_checks=(held_out,))).report
        assert report.accepted
        assert (report.rows_withheld, report.rows_rejected, report.rows_accepted) == (2, 0, 58)
        assert [(r["line"], r["reason"], r["detail"]) for r in gate.turned_down()] == [
            (2, "withheld", "problem 7 of bin/L3"),
            (60, "withheld", "problem 7 of bin/L3"),
        ]
    refused = gate(GOOD[1:2], Policy(row_checks=(held_out,))).report
    assert refused.refusal is not None
    assert "withheld" in refused.refusal.message


def test_deep_withholds_near_copies_of_evaluation_problems(gate: Gate) -> None:
    policy = Policy(depth=Depth.DEEP, held_out_texts=lambda: ["ADD  5?"])
    report = gate(GOOD, policy).report
    assert (report.rows_withheld, report.rows_accepted) == (1, 59)


def test_kinds_can_be_narrowed(gate: Gate) -> None:
    report = gate([*GOOD, {"text": "hello"}], Policy(kinds=frozenset({"messages"}))).report
    assert report.reasons == {"unexpected_kind": 1}
    assert report.kinds == {"messages": 60}


def test_only_the_first_fifty_rejections_are_in_the_report(gate: Gate) -> None:
    report = gate(BAD * 20, Policy(max_bad_rows=1)).report
    assert len(report.rejected) == 50
    assert len(gate.turned_down()) == 100


def test_what_is_said_of_a_row_cannot_draw_on_a_terminal(gate: Gate) -> None:
    report = gate([*GOOD, {"\x1b[2J\u202eevil": 1}]).report
    assert "\x1b" not in report.rejected[0].detail
    assert "\u202e" not in report.rejected[0].detail


def test_generated_rows_go_through_the_same_gate(tmp_path: Path) -> None:
    verdict = inspect_rows(rows_from_values(GOOD), "made", tmp_path / "rows", tmp_path / "rejected", format="generated")
    assert verdict.accepted
    assert verdict.report.format == "generated/messages"


def test_tick_can_end_an_inspection(tmp_path: Path) -> None:
    def tick(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect_rows(rows_from_values(GOOD), "made", tmp_path / "rows", tmp_path / "rejected", tick=tick)


def test_two_thousand_rows_are_inspected_in_a_fifth_of_a_second(gate: Gate) -> None:
    content = [chat(f"Compute: add({n}, {n * 7}), in words, please.", f"It is {n * 8}. " * 4) for n in range(2000)]
    best = 9.0
    for _ in range(3):
        begin = time.perf_counter()
        assert gate(content).accepted
        best = min(best, time.perf_counter() - begin)
    assert best < 0.2


def test_the_memory_estimate_is_asked_only_when_lengths_are_known(gate: Gate) -> None:
    asked: list[Lengths] = []

    def estimate(lengths: Lengths) -> dict[str, Any]:
        asked.append(lengths)
        return {"peak_bytes": 1}

    assert gate(GOOD, Policy(estimate_memory=estimate)).report.memory is None
    assert asked == []


def test_a_digest_set_agrees_with_a_set() -> None:
    numbers = [hash(str(n % 3000)) for n in range(9000)]
    ours, theirs = DigestSet(), set[int]()
    for number in [0, *numbers, 0]:
        assert ours.add(number) == (number in theirs)
        theirs.add(number)
    assert all(number in ours for number in numbers)
    small = DigestSet(limit=2)
    assert [small.add(n) for n in (1, 2, 3, 3, 1)] == [False, False, False, False, True]
    assert small.is_full


_VALUES = st.one_of(
    st.sampled_from([*GOOD[:3], *BAD, {"text": "x"}, {"text": ""}, {"prompt": "a", "completion": "b"}]),
    st.dictionaries(
        st.sampled_from(["messages", "text", "prompt", "completion", "metadata", "x"]), st.text(max_size=5)
    ),
    st.builds(chat, st.text(max_size=5), st.text(max_size=5)),
    st.none() | st.integers() | st.text(max_size=3),
)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(_VALUES, max_size=12), depth=st.sampled_from(list(Depth)), drop=st.booleans())
def test_every_row_is_either_canonical_or_rejected_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], depth: Depth, drop: bool
) -> None:
    gate = Gate(tmp_path_factory.mktemp("gate"))
    policy = Policy(
        depth=depth, max_bad_rows=1, drop_duplicates=drop, row_checks=(lambda row: "t" if "text" in row else None,)
    )
    verdict = gate(values, policy)
    lines = [entry["line"] for entry in gate.turned_down()]
    report = verdict.report
    if report.refusal and report.refusal.code not in ("no_usable_rows", "no_rows"):
        assert not values or report.refusal.code in ("broken_json", "unknown_format", "empty_file")
        return
    assert report.rows_read == len(values)
    assert len(gate.rows()) + len(lines) == len(values)
    assert sorted(set(lines)) == sorted(lines)
    assert set(lines) <= set(range(1, len(values) + 1))
    assert report.rows_accepted == len(gate.rows()) == verdict.rows
    assert report.accepted == (verdict.rows > 0)
    for row in gate.rows():
        assert "text" in row or any(message["role"] == "assistant" for message in row["messages"])
