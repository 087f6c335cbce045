"""Small real parts for tests of the loop and of trainers: a run directory, a squire, rows, a toy trainer.

`ToyTrainer` is a complete trainer in forty lines (a linear model, SGD with momentum, dropout from torch's global
generator), so that the loop's promises can be tested in milliseconds. The squire is the realm's own small Qwen3.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file

from arena.jobs import DataFile, EvaluationSet, JobFile, write_job
from arena.rundir import Attempt, RunDir, read_records
from arena.trainers.contract import Declares, Measured, RunContext, Score, StepResult


def addition_rows(count: int, seed: int = 0, bits: int = 3) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = rng.getrandbits(bits), rng.getrandbits(bits)
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"What is {a:b} + {b:b}?"},
                    {"role": "assistant", "content": f"{a + b:b}"},
                ],
                "metadata": {"tag": "easy" if a + b < 4 else "hard"},
            }
        )
    return rows


def squire_corpus() -> list[str]:
    return [" ".join(m["content"] for m in row["messages"]) + " user assistant system" for row in addition_rows(400)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def problems(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turn training rows into an evaluation set: the last assistant turn becomes the answer."""
    return [
        {"messages": r["messages"][:-1], "answer": r["messages"][-1]["content"], "metadata": r.get("metadata", {})}
        for r in rows
    ]


def make_run(
    folder: Path,
    *,
    rows: list[dict[str, Any]] | None = None,
    evaluation: list[dict[str, Any]] | None = None,
    model_dir: Path | str = "none",
    trainer: str = "toy",
    parent: Path | None = None,
    hero_step: int = 0,
    fence: int = 1,
    **config: Any,
) -> tuple[RunDir, JobFile]:
    """Write a whole run directory and return it with its job."""
    run_dir = RunDir(folder).ensure()
    data, sets = [], []
    if rows is not None:
        sha256 = write_rows(folder / "data/train.jsonl", rows)
        data = [DataFile(path="data/train.jsonl", sha256=sha256, rows=len(rows), format="jsonl/messages")]
    if evaluation is not None:
        write_rows(folder / "eval/known.jsonl", problems(evaluation))
        sets = [EvaluationSet(name="add/L1/known", path="eval/known.jsonl", skill="add", level=1, split="known")]
    job = JobFile(
        job_id="job_1",
        run_id=folder.name,
        name="train.jsonl",
        hero="dio",
        trainer=trainer,
        model_dir=str(model_dir),
        parent_checkpoint=str(parent) if parent else None,
        hero_step_start=hero_step,
        config=config,
        data=data,
        evaluation_sets=sets,
    )
    write_job(folder, job)
    run_dir.write_attempt(Attempt(1, fence, None))
    return run_dir, job


def records(run_dir: RunDir, kind: str | None = None) -> list[dict[str, Any]]:
    return [r for r in read_records(run_dir.metrics_path) if kind is None or r["kind"] == kind]


def losses(run_dir: RunDir) -> dict[int, float]:
    """Loss of every step; a step that was repeated after a crash must repeat its loss exactly."""
    found: dict[int, float] = {}
    for record in records(run_dir, "step"):
        assert found.setdefault(record["step"], record["loss"]) == record["loss"], record["step"]
    return found


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by file and name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {f"{path.name}:{name}": tensor for name, tensor in load_file(path).items()}
    return found


def assert_same_tensors(first: Path, second: Path) -> None:
    a, b = tensors(first), tensors(second)
    assert a.keys() == b.keys()
    assert len(a) > 0
    for name in a:
        assert torch.equal(a[name], b[name]), name


class ToyConfig(BaseModel):
    max_steps: int = 8
    save_every_steps: int | None = 2
    save_every_s: float | None = None
    eval_every_steps: int | None = None
    keep_checkpoints: int = 2
    dropout: float = 0.5
    width: int = 4
    bad_batches: list[int] = []
    """Batches whose loss is not a number."""
    bad_above_weight: float | None = None
    """When the weights' sum is above this every batch is bad (weights at fault)."""
    memory_rows: int = 10**9
    """Rows in one forward pass at which memory runs out."""


