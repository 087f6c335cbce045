"""The daemon: it finishes what verifies, gives back what was lost, obeys, and recovers from any kind of end."""

from __future__ import annotations

import errno
import threading

import pytest

from arena.daemon import Daemon
from arena.queue import QueueView
from realm.errors import ConflictError
from realm.processes import FileLock
from realm.settings import Settings
from tests.arena.scripted import ScriptedExecutor
from tests.conftest import new_job
from vault.store import Vault


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def executor() -> ScriptedExecutor:
    return ScriptedExecutor()


@pytest.fixture
def daemon(settings: Settings, vault: Vault, executor: ScriptedExecutor, clock: Clock) -> Daemon:
    return Daemon(settings, vault, executor, clock=clock, monotonic=clock)


def another(daemon: Daemon) -> Daemon:
    """The daemon that comes after this one was killed."""
    return Daemon(daemon.settings, daemon.vault, daemon.executor, clock=daemon._clock, monotonic=daemon._monotonic)


def test_a_finished_job_is_in_the_ledger_with_its_losses(daemon: Daemon, vault: Vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.complete(steps=3, val_loss=0.5)
    daemon.run_once()
    done = vault.jobs.get(job.id)
    assert done.state == "completed" and done.run_id is not None
    checkpoint = vault.ledger.latest("dio")
    assert checkpoint is not None and (checkpoint.step, checkpoint.val_loss) == (3, 0.5)
    assert vault.ledger.run(done.run_id).step == 3
    assert vault.metrics.latest(done.run_id)["loss"] == (3, 1.0)


def test_the_next_job_carries_on_from_the_last_checkpoint(daemon: Daemon, vault: Vault, executor) -> None:
    for name in "ab":
        vault.jobs.submit(new_job(name))
    daemon.run_once()
    executor.last.complete(steps=3)
    daemon.run_once()
    executor.last.complete(steps=4)
    daemon.run_once()
    latest = vault.ledger.latest("dio")
    assert latest is not None and latest.step == 7 and vault.ledger.stats("dio").xp == 7


def test_a_completion_whose_checkpoint_does_not_verify_is_none(daemon: Daemon, vault: Vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    daemon.run_once()
    trainer = executor.last
    name = trainer.checkpoint(2)
    (trainer.run_dir.path / name / "model.safetensors").write_bytes(b"weights of X")
    trainer.end("completed", 2, name)
    daemon.run_once()
    again = vault.jobs.get(job.id)
    assert again.state in ("queued", "processing") and vault.ledger.stats("dio").completed == 0
    assert vault.events.list(kinds=["job_requeued"])[0].data["reason"]["code"] == "corrupt_file"


def test_a_dead_worker_gives_the_job_back_and_it_goes_on_at_once_if_it_got_further(daemon, vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.steps(1, 5)
    executor.dead.add(executor.started[-1].fence)
    daemon.run_once()
    daemon.run_once()
    assert len(executor.started) == 2 and vault.jobs.get(job.id).attempts == 2
    assert executor.started[0].run_dir == executor.started[1].run_dir


def test_a_job_that_always_dies_fails_after_three_tries_and_the_queue_goes_on(daemon, vault, executor, clock) -> None:
    poison, _ = vault.jobs.submit(new_job("poison"))
    good, _ = vault.jobs.submit(new_job("good"))
    for _ in range(3):
        daemon.run_once()
        executor.dead.add(executor.started[-1].fence)
        daemon.run_once()
        clock.now += 100
    assert vault.jobs.get(poison.id).state == "failed"
    daemon.run_once()
    executor.last.complete()
    daemon.run_once()
    assert vault.jobs.get(good.id).state == "completed"


def test_an_error_that_another_try_cannot_help_fails_at_once(daemon, vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.end("failed", 0, error={"code": "bad_config", "message": "no such key", "hint": "mend it"})
    daemon.run_once()
    failed = vault.jobs.get(job.id)
    assert failed.state == "failed" and failed.reason["hint"] == "mend it" and len(executor.started) == 1


def pass_time(daemon: Daemon, clock, seconds: float) -> None:
    """Let time go by while the daemon goes round."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += 2.0
        daemon.run_once()


def test_a_run_is_not_called_hung_after_the_daemon_itself_was_away(daemon, vault, executor, clock) -> None:
    """Both were stopped, or the machine slept: the trainer gets as long as ever to show a sign of life."""
    vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.say({"kind": "phase", "phase": "training"})
    daemon.run_once()
    clock.now += 10 * daemon.settings.arena.hang_s
    daemon.run_once()
    assert executor.killed == []
    pass_time(daemon, clock, daemon.settings.arena.hang_s + 5)
    assert executor.killed == [executor.started[0].fence]


def test_a_run_that_cannot_write_a_word_on_a_full_disk_is_not_called_hung(
    daemon, vault, executor, clock, monkeypatch
) -> None:
    vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.say({"kind": "phase", "phase": "training"})
    daemon.run_once()
    monkeypatch.setattr("arena.daemon.free_bytes", lambda path: 0)
    pass_time(daemon, clock, 3 * daemon.settings.arena.hang_s)
    assert executor.killed == []
    monkeypatch.undo()
    pass_time(daemon, clock, 2 * daemon.settings.arena.hang_s)
    assert executor.killed == [executor.started[0].fence]


def test_a_second_daemon_does_not_pass_itself_off_as_the_first(daemon, paths) -> None:
    lock = FileLock(paths.control / "arena.lock")
    assert lock.acquire()
    begun = []
    with pytest.raises(ConflictError):
        daemon.run(threading.Event(), lambda: begun.append(1))
    assert begun == []
    lock.release()


def test_a_full_disk_at_the_start_is_waited_for(daemon, vault, monkeypatch) -> None:
    calls = []

    def recover() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        stop.set()

    stop = threading.Event()
    monkeypatch.setattr(daemon, "recover", recover)
    monkeypatch.setattr(stop, "wait", lambda timeout=None: stop.is_set())
    daemon.run(stop)
    assert len(calls) == 2


def test_a_job_whose_rows_were_removed_fails_at_once_and_can_be_retried(daemon, vault, executor, paths) -> None:
    sha256 = "a" * 64
    entry = {"canonical_sha256": sha256, "rows": 1, "format": "messages", "name": "sums.jsonl"}
    job, _ = vault.jobs.submit(new_job(data=[entry]))
    daemon.run_once()
    failed = vault.jobs.get(job.id)
    assert failed.state == "failed" and failed.reason["code"] == "data_missing"
    assert "sums.jsonl" in failed.reason["message"] and "Drop the file again" in failed.reason["hint"]
    (paths.objects / f"{sha256}.jsonl").write_text("{}\n")
    vault.jobs.retry(job.id, by="ann")
    daemon.run_once()
    assert len(executor.started) == 1 and vault.jobs.get(job.id).state == "processing"


def test_a_silent_run_is_ended_and_tried_again(daemon, vault, executor, clock) -> None:
    job, _ = vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.say({"kind": "phase", "phase": "training"})
    executor.last.steps(1, 2)
    daemon.run_once()
    pass_time(daemon, clock, daemon.settings.arena.hang_s + 5)
    assert executor.killed == [executor.started[0].fence]
    assert vault.events.list(kinds=["job_requeued"])[0].data["reason"]["code"] == "hung"
    assert vault.jobs.get(job.id).attempts == 2


def test_a_paused_run_is_not_called_hung(daemon, vault, executor, clock) -> None:
    vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.say({"kind": "phase", "phase": "paused"})
    daemon.run_once()
    pass_time(daemon, clock, 3 * daemon.settings.arena.hang_s)
    assert executor.killed == []


def test_pause_holds_queue_and_battle_and_resume_releases_both(daemon, vault, executor) -> None:
    vault.jobs.submit(new_job())
    daemon.run_once()
    command = vault.commands.request("pause", by="ann")
    daemon.run_once()
    message = executor.last.told()[0]
    assert (message.id, message.verb) == (command.id, "pause") and vault.jobs.held() is not None
    assert vault.commands.get(command.id).state == "sent"
    executor.last.answer(message, "paused")
    daemon.run_once()
    assert vault.commands.get(command.id).effect["effect"] == "paused"
    vault.commands.request("resume", by="ann")
    daemon.run_once()
    assert vault.jobs.held() is None and executor.last.told()[1].verb == "resume"


def test_stop_puts_the_job_back_in_its_place_and_holds_the_queue(daemon, vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    vault.jobs.submit(new_job("next"))
    daemon.run_once()
    command = vault.commands.request("stop", by="ann")
    daemon.run_once()
    executor.last.end("stopped", 2, executor.last.checkpoint(2))
    daemon.run_once()
    daemon.run_once()
    assert vault.jobs.waiting()[0].id == job.id and len(executor.started) == 1
    assert vault.commands.get(command.id).state == "done"
    vault.commands.request("resume", by="ann")
    daemon.run_once()
    daemon.run_once()
    assert executor.started[-1].run_dir == executor.started[0].run_dir


def test_skip_ends_the_job_and_the_next_begins_on_its_checkpoint(daemon, vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    vault.jobs.submit(new_job("next"))
    daemon.run_once()
    vault.commands.request("skip", by="ann")
    daemon.run_once()
    executor.last.end("skipped", 2, executor.last.checkpoint(2))
    daemon.run_once()
    assert vault.jobs.get(job.id).state == "skipped" and len(executor.started) == 2
    assert vault.ledger.stats("dio").completed == 0


def test_skip_without_a_battle_is_refused_and_control_files_are_commands(daemon, vault, paths) -> None:
    command = vault.commands.request("skip", by="ann")
    (paths.control / ".pause").touch()
    daemon.run_once()
    assert vault.commands.get(command.id).state == "refused"
    assert vault.jobs.held()["by"] == "a control file" and not (paths.control / ".pause").exists()


def test_a_killed_daemon_is_replaced_without_touching_the_running_worker(daemon, vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.steps(1, 3)
    second = another(daemon)
    second.recover()
    second.run_once()
    assert len(executor.started) == 1 and second.battle is not None and second.battle.ingest.step == 3
    executor.last.complete(steps=5)
    second.run_once()
    assert vault.jobs.get(job.id).state == "completed" and vault.ledger.stats("dio").completed == 1


def test_a_run_that_ended_while_no_daemon_lived_is_entered_once(daemon, vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.complete(steps=3)
    for _ in range(2):
        another(daemon).recover()
    assert vault.jobs.get(job.id).state == "completed"
    assert len(vault.events.list(kinds=["job_completed"])) == 1
    assert len(vault.events.list(kinds=["checkpoint_saved"])) == 1


def test_a_claim_whose_daemon_died_before_the_start_goes_back(daemon, vault, executor) -> None:
    job, _ = vault.jobs.submit(new_job())
    assert vault.jobs.claim("someone", 1.0, 30) is not None
    second = another(daemon)
    second.recover()
    assert vault.jobs.get(job.id).state == "queued"


def test_a_corrupt_parent_is_quarantined_and_the_one_before_is_used(daemon, vault, executor, clock) -> None:
    vault.jobs.submit(new_job("a"))
    daemon.run_once()
    first = executor.last.checkpoint(2)
    executor.last.steps(1, 4)
    last = executor.last.checkpoint(4)
    executor.last.end("completed", 4, last)
    folder = executor.started[0].run_dir
    daemon.run_once()
    (folder / last / "model.safetensors").write_bytes(b"rot")
    job, _ = vault.jobs.submit(new_job("b"))
    daemon.run_once()
    clock.now += 1000
    daemon.run_once()
    statuses = {c.name: c.status for c in vault.ledger.checkpoints("dio", statuses=("verified", "quarantined")).items}
    assert statuses == {first: "verified", last: "quarantined"}
    assert vault.ledger.run(vault.jobs.get(job.id).run_id).hero_step_start == 2


def test_a_second_daemon_is_refused(daemon, paths) -> None:
    lock = FileLock(paths.control / "arena.lock")
    assert lock.acquire()
    with pytest.raises(ConflictError, match="Another daemon"):
        daemon.run(threading.Event())
    lock.release()


def test_evaluations_and_events_of_a_run_reach_the_ledger(daemon, vault, executor) -> None:
    vault.jobs.submit(new_job())
    daemon.run_once()
    evaluation = {"kind": "evaluation", "step": 2, "name": "bin/L1/heldout", "skill": "bin", "level": 1}
    evaluation |= {
        "split": "heldout",
        "correct": 80,
        "total": 100,
        "wrong": [{"prompt": "p", "expected": "e", "got": "g"}],
    }
    executor.last.say(evaluation, {"kind": "event", "name": "rollback", "step": 2, "to_step": 0})
    daemon.run_once()
    found = vault.ledger.latest_evaluations("dio")[0]
    assert found.accuracy == 0.8 and found.details["wrong"][0]["got"] == "g"
    assert vault.events.list(kinds=["rollback"])[0].data["to_step"] == 0


def test_rotated_checkpoints_are_entered_as_deleted(daemon, vault, executor) -> None:
    import shutil

    vault.jobs.submit(new_job())
    daemon.run_once()
    executor.last.steps(1, 2)
    old = executor.last.checkpoint(2)
    daemon.run_once()
    shutil.rmtree(executor.started[0].run_dir / old)
    executor.last.steps(3, 4)
    executor.last.end("completed", 4, executor.last.checkpoint(4))
    daemon.run_once()
    gone = vault.ledger.checkpoints("dio", statuses=("deleted",)).items
    assert [checkpoint.name for checkpoint in gone] == [old]


def test_the_view_follows_the_ledger(daemon, vault, executor, paths, clock) -> None:
    view = QueueView(paths, vault)
    job, _ = vault.jobs.submit(new_job("a b.jsonl", priority="high"))
    daemon.run_once()
    view.reconcile()
    assert [path.name for path in paths.processing.iterdir()] == [f"a b.jsonl--{job.id}.json"]
    executor.last.complete()
    daemon.run_once()
    view.reconcile()
    assert [path.name for path in paths.recently_completed.iterdir()] == [f"a b.jsonl--{job.id}.json"]


def test_what_became_of_a_file_that_is_no_job_is_told(daemon: Daemon, vault: Vault, settings: Settings) -> None:
    from arena.intake import IntakeResult

    stop = threading.Event()

    class Once:
        def scan(self, now: float) -> list[IntakeResult]:
            stop.set()
            return [
                IntakeResult("duplicate", "a.jsonl", "a.jsonl was taken before.", "Name it a.again.jsonl."),
                IntakeResult("accepted", "b.jsonl", "fine"),
            ]

    teller = Daemon(settings, vault, daemon.executor, intake=Once())
    teller._take_in(stop)
    told = vault.events.list(kinds=["file_known"])
    assert [event.data["text"] for event in told] == ["a.jsonl was taken before. Name it a.again.jsonl."]
