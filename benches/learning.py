"""The first promise: a hero made of nothing learns BIN levels 1 to 3 on one CPU core within minutes.

    python -m benches.learning                  # one seed, about three minutes
    python -m benches.learning --seeds 0 1 2

Through the public door: a squire is forged, the quest that DIO's recipe describes is dropped into the inbox of a real
arena, and the ledger is read when the job is complete. Exact match of the whole assistant turn, on known and on
held-out problems of every level. Battle is the wall time from the job's start to its completion, evaluations and saves
included; training is the sum of the steps alone. Exit status 1 where the promise is not kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from arena.squire import build_squire
from benches.rig import Arena, arena
from guild.corpus import squire_corpus
from guild.heroes import Variant, load_hero
from guild.quests import make_quest

LEVELS = (1, 2, 3)
KNOWN, HELD_OUT, SECONDS = 0.95, 0.80, 240.0
"""Promised: accuracy on known problems of every level, on held-out ones of the last, and seconds of battle."""


@dataclass(frozen=True)
class Result:
    """What a trained hero scores: evaluation set → (right, asked), and what the training cost."""

    accuracy: dict[str, tuple[int, int]]
    battle_s: float
    training_s: float
    steps: int

    def share(self, name: str) -> float:
        right, asked = self.accuracy[name]
        return right / asked

    def kept(self) -> bool:
        known = all(self.share(f"bin/L{level}/known") >= KNOWN for level in LEVELS)
        return known and self.share(f"bin/L{LEVELS[-1]}/heldout") >= HELD_OUT and self.battle_s <= SECONDS


def learn(running: Arena, variant: Variant, seed: int) -> Result:
    """Have the realm's hero trained on a new quest and return what the ledger says of it."""
    plan, vault = variant.quest, running.realm.vault
    with tempfile.TemporaryDirectory() as folder:
        shares = plan.level_shares(LEVELS[-1])
        made = make_quest("bin", shares, plan.count, seed, Path(folder) / "quest.jsonl", plan.mix)
        running.drop(f"quest_bin_L{LEVELS[-1]}_{seed}.jsonl", made.path.read_bytes())
    running.wait_done(1, 1800)
    job = vault.jobs.list(("completed",), limit=1).items[0]
    run = vault.ledger.run(job.run_id)
    found = vault.ledger.latest_evaluations(job.hero_id)
    began = running.records(run.id, "step")[0]["t"]
    assert job.finished_at is not None
    accuracy = {evaluation.name: (evaluation.correct, evaluation.total) for evaluation in found}
    return Result(accuracy, job.finished_at - began, run.train_seconds, run.step)


def report(seed: int, result: Result) -> None:
    verdict = "kept" if result.kept() else "NOT KEPT"
    cost = f"{result.battle_s:.0f} s of battle, {result.training_s:.0f} s of it in steps"
    print(f"seed {seed}: {result.steps} steps, {cost}, {verdict}")
    for name, (right, asked) in result.accuracy.items():
        print(f"  {name:24} {right:4}/{asked:<4} {right / asked:.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    variant = load_hero("dio").variant("squire")
    kept = True
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory(prefix="realm-bench-") as home:
            model = Path(home) / "models" / variant.model.name
            model.parent.mkdir(parents=True)
            build_squire(model, squire_corpus(), size=variant.model.size, seed=seed)
            with arena(Path(home)) as running:
                result = learn(running, variant, seed)
        report(seed, result)
        kept = kept and result.kept()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
