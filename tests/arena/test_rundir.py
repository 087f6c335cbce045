"""The run directory: records survive torn tails and kills, control messages come once, outcomes are whole."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena.jobs import JobFile, read_job, write_job
from arena.rundir import (
    Attempt,
    ControlMessage,
    MetricsTail,
    MetricsWriter,
    Outcome,
    RunDir,
    decode_record,
    encode_record,
    read_records,
)
from realm.errors import CorruptFileError
from realm.processes import ProcessIdentity

_VALUES = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text(max_size=40), st.none())


@given(st.dictionaries(st.text(max_size=8), _VALUES, max_size=6))
def test_records_round_trip(fields: dict[str, object]) -> None:
    record = {"seq": 1, "kind": "step", **{f"x{key}": value for key, value in fields.items()}}
    finite = all(not isinstance(v, float) or math.isfinite(v) for v in fields.values())
    decoded = decode_record(encode_record(record))
    assert decoded is not None and (not finite or decoded == record)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_altered_byte_is_noticed(position: int, change: int) -> None:
    line = bytearray(encode_record({"seq": 7, "kind": "step", "loss": 0.25, "note": "a b"}))
    line[position % (len(line) - 1)] ^= change
    assert decode_record(bytes(line)) in (None, {"seq": 7, "kind": "step", "loss": 0.25, "note": "a b"})


def test_nan_becomes_null(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.append("step", loss=float("nan"), nested={"a": [float("inf"), 1]})
    record = next(read_records(tmp_path / "metrics.jsonl"))
    assert record["loss"] is None and record["nested"] == {"a": [None, 1]}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_tail_is_cut_and_counting_goes_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in range(3):
        writer.append("step", step=step)
    writer.close()
    os.truncate(path, path.stat().st_size - cut)
    tail = MetricsTail(path)
    assert [record["step"] for record in tail.read()] == [0, 1]
    again = MetricsWriter(path)
    again.append("step", step=2)
    again.close()
    assert [(r["seq"], r["step"]) for r in tail.read()] == [(3, 2)]


def test_a_tail_never_shows_half_a_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = encode_record({"seq": 1, "kind": "step"})
    tail = MetricsTail(path)
    assert tail.read() == []
    path.write_bytes(line[:10])
    assert tail.read() == []
    path.write_bytes(line)
    assert len(tail.read()) == 1 and tail.read() == []


def test_kill_9_loses_no_record_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = (
        "import sys; from pathlib import Path; from arena.rundir import MetricsWriter\n"
        "w = MetricsWriter(Path(sys.argv[1])); n = w._seq\n"
        "while True:\n n += 1; w.append('step', step=n); sys.stdout.write(f'{n}\\n'); sys.stdout.flush()"
    )
    last = 0
    for kill in range(5):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                last = int(line)
                if last % 97 == 10 + kill:
                    break
            os.kill(child.pid, signal.SIGKILL)
    steps = [record["step"] for record in read_records(path)]
    assert steps[:last] == list(range(1, last + 1))


def test_control_messages_are_kept_in_order_and_half_ones_wait(tmp_path: Path) -> None:
    run = RunDir(tmp_path).ensure()
    run.send(ControlMessage("cmd_2", "resume"))
    run.send(ControlMessage("cmd_1", "pause"))
    (run.control_path / "cmd_0.json").write_text("{")
    assert [message.verb for message in run.control_messages()] == ["pause", "resume"]


def test_attempt_and_outcome_round_trip_and_nonsense_is_none(tmp_path: Path) -> None:
    run = RunDir(tmp_path).ensure()
    assert run.attempt() is None and run.outcome() is None
    attempt = Attempt(2, 9, ProcessIdentity.current())
    run.write_attempt(attempt)
    assert run.attempt() == attempt
    outcome = Outcome("completed", 5, 9, "checkpoint-5-20261120-1200")
    run.write_outcome(outcome)
    assert run.outcome() == outcome
    run.clear_outcome()
    (tmp_path / "outcome.json").write_text("[]")
    assert run.outcome() is None


def test_job_files_are_written_once_and_read_tolerantly(tmp_path: Path) -> None:
    job = JobFile(job_id="job_a", run_id="run_a", name="n", hero="dio", trainer="sft", model_dir="/m")
    write_job(tmp_path, job)
    with pytest.raises(FileExistsError):
        write_job(tmp_path, job)
    text = (tmp_path / "job.json").read_text().replace("{", '{"of_a_later_version": 1,', 1)
    (tmp_path / "job.json").write_text(text)
    assert read_job(tmp_path) == job
    (tmp_path / "job.json").write_text('{"name": 3}')
    with pytest.raises(CorruptFileError):
        read_job(tmp_path)


@pytest.mark.parametrize("parts", [[7], [7, 11], [7, 11, 3]])
def test_a_line_torn_by_a_full_disk_is_cut_off_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[int]
) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.append("step", step=1)
    real, left = os.write, list(parts)

    def write(descriptor: int, data: bytes) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: left.pop(0)])

    monkeypatch.setattr("arena.rundir.os.write", write)
    with pytest.raises(OSError, match="No space"):
        writer.append("step", step=2)
    monkeypatch.undo()
    writer.append("step", step=3)
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 2
    assert [(r["seq"], r["step"]) for r in read_records(tmp_path / "metrics.jsonl")] == [(1, 1), (2, 3)]
