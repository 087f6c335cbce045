"""The queue folders: hands' moves are commands or are put back, and never lose or double a job."""

from __future__ import annotations

import random

import pytest

from arena.queue import QueueView, safe_name
from realm.paths import PRIORITIES, RealmPaths
from tests.conftest import new_job
from vault.store import Vault


@pytest.fixture
def view(paths: RealmPaths, vault: Vault) -> QueueView:
    return QueueView(paths, vault)


def pointer(paths: RealmPaths, job_id: str):
    found = list(paths.home.rglob(f"*--{job_id}.json"))
    assert len(found) == 1, found
    return found[0]


def test_moving_a_pointer_between_priorities_moves_the_job(view: QueueView, vault: Vault, paths: RealmPaths) -> None:
    job, _ = vault.jobs.submit(new_job())
    view.reconcile()
    path = pointer(paths, job.id)
    path.rename(paths.queue("high") / path.name)
    assert view.touched()
    view.reconcile()
    assert vault.jobs.get(job.id).priority == "high"
    assert pointer(paths, job.id).parent == paths.queue("high")
    assert vault.events.list(kinds=["job_moved"])[0].data["by"] == "hand"


def test_a_hand_can_cancel_and_bring_back(view: QueueView, vault: Vault, paths: RealmPaths) -> None:
    job, _ = vault.jobs.submit(new_job())
    view.reconcile()
    path = pointer(paths, job.id)
    path.rename(paths.failed / path.name)
    view.reconcile()
    assert vault.jobs.get(job.id).state == "cancelled"
    path = pointer(paths, job.id)
    path.rename(paths.queue("low") / path.name)
    view.reconcile()
    found = vault.jobs.get(job.id)
    assert (found.state, found.priority) == ("queued", "low")


def test_a_deleted_or_copied_pointer_is_put_right(view: QueueView, vault: Vault, paths: RealmPaths) -> None:
    job, _ = vault.jobs.submit(new_job())
    view.reconcile()
    pointer(paths, job.id).unlink()
    view.reconcile()
    path = pointer(paths, job.id)
    (paths.recently_completed / path.name).write_bytes(path.read_bytes())
    view.reconcile()
    assert pointer(paths, job.id) == path and vault.jobs.get(job.id).state == "queued"


def test_what_makes_no_sense_is_put_back_and_said(view: QueueView, vault: Vault, paths: RealmPaths) -> None:
    job, _ = vault.jobs.submit(new_job())
    view.reconcile()
    path = pointer(paths, job.id)
    path.rename(paths.processing / path.name)
    view.reconcile()
    assert pointer(paths, job.id) == path
    assert "put back" in vault.events.list(kinds=["view_restored"])[0].data["text"]


def test_a_data_file_dropped_into_a_queue_folder_goes_through_the_inbox(view: QueueView, paths: RealmPaths) -> None:
    (paths.inbox / "high").mkdir()
    (paths.inbox / "high" / "data.jsonl").write_text("already there")
    (paths.queue("high") / "data.jsonl").write_text("rows")
    view.reconcile()
    assert (paths.inbox / "high" / "data-2.jsonl").read_text() == "rows"
    assert not (paths.queue("high") / "data.jsonl").exists()


def test_random_hands_never_lose_or_double_a_job(view: QueueView, vault: Vault, paths: RealmPaths) -> None:
    rng = random.Random(7)
    jobs = [vault.jobs.submit(new_job(f"{n}", priority=rng.choice(PRIORITIES)))[0] for n in range(12)]
    folders = [paths.queue(priority) for priority in PRIORITIES]
    folders += [paths.processing, paths.failed, paths.recently_completed]
    for turn in range(60):
        files = [path for folder in folders for path in folder.iterdir()]
        for path in rng.sample(files, min(3, len(files))):
            rng.choice([path.unlink, lambda p=path: p.rename(rng.choice(folders) / p.name)])()
        if turn % 3 == 0 and vault.jobs.waiting():
            vault.jobs.move(rng.choice(vault.jobs.waiting()).id, priority=rng.choice(PRIORITIES))
        view = view if turn % 5 else QueueView(paths, vault)
        view.reconcile()
        for job in jobs:
            place, state = pointer(paths, job.id).parent, vault.jobs.get(job.id)
            assert place == (paths.queue(state.priority) if state.state == "queued" else paths.failed)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "\0", "…" * 300, "", "..", "quo'te\"\n", "x" * 500])
def test_any_label_makes_one_safe_component(name: str) -> None:
    safe = safe_name(name)
    assert safe and "/" not in safe and "\0" not in safe and safe not in (".", "..") and len(safe.encode()) <= 150
