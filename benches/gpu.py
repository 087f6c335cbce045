"""What a CUDA card does with the sft trainer: tokens a second, peak memory against the estimate, kernel against kernel.

    scripts/gpu_check.sh report.md            # on a machine with a card: the gpu tests, then this
    python -m benches.gpu --device cpu --shape toy --steps 2   # the same program at toy size, anywhere

The model has Qwen3-0.6B's shape and random weights, so nothing is downloaded; speed and memory do not depend on what
the weights say. Each variant is built anew, makes some steps to warm up and then the measured ones. A check fails when
a loss is not finite, when two kernels of the same mathematics disagree, when chunking saves nothing, or when the
estimate is further than 30 % from the measured peak.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from arena.jobs import DataFile, JobFile, write_job
from arena.memory import GB, ModelShape, RunShape, estimate
from arena.rundir import RunDir
from arena.squire import SquireSize, new_model, train_tokenizer
from arena.trainers.contract import RunContext
from arena.trainers.sft.loss import liger_available
from arena.trainers.sft.trainer import SftTrainer

SHAPES = {
    "qwen3-0.6b": (SquireSize(1024, 28, 16, 8, 128, 3072, max_positions=4096), 151_936, 2048),
    "toy": (SquireSize(32, 2, 2, 1, 16, 64, max_positions=256), 2_000, 128),
}
"""Name -> layers, vocabulary, tokens of a row."""


@dataclass(frozen=True)
class Variant:
    """One way to train, as configuration keys and as the estimate sees it."""

    name: str
    config: dict[str, Any]
    run: RunShape
    rows: int = 1
    fused: bool = False


@dataclass(frozen=True)
class Measured:
    """What a variant did."""

    losses: list[float]
    tokens_per_s: float
    peak: int
    estimated: int


def variants(length: int, device: str) -> Iterator[Variant]:
    """Yield what is compared. Rows are plain text of full length: every token carries loss, the hardest case."""
    base = {"precision": "bf16", "packing": False, "batch_size": 1, "micro_batch_size": 1}
    run = RunShape(rows=1, length=length, device=device)
    plain = {"loss_chunk_tokens": length, "gradient_checkpointing": True}
    yield Variant(
        "whole, recomputing, logits at once",
        base | plain,
        replace(run, gradient_checkpointing=True, chunked_loss=False),
    )
    yield Variant(
        "whole, recomputing, chunked loss",
        base | {"gradient_checkpointing": True},
        replace(run, gradient_checkpointing=True),
    )
    yield Variant("whole, chunked loss", base, run)
    lora = {"lora": {"r": 16, "alpha": 32}, "batch_size": 2, "micro_batch_size": 2}
    lora_run = replace(run, rows=2, lora_r=16)
    yield Variant("adapters, 2 rows", base | lora, lora_run, rows=2)
    yield Variant("adapters, 2 rows, compiled", base | lora | {"compile": True}, lora_run, rows=2)
    if liger_available():
        yield Variant("adapters, 2 rows, Liger's loss", base | lora, lora_run, rows=2, fused=True)


def model_folder(folder: Path, shape: str) -> Path:
    """Write a random model of the shape with a small tokenizer of the realm's own."""
    size, vocabulary, _ = SHAPES[shape]
    tokenizer = train_tokenizer([Path(__file__).read_text()], vocab_size=512)
    target = folder / "model"
    tokenizer.save_pretrained(target)
    new_model(vocabulary, size, seed=0).save_pretrained(target)
    return target


