"""How long a person waits: from the file's arrival to the first optimizer step, and between two quests of a queue.

    python -m benches.latency

Arrival: a file of 2,000 rows is moved into the inbox of an idle arena whose worker is warm; measured to the time of the
run's first step record. Queue: 20 files of 64 rows dropped at once; measured from the last step of one run to the
first step of the next, final save and ledger included.
"""

from __future__ import annotations

import itertools
import json

from benches.rig import Arena, arena, spread
from guild.quests import make_quest_rows

ARRIVALS = 7
QUEUE = 20


def quest(rows: int, seed: int, skill: bool) -> bytes:
    """Return a quest file of BIN rows; without `skill` nothing tells that evaluations belong to it."""
    made = make_quest_rows("bin", [1, 2, 3], rows, seed)
    kept = [row if skill else {"messages": row["messages"]} for row in made]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode()


def arrivals(running: Arena) -> list[float]:
    """Return the waits from arrival to first step, one quest at a time."""
    waits = []
    done = running.realm.vault.jobs.counts().get("completed", 0)
    for number in range(ARRIVALS):
        spec = json.dumps({"data": f"rows{number}.jsonl", "config": {"max_steps": 5}, "name": f"arrival {number}"})
        running.drop(f"rows{number}.jsonl.part", quest(2000, 100 + number, skill=False))
        running.drop(f"arrival{number}.yaml", spec.encode())
        part = running.realm.paths.inbox / f"rows{number}.jsonl.part"
        at = part.rename(part.with_suffix("")).stat().st_ctime
        running.wait_done(done + number + 1, 120)
        job = running.realm.vault.jobs.list(("completed",), limit=1).items[0]
        waits.append(running.records(job.run_id, "step")[0]["t"] - at)
    return waits


def queue(running: Arena) -> list[float]:
    """Return the gaps between the last step of a run and the first step of the next."""
    done = running.realm.vault.jobs.counts().get("completed", 0)
    running.realm.vault.jobs.hold("bench", "filled")
    for number in range(QUEUE):
        running.drop(f"small{number:02d}.jsonl", quest(64, 500 + number, skill=False))
    running.wait(lambda: running.realm.vault.jobs.counts().get("queued", 0) == QUEUE, 60)
    running.realm.vault.jobs.unhold("bench")
    running.wait_done(done + QUEUE, 300)
    runs = sorted(running.realm.vault.ledger.runs(limit=QUEUE).items, key=lambda run: run.seq)
    steps = [running.records(run.id, "step") for run in runs]
    return [after[0]["t"] - before[-1]["t"] for before, after in itertools.pairwise(steps)]


def main() -> None:
    with arena() as running:
        running.drop("warm-up.jsonl", quest(64, 1, skill=False))
        running.wait_done(1, 180)
        print(f"arrival to first step, warm worker, 2,000 rows: {spread(arrivals(running))}")
        print(f"between two quests of a queue of {QUEUE}: {spread(queue(running))}")


if __name__ == "__main__":
    main()
