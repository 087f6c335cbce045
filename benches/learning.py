"""The first promise: a hero made of nothing learns BIN levels 1 to 3 on one CPU core within minutes.

    python -m benches.learning                  # one seed, about three minutes
    python -m benches.learning --seeds 0 1 2    # the table of experiments/bin_formats

Builds the squire, makes the quest that DIO's recipe describes, trains, and measures exact match of the
whole assistant turn on known and held-out problems of every level. Teacher forced: a turn counts when
the argmax is right at each of its positions, end marker included, which is what greedy decoding gives.

Time is the CPU time of this process without building the model and without measuring, so that other
work on the machine does not count. Exit status 1 where the promise is not kept.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from arena.squire import build_squire
from arena.trainers.sft.config import SftConfig, parse_config
from guild.corpus import squire_corpus
from guild.heroes import Variant, load_hero
from guild.quests import QuestFile, evaluation_sets_for, make_quest
from guild.skills.contract import EvaluationSet

LEVELS = (1, 2, 3)
KNOWN, HELD_OUT, SECONDS = 0.95, 0.80, 240.0
"""Promised: accuracy on known problems of every level, on held-out ones of the last, and CPU seconds."""


@dataclass(frozen=True)
class Result:
    """What a trained hero scores: evaluation set → (right, asked), and what the training cost."""

    accuracy: dict[str, tuple[int, int]]
    cpu_s: float
    steps: int

    def share(self, name: str) -> float:
        right, asked = self.accuracy[name]
        return right / asked

    def kept(self) -> bool:
        known = all(self.share(f"bin/L{level}/known") >= KNOWN for level in LEVELS)
        return known and self.share(f"bin/L{LEVELS[-1]}/heldout") >= HELD_OUT and self.cpu_s <= SECONDS


class Door(Protocol):
    """A way to have a quest trained: the bare loop below, or a running platform."""

    def train(
        self, model_dir: Path, quest: QuestFile, config: dict[str, Any], sets: Sequence[EvaluationSet], seed: int
    ) -> Result: ...


class BareLoop:
    """The trainer's arithmetic (its configuration, schedule and optimizer) without the platform."""

    def train(
        self, model_dir: Path, quest: QuestFile, config: dict[str, Any], sets: Sequence[EvaluationSet], seed: int
    ) -> Result:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from arena.trainers.sft.optim import learning_rate, make_optimizer

        torch.set_num_threads(1)
        settings = parse_config(config)
        tokenizer = AutoTokenizer.from_pretrained(model_dir)
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        examples = [encode(tokenizer, row["messages"]) for row in read_rows(quest.path)]
        optimizer = make_optimizer(model.named_parameters(), settings)
        last = settings.max_steps or max(1, int(len(examples) * settings.epochs) // settings.batch_size)
        model.train()
        started = time.process_time()
        for step, chosen in zip(range(last), batches(len(examples), settings, seed), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step, last)
            logits, targets, _ = predict(model, [examples[index] for index in chosen])
            torch.nn.functional.cross_entropy(logits, targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
        cpu_s = time.process_time() - started
        model.eval()
        with torch.no_grad():
            accuracy = {chosen.name: measure(model, tokenizer, chosen) for chosen in sets}
        return Result(accuracy, cpu_s, last)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def encode(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Return the tokens of a chat and, for each, whether the template marks it as the assistant's."""
    out = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    return out["input_ids"], out["assistant_masks"]


def batches(count: int, settings: SftConfig, seed: int) -> Iterator[list[int]]:
    """Yield row numbers for one step after another, every epoch in an order of its own, without end."""
    epoch = 0
    while True:
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for start in range(0, count - settings.batch_size + 1, settings.batch_size):
            yield order[start : start + settings.batch_size]
        epoch += 1


def predict(model: Any, examples: Sequence[tuple[list[int], list[int]]]) -> tuple[Any, Any, Any]:
    """Return logits and targets at the assistant's tokens, and where those are (batch, position)."""
    import torch

    width = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in examples])
    mask = torch.tensor([marks + [0] * (width - len(marks)) for _, marks in examples])[:, 1:].bool()
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    return model.lm_head(hidden[mask]), ids[:, 1:][mask], mask


def measure(model: Any, tokenizer: Any, chosen: EvaluationSet) -> tuple[int, int]:
    """Return how many answers of a set are right as a whole, and how many were asked for."""
    import torch

    right = 0
    for start in range(0, len(chosen.rows), 64):
        rows = chosen.rows[start : start + 64]
        turns = [[*row["messages"], {"role": "assistant", "content": row["answer"]}] for row in rows]
        logits, targets, mask = predict(model, [encode(tokenizer, turn) for turn in turns])
        agreed = torch.ones(mask.shape, dtype=torch.bool)
        agreed[mask] = logits.argmax(-1) == targets
        right += int(agreed.all(1).sum())
    return right, len(chosen.rows)


def learn(door: Door, variant: Variant, seed: int, folder: Path, levels: Sequence[int] = LEVELS) -> Result:
    """Have a new squire trained on a new quest and return what it scores."""
    plan = variant.quest
    model_dir = build_squire(folder / f"squire-{seed}", squire_corpus(), size=variant.model.size, seed=seed)
    shares = plan.level_shares(levels[-1])
    quest = make_quest("bin", shares, plan.count, seed, folder / f"quest-{seed}.jsonl", plan.mix)
    return door.train(model_dir, quest, dict(variant.config), evaluation_sets_for("bin", levels[-1]), seed)


def report(seed: int, result: Result) -> None:
    print(f"seed {seed}: {result.steps} steps, {result.cpu_s:.0f} s of CPU, {'kept' if result.kept() else 'NOT KEPT'}")
    for name, (right, asked) in result.accuracy.items():
        print(f"  {name:24} {right:4}/{asked:<4} {right / asked:.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variant", default="squire")
    arguments = parser.parse_args()
    variant = load_hero("dio").variant(arguments.variant)
    kept = True
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            result = learn(BareLoop(), variant, seed, Path(folder))
        report(seed, result)
        kept = kept and result.kept()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