class ToyTrainer:
    """Learns y = sum(x) from batches that are a pure function of the cursor."""

    config_model: ClassVar[type[BaseModel]] = ToyConfig
    declares: ClassVar[Declares] = Declares(metrics=())
    batch_rows = 8

    def build(self, context: RunContext) -> None:
        self.config = ToyConfig(**context.job.config)
        self.max_steps = self.config.max_steps
        self.save_every_steps = self.config.save_every_steps
        self.save_every_s = self.config.save_every_s
        self.eval_every_steps = self.config.eval_every_steps
        self.keep_checkpoints = self.config.keep_checkpoints
        self.checkpoint_bytes = 1000
        self.micro = self.batch_rows
        self.updates: list[int] = []
        self.passes: list[tuple[int, int]] = []
        self.closed = 0
        self._seed = context.job.seed
        self.reset()

    def reset(self) -> None:
        torch.manual_seed(self._seed)
        self.model = torch.nn.Linear(self.config.width, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)

    def batch(self, cursor: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 + cursor)
        x = torch.randn(self.batch_rows, self.config.width, generator=generator)
        return x, x.sum(1, keepdim=True)

    def train_step(self, step: int, cursor: int) -> StepResult:
        x, y = self.batch(cursor)
        keep = torch.rand_like(x) >= self.config.dropout  # drawn for the batch, so that its cut does not matter
        total = 0.0
        for begin in range(0, self.batch_rows, self.micro):
            part = slice(begin, begin + self.micro)
            self.passes.append((cursor, len(x[part])))
            if len(x[part]) > self.config.memory_rows:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB (fake)")
            loss = ((self.model(x[part] * keep[part]) - y[part]) ** 2).sum() / self.batch_rows
            loss.backward()
            total += loss.item()
        limit = self.config.bad_above_weight
        sick = limit is not None and sum(p.sum().item() for p in self.model.parameters()) > limit
        if cursor in self.config.bad_batches or sick:
            total = float("nan")
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters()]).item()
        self._cursor = cursor
        samples = b"".join((cursor * 8 + i).to_bytes(8, "big") for i in range(8))
        return StepResult(total, norm, 0.05, 8, 8, samples)

    def apply_update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates.append(self._cursor)

    def discard_update(self) -> None:
        self.optimizer.zero_grad()

    def shrink(self) -> dict[str, Any] | None:
        if self.micro == 1:
            return None
        self.micro //= 2
        return {"micro_batch": self.micro}

    def evaluate(self) -> Measured:
        x, y = self.batch(10**6)
        with torch.no_grad():
            loss = ((self.model(x) - y) ** 2).mean().item()
        torch.rand(7)  # a measurement that draws must not disturb training
        record = {"kind": "validation", "val_loss": loss, "tokens": 8}
        return Measured((record,), Score("val_loss", loss, higher_is_better=False))

    def save(self, folder: Path) -> dict[str, Any]:
        save_file(self.model.state_dict(), folder / "model.safetensors")
        momentum = {
            name: self.optimizer.state[p]["momentum_buffer"]
            for name, p in self.model.named_parameters()
            if p in self.optimizer.state
        }
        save_file(momentum, folder / "optimizer.safetensors")
        return {"micro": self.micro}

    def restore(self, folder: Path, state: dict[str, Any]) -> None:
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        momentum = load_file(folder / "optimizer.safetensors")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter]["momentum_buffer"] = momentum[name]
        self.micro = state["micro"]

    def card(self, cursor: int) -> dict[str, Any]:
        torch.rand(3)
        return {"epoch": float(cursor)}

    def saved(self, manifest_sha256: str) -> None:
        self.saved_as = manifest_sha256

    def export(self, folder: Path) -> None:
        save_file(self.model.state_dict(), folder / "model.safetensors")

    def close(self) -> None:
        self.closed += 1
