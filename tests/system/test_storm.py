"""A thousand files dropped at once from eight processes: each is one job, in priority order, none lost."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from realm.settings import Settings
from realm.wiring import Realm
from vault.records import PRIORITY_RANK

DROPPER = """
import json, os, sys
inbox, number, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for turn in range(count):
    name = f"storm {number}-{turn}.jsonl"
    folder = os.path.join(inbox, ("high", "", "low")[turn % 3])
    rows = [{"messages": [{"role": "user", "content": f"{number} {turn} {row}?"},
                          {"role": "assistant", "content": f"answer {number * turn + row}"}]} for row in range(4)]
    with open(os.path.join(folder, name), "w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\\n")
            if turn % 50 == 0:
                file.flush()
"""


@pytest.mark.parametrize("count", [25, pytest.param(125, marks=pytest.mark.slow)])
def test_every_dropped_file_is_one_job(settings: Settings, count: int) -> None:
    realm = Realm(settings)
    for folder in ("high", "low"):
        (realm.paths.inbox / folder).mkdir()
    droppers = [
        subprocess.Popen([sys.executable, "-c", DROPPER, str(realm.paths.inbox), str(number), str(count)])
        for number in range(8)
    ]
    started = time.monotonic()
    expected = {f"storm {number}-{turn}.jsonl" for number in range(8) for turn in range(count)}
    while realm.vault.jobs.counts().get("queued", 0) < len(expected) and time.monotonic() - started < 100:
        realm.intake.scan(time.time())
    assert [dropper.wait() for dropper in droppers] == [0] * 8
    waiting = realm.vault.jobs.waiting(2000)
    assert {job.name for job in waiting} == expected and len(waiting) == len(expected)
    assert [PRIORITY_RANK[job.priority] for job in waiting] == sorted(PRIORITY_RANK[job.priority] for job in waiting)
    for priority in PRIORITY_RANK:
        seqs = [job.seq for job in waiting if job.priority == priority]
        assert seqs == sorted(seqs)
    assert all(job.rows == 4 for job in waiting)
    left = [path for path in realm.paths.inbox.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert left == []
    realm.close()
