"""The ledger: progress that never goes back, levels once, checkpoints by content, champions, evaluations."""

from __future__ import annotations

import pytest

from realm.errors import ConflictError, NotFoundError
from tests.conftest import new_job
from tests.vault.test_jobs import NOW, checkpoint, claim
from vault.ledger import Progress
from vault.manifest import Manifest
from vault.store import Vault


def progress(step: int, **fields: object) -> Progress:
    values: dict[str, object] = {"offset": step * 100, "seq": step, "step": step, "phase": "training"}
    values |= {"max_steps": 5000, "train_loss": 0.5, "val_loss": None, "tokens": step, "train_seconds": 1.0}
    return Progress(**(values | fields))  # type: ignore[arg-type]


@pytest.fixture
def run_id(vault: Vault) -> str:
    vault.jobs.submit(new_job())
    return claim(vault).run.id


def test_xp_is_steps_and_levels_are_entered_once_each(vault: Vault, run_id: str) -> None:
    vault.ledger.advance(run_id, progress(999))
    assert vault.ledger.stats("dio").level == 0
    vault.ledger.advance(run_id, progress(3001))
    vault.ledger.advance(run_id, progress(3001))
    levels = [event.data["level"] for event in vault.events.list(kinds=["level_reached"])]
    assert levels == [1, 2, 3]
    stats = vault.ledger.stats("dio")
    assert (stats.xp, stats.level, stats.xp_into_level, stats.atk) == (3001, 3, 1, 2.0)


def test_repeating_steps_after_a_crash_neither_loses_nor_earns_xp(vault: Vault, run_id: str) -> None:
    vault.ledger.advance(run_id, progress(730))
    vault.ledger.advance(run_id, progress(500, offset=90_000))
    assert vault.ledger.stats("dio").xp == 730
    vault.ledger.advance(run_id, progress(900, offset=99_000))
    assert vault.ledger.stats("dio").xp == 900


def test_a_checkpoint_is_entered_once_and_other_content_under_its_name_is_refused(vault: Vault, run_id: str) -> None:
    first = checkpoint(vault, run_id, 500, val_loss=0.7)
    assert checkpoint(vault, run_id, 500, val_loss=0.7).id == first.id
    with pytest.raises(ConflictError):
        checkpoint(vault, run_id, 500, val_loss=0.6)
    with pytest.raises(NotFoundError):
        vault.ledger.record_checkpoint(
            "run_none", "checkpoint-1-20261120-1200", Manifest({"step": 1, "run_step": 1}, ())
        )


def test_the_best_validation_loss_is_champion_until_a_person_chooses(vault: Vault, run_id: str) -> None:
    worse = checkpoint(vault, run_id, 100, val_loss=0.9)
    best = checkpoint(vault, run_id, 200, val_loss=0.4)
    checkpoint(vault, run_id, 300, val_loss=0.6)
    champion = vault.ledger.champion("dio")
    assert champion is not None and champion.id == best.id
    vault.ledger.promote(worse.id, by="ann")
    checkpoint(vault, run_id, 400, val_loss=0.1)
    champion = vault.ledger.champion("dio")
    assert champion is not None and champion.id == worse.id
    vault.ledger.set_checkpoint_status(worse.id, "quarantined", "bit flip")
    champion = vault.ledger.champion("dio")
    assert champion is not None and champion.step == 400
    with pytest.raises(ConflictError):
        vault.ledger.promote(worse.id, by="ann")


def test_evaluations_are_entered_once_and_the_newest_of_each_set_counts(vault: Vault, run_id: str) -> None:
    def enter(step: int, split: str, correct: int) -> bool:
        return vault.ledger.record_evaluation(
            run_id, run_step=step, name=f"bin/L1/{split}", skill="bin", level=1, split=split,
            correct=correct, total=100, details={}, at=NOW,
        )  # fmt: skip

    assert enter(100, "known", 50) and enter(100, "heldout", 20) and enter(200, "heldout", 80)
    assert not enter(200, "heldout", 99)
    stats = vault.ledger.stats("dio")
    assert (stats.acc_correct, stats.acc_total) == (80, 100)
    assert {(e.split, e.correct) for e in vault.ledger.latest_evaluations("dio")} == {("known", 50), ("heldout", 80)}


def test_pages_go_on_where_they_stopped(vault: Vault, run_id: str) -> None:
    for step in range(1, 8):
        checkpoint(vault, run_id, step)
    page = vault.ledger.checkpoints("dio", limit=3)
    rest = vault.ledger.checkpoints("dio", limit=10, before_seq=page.next_cursor)
    assert [c.step for c in (*page.items, *rest.items)] == [7, 6, 5, 4, 3, 2, 1]
    assert rest.next_cursor is None
