"""The kill test itself: it passes on the real thing, and it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from arena.rundir import MetricsWriter
from realm.errors import CorruptFileError
from realm.killtest import Check, Verdict, _curve, _same, run_kill_test


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_change_nothing() -> None:
    said: list[str] = []
    verdict = run_kill_test(kills=12, seed=3, steps=None, keep=False, say=said.append)
    assert verdict.passed, verdict.to_dict()
    assert sum(verdict.kills[name] for name in ("trainer", "daemon", "both")) == 12


def test_a_repeated_step_with_another_loss_is_found(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.append("step", step=1, loss=2.5)
    writer.append("step", step=2, loss=2.25)
    writer.append("step", step=2, loss=2.25)
    assert _curve(tmp_path, "step", "loss") == {1: 2.5, 2: 2.25}
    writer.append("step", step=1, loss=2.5000000001)
    writer.close()
    with pytest.raises(CorruptFileError, match="step 1"):
        _curve(tmp_path, "step", "loss")


def test_one_different_value_fails_a_comparison(tmp_path: Path) -> None:
    expected = {"quest-0": {1: 2.0}, "quest-1": {1: 2.0}, "quest-2": {1: 2.0}}
    folders = {name: tmp_path / name for name in expected}
    assert _same("losses", expected, folders, lambda path: {1: 2.0}).passed
    assert not _same("losses", expected, folders, lambda path: {1: 2.0 + (path.name == "quest-1") * 1e-15}).passed
    assert not _same("losses", expected, {}, lambda path: {1: 2.0}).passed
    assert not _same("losses", {}, folders, lambda path: {1: 2.0}).passed


def test_a_verdict_without_checks_is_no_pass() -> None:
    assert not Verdict().passed
    assert not Verdict(checks=[Check("a", True, ""), Check("b", False, "")]).passed