def measure(folder: Path, model_dir: Path, shape: str, variant: Variant, *, device: str, steps: int) -> Measured:
    """Train a variant for some steps and return its losses, speed and peak."""
    _, _, length = SHAPES[shape]
    text = Path(__file__).read_text() * 400
    rows = [{"text": text[: length * 400]}]
    data = json.dumps(rows[0]).encode() + b"\n"
    run_dir = RunDir(folder / hashlib.sha256(variant.name.encode()).hexdigest()[:8]).ensure()
    (run_dir.path / "data/train.jsonl").write_bytes(data)
    job = JobFile(
        job_id="job_gpu",
        run_id=run_dir.path.name,
        name="gpu check",
        hero="none",
        trainer="sft",
        model_dir=str(model_dir),
        config={"max_length": length, "max_steps": 1000, "learning_rate": 1e-4, **variant.config},
        data=[DataFile(path="data/train.jsonl", sha256=hashlib.sha256(data).hexdigest(), rows=1, format="text")],
    )
    write_job(run_dir.path, job)
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer = SftTrainer()
    trainer.build(RunContext(run_dir.path, job, lambda *_, **__: None, device=device))
    trainer.fused = variant.fused
    losses, seconds, tokens = [], [], 0
    for step in range(2 + steps):
        began = time.perf_counter()
        result = trainer.train_step(step, step)
        trainer.apply_update()
        if on_gpu:
            torch.cuda.synchronize()
        losses.append(result.loss)
        if step >= 2:
            seconds.append(time.perf_counter() - began)
            tokens = result.tokens
    peak = torch.cuda.max_memory_reserved() if on_gpu else 0
    shape_of = ModelShape.from_config(trainer.model.module.config.to_dict())
    expected = estimate(shape_of, variant.run)
    trainer.close()
    return Measured(losses, tokens / statistics.median(seconds), peak, expected.total - expected.size("process"))


def run(shape: str, device: str, steps: int) -> tuple[str, list[str]]:
    """Measure every variant. Returns the report and what is wrong."""
    problems: list[str] = []
    measured: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_dir = model_folder(folder, shape)
        for variant in variants(SHAPES[shape][2], device):
            if variant.config.get("compile") and device == "cpu":
                continue
            try:
                measured[variant.name] = measure(folder, model_dir, shape, variant, device=device, steps=steps)
            except torch.cuda.OutOfMemoryError:
                problems.append(f"{variant.name}: does not fit into this card's memory")
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    lines = [
        f"{shape} (random weights), {SHAPES[shape][2]} tokens a row, bf16, {where}, torch {torch.__version__}",
        "",
        "| variant | tokens/s | peak GB | estimate GB | last loss |",
        "|---|---|---|---|---|",
    ]
    for name, m in measured.items():
        lines.append(
            f"| {name} | {m.tokens_per_s:,.0f} | {m.peak / GB:.2f} | {m.estimated / GB:.2f} | {m.losses[-1]:.4f} |"
        )
    problems += list(_problems(measured, device))
    return "\n".join(lines), problems


def _problems(measured: dict[str, Measured], device: str) -> Iterator[str]:
    for name, m in measured.items():
        if not all(map(math.isfinite, m.losses)):
            yield f"{name}: a loss is not finite"
        if device == "cuda" and not 0.7 < m.peak / m.estimated < 1.3:
            yield f"{name}: estimated {m.estimated / GB:.1f} GB, measured {m.peak / GB:.1f} GB"
    whole, chunked = (measured.get(f"whole, recomputing, {n}") for n in ("logits at once", "chunked loss"))
    if whole and chunked:
        if abs(whole.losses[-1] - chunked.losses[-1]) > 0.02 * abs(whole.losses[-1]):
            yield "the chunked loss differs from the plain one"
        if device == "cuda" and chunked.peak >= whole.peak:
            yield "chunking the loss saves no memory"
    plain = measured.get("adapters, 2 rows")
    for name in ("adapters, 2 rows, compiled", "adapters, 2 rows, Liger's loss"):
        other = measured.get(name)
        if plain and other and abs(plain.losses[-1] - other.losses[-1]) > 0.02 * abs(plain.losses[-1]):
            yield f"{name}: its loss {other.losses[-1]:.4f} differs from {plain.losses[-1]:.4f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--shape", default="qwen3-0.6b", choices=sorted(SHAPES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--report", type=Path, help="also write the report here")
    chosen = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    report, problems = run(chosen.shape, chosen.device, chosen.steps)
    report += "\n\n" + ("\n".join(f"FAILED: {problem}" for problem in problems) or "All checks passed.") + "\n"
    print(report)
    if chosen.report:
        chosen.report.write_text(report)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
