"""What the loop costs: the same model and batches through a bare PyTorch loop, ours, transformers.Trainer and TRL.

    python -m benches.overhead                     # the squire, 32 rows a step
    python -m benches.overhead --size tiny --rows 4 --json out.json

All contenders run in one process on one thread, in turns of some steps each, so that whatever else the machine does
meets them alike; each keeps its model over all turns. A step is measured from its beginning to the beginning of the
next one, so everything between steps counts: data, logging, control, bookkeeping. Reported are medians of wall time
and of CPU time (which other processes do not disturb) and ratios of the medians to the bare loop that computes the
same loss as ours. TRL takes part where it is installed (trl==1.16.0 datasets==5.0.1 accelerate==1.15.0).

Ours reports all that it always reports: one record a step on disk, control, data hash, fence, guards. Trainer and TRL
log every step into their history.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import inspect
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arena.jobs import DataFile, JobFile, write_job
from arena.loop import run_training
from arena.rundir import Attempt, RunDir
from arena.squire import build_squire
from arena.trainers.sft.chat import ChatTokenizer
from arena.trainers.sft.data import BatchPlan
from arena.trainers.sft.trainer import SftTrainer

GOALS = {"ours / bare, same loss": 1.03, "ours / Trainer": 1.0, "ours / SFTTrainer": 0.75}


@dataclass
class Times:
    """Seconds of each measured step."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    _last: tuple[float, float] | None = None

    def begin_turn(self) -> None:
        self._last = None

    def tick(self) -> None:
        """A step begins; the time since the last tick of this turn belongs to the step before."""
        now = (time.perf_counter(), time.process_time())
        if self._last is not None:
            self.wall.append(now[0] - self._last[0])
            self.cpu.append(now[1] - self._last[1])
        self._last = now


@dataclass(frozen=True)
class Setting:
    """What all contenders share."""

    folder: Path
    model_dir: Path
    rows: list[dict[str, Any]]
    batch_rows: int
    steps: int
    """Steps in a turn."""


def addition_rows(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        a, b = rng.getrandbits(rng.randint(2, 6)), rng.getrandbits(rng.randint(2, 6))
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"What is {a:b} + {b:b}?"},
                    {"role": "assistant", "content": f"{a + b:b}"},
                ]
            }
        )
    return rows


def load(setting: Setting) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(setting.model_dir, local_files_only=True, dtype=torch.float32).train()


def examples(setting: Setting) -> list[dict[str, list[int]]]:
    """Tokens and labels of the rows, in the order in which ours takes them."""
    tokenizer = ChatTokenizer(setting.model_dir)
    encoded = tokenizer.encode(setting.rows)
    plan = BatchPlan(encoded.lengths, 0, batch_rows=setting.batch_rows)
    ordered = np.concatenate([plan.rows(k) for k in range(setting.steps)])
    made = []
    for index in ordered:
        ids, mask = encoded.row(int(index))
        made.append({"input_ids": ids.tolist(), "labels": np.where(mask == 1, ids, -100).tolist()})
    return made


def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in batch)
    ids = torch.zeros((len(batch), width), dtype=torch.int64)
    labels = torch.full((len(batch), width), -100)
    attention = torch.zeros((len(batch), width), dtype=torch.int64)
    for i, row in enumerate(batch):
        n = len(row["input_ids"])
        ids[i, :n] = torch.tensor(row["input_ids"])
        labels[i, :n] = torch.tensor(row["labels"])
        attention[i, :n] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": attention}


