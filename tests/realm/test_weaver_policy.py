"""The restart policy as numbers: pure functions of (record, now)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from realm.weaver.policy import Record, RestartPolicy

POLICY = RestartPolicy()


def crash_loop(policy: RestartPolicy, seconds: float, life_s: float = 0.2, jitter: float = 0.0) -> list[float]:
    """Return the times of all starts of a service that always dies after `life_s`."""
    record, now, starts = Record(), 0.0, []
    while now < seconds:
        assert policy.due(record, now, "a")
        record = policy.started(record, now)
        starts.append(now)
        now += life_s
        record = policy.died(record, now, 1, "a", jitter)
        now = max(now, record.next_start)
    return starts


def test_waits_double_from_half_a_second() -> None:
    policy = RestartPolicy(broken_starts=100)
    starts = crash_loop(policy, 300, life_s=0.0)
    waits = [b - a for a, b in pairwise(starts)]
    assert waits[:9] == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60])


@pytest.mark.parametrize("jitter", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("life_s", [0.0, 0.3, 1.2, 5.0])
def test_a_crash_loop_starts_at_most_twelve_times_in_ten_minutes(jitter: float, life_s: float) -> None:
    assert len(crash_loop(POLICY, 600, life_s, jitter)) <= 12


def test_a_crash_loop_is_still_tried_after_an_hour() -> None:
    starts = crash_loop(POLICY, 7200)
    assert any(start > 3600 for start in starts)
    assert max(b - a for a, b in pairwise(starts)) <= 300 * 1.2 + 1


def test_five_starts_in_the_window_break_a_service() -> None:
    record, now = Record(), 0.0
    phases = []
    for _ in range(5):
        record = POLICY.started(record, now)
        record = POLICY.died(record, now + 0.1, 1, "")
        phases.append(record.phase)
        now = record.next_start
    assert phases == ["waiting"] * 4 + ["broken"]


def test_jitter_shakes_the_wait_by_a_fifth() -> None:
    record = POLICY.started(Record(), 0.0)
    early, late = (POLICY.died(record, 1.0, 1, "", jitter).next_start for jitter in (-1.0, 1.0))
    assert (early, late) == pytest.approx((1.4, 1.6))


def test_a_healthy_life_wipes_the_slate_and_its_end_is_answered_at_once() -> None:
    record = POLICY.died(POLICY.started(Record(), 0.0), 0.1, 1, "")
    record = POLICY.started(record, 0.6)
    record = POLICY.lived(record, 61.0)
    assert record.deaths == 0
    record = POLICY.died(record, 70.0, -9, "")
    assert (record.phase, record.next_start) == ("waiting", 70.0)


def test_a_broken_service_that_then_lives_is_whole_again() -> None:
    record, now = Record(), 0.0
    for _ in range(6):
        record = POLICY.started(record, now)
        record = POLICY.died(record, now + 0.1, 1, "")
        now = record.next_start
    assert record.phase == "broken"
    record = POLICY.lived(POLICY.started(record, now), now + 61)
    assert (record.phase, record.broken_retries) == ("running", 0)
    assert POLICY.died(record, now + 61.5, 1, "").phase == "waiting"


def test_a_bad_configuration_waits_for_its_change() -> None:
    record = POLICY.died(POLICY.started(Record(), 0.0), 0.1, 78, "mark-1")
    assert not POLICY.due(record, 1e9, "mark-1")
    assert POLICY.due(record, 0.2, "mark-2")


def test_the_memory_survives_being_written_and_read_back() -> None:
    record = POLICY.died(POLICY.started(Record(), 3.0), 3.1, 1, "x")
    assert Record.from_dict(record.to_dict()) == record
    assert Record.from_dict({"starts": "nonsense"}) == Record()
