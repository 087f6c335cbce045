"""The memory estimate: the measured reference, what each switch does, calibration, and no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena.memory import GB, MeasuredPeak, MemoryEstimate, ModelShape, Part, RunShape, calibrate, estimate

QWEN = ModelShape.from_config(
    {
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    }
)
REFERENCE = RunShape(rows=1, length=2048, bf16=True, gradient_checkpointing=True, chunked_loss=False)


def test_parameters_are_those_of_the_published_model() -> None:
    assert QWEN.parameters == 596_049_920
    untied = replace(QWEN, tied=False)
    assert untied.parameters - QWEN.parameters == 151_936 * 1024


def test_the_measured_reference_is_met_within_fifteen_percent() -> None:
    total = estimate(QWEN, REFERENCE).total
    assert 0.85 * 16.5 * GB < total < 1.15 * 16.5 * GB


def test_the_logits_are_the_term_that_was_missing() -> None:
    whole, chunked = estimate(QWEN, REFERENCE), estimate(QWEN, replace(REFERENCE, chunked_loss=True))
    assert whole.size("logits") > 3 * 1.24 * GB
    assert chunked.size("logits") < 1.0 * GB
    assert whole.total - chunked.total > 3 * GB


def test_adapters_need_neither_gradients_nor_averages_of_the_base() -> None:
    lora = estimate(QWEN, replace(REFERENCE, lora_r=16, chunked_loss=True))
    adapters = QWEN.adapter_parameters(16)
    assert lora.size("gradients") == 4 * adapters
    assert lora.size("optimizer") == 8 * adapters
    assert adapters == pytest.approx(10_092_544, rel=0.01)
    assert lora.total < 4 * GB


@given(
    rows=st.integers(1, 32),
    length=st.integers(16, 4096),
    lora=st.none() | st.integers(1, 64),
    device=st.sampled_from(["cuda", "cpu"]),
    chunked=st.booleans(),
)
def test_more_work_needs_more_memory_and_saving_switches_save(
    rows: int, length: int, lora: int | None, device: str, chunked: bool
) -> None:
    run = RunShape(rows=rows, length=length, lora_r=lora, device=device, chunked_loss=chunked)
    base = estimate(QWEN, run)
    assert base.total == sum(part.size for part in base.parts)
    assert all(part.size >= 0 and part.why for part in base.parts)
    assert estimate(QWEN, replace(run, rows=rows + 1)).total > base.total
    assert estimate(QWEN, replace(run, length=length + 64)).total > base.total
    assert estimate(QWEN, replace(run, gradient_checkpointing=True)).total < base.total
    assert estimate(QWEN, replace(run, eager_attention=True)).total > base.total


def test_calibration_moves_towards_what_was_measured_and_no_further() -> None:
    first = estimate(QWEN, REFERENCE)
    assert calibrate(first, []) == first
    one = calibrate(first, [MeasuredPeak(10 * GB, 12 * GB)])
    many = calibrate(first, [MeasuredPeak(10 * GB, 12 * GB)] * 19)
    assert one.total == pytest.approx(first.total * 1.10, rel=1e-6)
    assert many.total == pytest.approx(first.total * 1.19, rel=1e-6)
    assert many.calibrated_by == 19
    assert calibrate(first, [MeasuredPeak(GB, 100 * GB)] * 99).total == pytest.approx(2 * first.total)
    assert calibrate(first, [MeasuredPeak(10 * GB, 12 * GB), MeasuredPeak(GB, 0)]).calibrated_by == 1
    outlier = [MeasuredPeak(10 * GB, 10 * GB)] * 3 + [MeasuredPeak(GB, 50 * GB)]
    assert calibrate(first, outlier).total == pytest.approx(first.total)


def test_it_says_whether_it_fits_and_why() -> None:
    small = MemoryEstimate((Part("weights", 95, "a"),), "cuda")
    assert small.fits(100)
    assert not small.fits(99)
    text = estimate(QWEN, REFERENCE).explain()
    assert "logits" in text
    assert text.splitlines()[-1].endswith("in all")


def test_it_needs_no_torch() -> None:
    program = "import sys, arena.memory; raise SystemExit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