def bare(setting: Setting, times: Times, *, labelled_only: bool) -> Callable[[], None]:
    """The loop that everybody writes; with `labelled_only` the head sees only positions that carry loss, as in ours."""
    model, made = load(setting), examples(setting)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def turn() -> None:
        times.begin_turn()
        for step in range(setting.steps):
            times.tick()
            batch = collate(made[step * setting.batch_rows : (step + 1) * setting.batch_rows])
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 - step / setting.steps)
            if labelled_only:
                hidden = model.model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
                ).last_hidden_state[:, :-1]
                wanted = batch["labels"][:, 1:]
                kept = wanted != -100
                loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[kept]).float(), wanted[kept])
            else:
                loss = model(**batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        times.tick()

    return turn


def ours(setting: Setting, times: Times) -> Callable[[], None]:
    """A whole run through the arena's loop each turn, carried on from the turn before."""
    data = "".join(json.dumps(row) + "\n" for row in setting.rows).encode()
    turns = [0]
    parent: list[str | None] = [None]

    class Timed(SftTrainer):
        def train_step(self, step: int, cursor: int) -> Any:
            times.tick()
            return super().train_step(step, cursor)

    def turn() -> None:
        turns[0] += 1
        times.begin_turn()
        run_dir = RunDir(setting.folder / f"ours{turns[0]}").ensure()
        (run_dir.path / "data/train.jsonl").write_bytes(data)
        job = JobFile(
            job_id="job_bench",
            run_id=run_dir.path.name,
            name="bench",
            hero="bench",
            trainer="sft",
            model_dir=str(setting.model_dir),
            parent_checkpoint=parent[0],
            config={
                "max_steps": setting.steps + 1,  # the tick of the last one ends the step before it
                "batch_size": setting.batch_rows,
                "learning_rate": 1e-3,
                "precision": "fp32",
                "save_every_s": 300.0,
                "masking": {"min_share": 0.0, "warn_below": 0.0, "warn_above": 1.0},
            },
            data=[
                DataFile(
                    path="data/train.jsonl",
                    sha256=hashlib.sha256(data).hexdigest(),
                    rows=len(setting.rows),
                    format="jsonl/messages",
                )
            ],
        )
        write_job(run_dir.path, job)
        run_dir.write_attempt(Attempt(1, 1, None))
        outcome = run_training(Timed(), run_dir, job)
        if outcome.status != "completed":
            raise RuntimeError(outcome.error)
        parent[0] = str(run_dir.path / str(outcome.checkpoint))

    return turn


def _callback(times: Times) -> Any:
    from transformers import TrainerCallback

    class Tick(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            times.tick()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            times.tick()

    return Tick()


_ARGUMENTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 0,
}


def hf_trainer(setting: Setting, times: Times) -> Callable[[], None]:
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    model, made = load(setting), examples(setting)

    class Ordered(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return SequentialSampler(made)

        def log(self, *args: Any, **kwargs: Any) -> None:
            self.state.log_history.append(args[0])

    def turn() -> None:
        times.begin_turn()
        arguments = TrainingArguments(
            str(setting.folder / "trainer"),
            max_steps=setting.steps,
            per_device_train_batch_size=setting.batch_rows,
            remove_unused_columns=False,
            **_ARGUMENTS,
        )
        Ordered(model, arguments, data_collator=collate, train_dataset=made, callbacks=[_callback(times)]).train()

    return turn


def trl_sft(setting: Setting, times: Times) -> Callable[[], None]:
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = load(setting)
    tokenizer = AutoTokenizer.from_pretrained(setting.model_dir, local_files_only=True)
    encoded = ChatTokenizer(setting.model_dir).encode(setting.rows)
    plan = BatchPlan(encoded.lengths, 0, batch_rows=setting.batch_rows)
    ordered = [setting.rows[int(i)]["messages"] for k in range(setting.steps) for i in plan.rows(k)]
    data = Dataset.from_list([{"prompt": m[:1], "completion": m[1:]} for m in ordered])

    class Ordered(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def log(self, *args: Any, **kwargs: Any) -> None:
            self.state.log_history.append(args[0])

    def turn() -> None:
        times.begin_turn()
        arguments = SFTConfig(
            str(setting.folder / "trl"),
            max_steps=setting.steps,
            per_device_train_batch_size=setting.batch_rows,
            max_length=128,
            completion_only_loss=True,
            **_ARGUMENTS,
        )
        Ordered(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[_callback(times)]).train()

    return turn


def run(setting: Setting, turns: int) -> dict[str, Times]:
    """Take turns; the first turn of each warms up and is not counted."""
    makers: dict[str, Callable[[Times], Callable[[], None]]] = {
        "bare loop, all logits": lambda t: bare(setting, t, labelled_only=False),
        "bare loop, same loss": lambda t: bare(setting, t, labelled_only=True),
        "ours": lambda t: ours(setting, t),
        "transformers.Trainer": lambda t: hf_trainer(setting, t),
    }
    if importlib.util.find_spec("trl") is not None:
        makers["TRL SFTTrainer"] = lambda t: trl_sft(setting, t)
    measured = {name: Times() for name in makers}
    contenders = {name: make(measured[name]) for name, make in makers.items()}
    for number in range(turns + 1):
        names = list(contenders)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            contenders[name]()
        if number == 0:
            for times in measured.values():
                times.wall.clear()
                times.cpu.clear()
        print(f"turn {number} of {turns}", file=sys.stderr)
    return measured


def table(measured: dict[str, Times]) -> tuple[str, dict[str, float]]:
    """Return a Markdown table and the ratios that have goals."""
    wall = {name: statistics.median(t.wall) for name, t in measured.items()}
    cpu = {name: statistics.median(t.cpu) for name, t in measured.items()}
    base = "bare loop, same loss"
    lines = ["| loop | ms a step (wall) | ms a step (CPU) | CPU ratio | steps |", "|---|---|---|---|---|"]
    for name, times in measured.items():
        ratio, count = cpu[name] / cpu[base], len(times.cpu)
        lines.append(f"| {name} | {1e3 * wall[name]:.2f} | {1e3 * cpu[name]:.2f} | {ratio:.3f} | {count} |")
    ratios = {
        "ours / bare, same loss": cpu["ours"] / cpu[base],
        "ours / Trainer": cpu["ours"] / cpu["transformers.Trainer"],
    }
    if "TRL SFTTrainer" in cpu:
        ratios["ours / SFTTrainer"] = cpu["ours"] / cpu["TRL SFTTrainer"]
    lines += ["", "| ratio (CPU) | measured | goal |", "|---|---|---|"]
    lines += [f"| {name} | {value:.3f} | <= {GOALS[name]} |" for name, value in ratios.items()]
    return "\n".join(lines), ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="squire", choices=["tiny", "squire"])
    parser.add_argument("--rows", type=int, default=32, help="rows in a step")
    parser.add_argument("--steps", type=int, default=40, help="steps in a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write all figures here")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        rows = addition_rows((chosen.steps + 1) * chosen.rows)
        corpus = [" ".join(m["content"] for m in row["messages"]) + " user assistant" for row in rows[:500]]
        corpus += [inspect.getsource(argparse), inspect.getsource(inspect)]  # enough text for the whole vocabulary
        model_dir = build_squire(Path(folder) / "model", corpus, size=chosen.size)
        measured = run(Setting(Path(folder), model_dir, rows, chosen.rows, chosen.steps), chosen.turns)
    text, ratios = table(measured)
    print(f"\n{chosen.size}, {chosen.rows} rows a step, 1 thread, torch {torch.__version__}\n\n{text}")
    if chosen.json:
        figures = {name: {"wall": t.wall, "cpu": t.cpu} for name, t in measured.items()}
        chosen.json.write_text(json.dumps({"ratios": ratios, "steps": figures}))
    return 0 if all(value <= GOALS[name] for name, value in ratios.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
