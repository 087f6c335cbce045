"""The queue of jobs: order, fences, exactly one completion, and a random walk against a model."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm.errors import ConflictError, NotFoundError
from tests.conftest import new_job
from vault.jobs import MAX_WAIT_S
from vault.manifest import Manifest
from vault.records import PRIORITIES
from vault.store import Vault

NOW = 1_000_000.0


def claim(vault: Vault, now: float = NOW):
    found = vault.jobs.claim("daemon_1", now, lease_s=30)
    assert found is not None
    return found


def checkpoint(vault: Vault, run_id: str, step: int, run_step: int | None = None, **card: object):
    """Enter a checkpoint of a run as the ingest would."""
    body = {"step": step, "run_step": step if run_step is None else run_step, "created_at": NOW + step} | card
    return vault.ledger.record_checkpoint(run_id, f"checkpoint-{step}-20261120-1200", Manifest(body, ()))[0]


def test_priorities_then_age_decide_the_order(vault: Vault) -> None:
    for number, priority in enumerate(("low", "normal", "high", "normal", "high")):
        vault.jobs.submit(new_job(f"{number}", priority=priority))
    assert [job.name for job in vault.jobs.waiting()] == ["2", "4", "1", "3", "0"]


def test_the_same_key_is_the_same_job(vault: Vault) -> None:
    first, new = vault.jobs.submit(new_job())
    again, new_again = vault.jobs.submit(new_job())
    assert (first.id, new, new_again) == (again.id, True, False)
    assert len(vault.events.list(kinds=["job_queued"])) == 1


def test_a_hero_works_on_one_job_at_a_time(vault: Vault) -> None:
    vault.ledger.ensure_hero("seer", name="Seer", trainer="sft", model="m", model_dir="m", config={})
    vault.jobs.submit(new_job("a"))
    vault.jobs.submit(new_job("b"))
    vault.jobs.submit(new_job("c", hero_id="seer"))
    assert claim(vault).job.name == "a"
    assert claim(vault).job.name == "c"
    assert vault.jobs.claim("daemon_1", NOW, 30) is None


def test_a_late_worker_with_an_old_fence_is_refused(vault: Vault) -> None:
    vault.jobs.submit(new_job())
    first = claim(vault)
    vault.jobs.give_back(first.job.id, first.fence, NOW, delay_s=0, reason={"code": "x"}, count=True, max_attempts=9)
    second = claim(vault)
    assert second.fence > first.fence and second.attempt == 2 and second.resumed
    with pytest.raises(ConflictError) as caught:
        vault.jobs.finish(first.job.id, first.fence, manifest_sha256="m", data_hash=None, at=NOW)
    assert caught.value.code == "lease_lost"
    with pytest.raises(ConflictError):
        vault.jobs.renew(first.job.id, first.fence, NOW + 1)


def test_finishing_twice_is_one_effect(vault: Vault) -> None:
    vault.jobs.submit(new_job())
    job = claim(vault)
    finish = {"manifest_sha256": "m", "data_hash": "d", "at": NOW}
    assert vault.jobs.finish(job.job.id, job.fence, **finish)
    assert not vault.jobs.finish(job.job.id, job.fence, **finish)
    assert vault.ledger.stats("dio").gold == 100
    assert len(vault.events.list(kinds=["job_completed"])) == 1


def test_attempts_without_progress_are_counted_and_spaced_then_the_job_fails(vault: Vault) -> None:
    job, _ = vault.jobs.submit(new_job())
    now = NOW
    waits = []
    for _ in range(3):
        taken = claim(vault, now)
        vault.jobs.give_back(
            job.id, taken.fence, now, delay_s=5, reason={"code": "worker_died"}, count=True, max_attempts=3
        )
        waits.append(vault.jobs.get(job.id).not_before - now)
        now += 1000
    assert waits[:2] == [5, 20]
    assert vault.jobs.get(job.id).state == "failed"
    assert vault.events.list(kinds=["job_failed"])[-1].data["reason"]["code"] == "worker_died"


def test_a_waiting_retry_keeps_its_hero_from_the_next_job(vault: Vault) -> None:
    first, _ = vault.jobs.submit(new_job("a"))
    vault.jobs.submit(new_job("b"))
    taken = claim(vault)
    vault.jobs.give_back(first.id, taken.fence, NOW, delay_s=5, reason={"code": "x"}, count=True, max_attempts=3)
    assert vault.jobs.claim("daemon_1", NOW + 1, 30) is None
    assert claim(vault, NOW + 6).job.name == "a"


def test_a_run_goes_on_while_its_checkpoint_is_the_newest_and_starts_anew_when_the_hero_moved_on(vault: Vault) -> None:
    first, _ = vault.jobs.submit(new_job("a"))
    taken = claim(vault)
    checkpoint(vault, taken.run.id, step=50)
    vault.jobs.skip(first.id, taken.fence, NOW)
    vault.jobs.retry(first.id, by="test")
    again = claim(vault)
    assert again.resumed and again.run.id == taken.run.id
    vault.jobs.skip(first.id, again.fence, NOW)
    second, _ = vault.jobs.submit(new_job("b"))
    other = claim(vault)
    assert (other.job.id, other.resumed, other.run.hero_step_start) == (second.id, False, 50)
    checkpoint(vault, other.run.id, step=80, run_step=30)
    vault.jobs.finish(second.id, other.fence, manifest_sha256="m", data_hash=None, at=NOW)
    vault.jobs.retry(first.id, by="test")
    anew = claim(vault)
    assert not anew.resumed and anew.run.id != taken.run.id and anew.run.hero_step_start == 80


def test_move_puts_a_job_directly_before_another_even_without_room(vault: Vault) -> None:
    jobs = [vault.jobs.submit(new_job(str(number)))[0] for number in range(4)]
    for _ in range(80):  # far more halvings than a float has bits
        order = vault.jobs.waiting()
        vault.jobs.move(order[-1].id, before=order[1].id)
        moved = [job.id for job in vault.jobs.waiting()]
        assert moved == [order[0].id, order[3].id, order[1].id, order[2].id]
    with pytest.raises(NotFoundError):
        vault.jobs.move(jobs[0].id, before="job_nothing")


def test_a_held_queue_gives_nothing_and_says_who_holds_it(vault: Vault) -> None:
    vault.jobs.submit(new_job())
    vault.jobs.hold("ann", "paused")
    assert vault.jobs.claim("daemon_1", NOW, 30) is None
    held = vault.jobs.held()
    assert held is not None and held["by"] == "ann"
    assert vault.jobs.unhold("ann") and not vault.jobs.unhold("ann")
    assert claim(vault)


def test_cancel_and_retry_only_where_they_make_sense(vault: Vault) -> None:
    job, _ = vault.jobs.submit(new_job())
    vault.jobs.cancel(job.id, by="ann")
    with pytest.raises(ConflictError):
        vault.jobs.cancel(job.id, by="ann")
    assert vault.jobs.retry(job.id, by="ann").state == "queued"
    with pytest.raises(ConflictError):
        vault.jobs.retry(job.id, by="ann")
    refused, _ = vault.jobs.submit(new_job("bad"), state="refused", reason={"code": "empty"})
    with pytest.raises(ConflictError, match="drop it again"):
        vault.jobs.retry(refused.id, by="ann")


def test_many_threads_submit_and_claim_without_loss_or_double(vault: Vault) -> None:
    for number in range(8):
        vault.ledger.ensure_hero(f"h{number}", name="H", trainer="sft", model="m", model_dir="m", config={})
    taken: list[str] = []

    def work(number: int) -> None:
        for turn in range(10):
            vault.jobs.submit(new_job(f"{number}-{turn}", hero_id=f"h{number}"))
            found = vault.jobs.claim(f"d{number}", NOW, 30)
            if found is not None:
                taken.append(found.job.id)
                vault.jobs.finish(found.job.id, found.fence, manifest_sha256="m", data_hash=None, at=NOW)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (found := vault.jobs.claim("d", NOW, 30)) is not None:
        taken.append(found.job.id)
        vault.jobs.finish(found.job.id, found.fence, manifest_sha256="m", data_hash=None, at=NOW)
    assert len(taken) == len(set(taken)) == 80
    assert vault.jobs.counts() == {"completed": 80}


_ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["submit", "claim", "finish", "give_back", "skip", "move", "cancel", "retry", "hold", "unhold"]
        ),
        st.integers(0, 5),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=_ACTIONS)
def test_any_sequence_of_actions_keeps_every_job_in_exactly_one_state(tmp_path_factory, actions) -> None:
    folder = tmp_path_factory.mktemp("walk")
    vault = Vault.in_files(folder / "v.db", folder / "m.db")
    vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="m", model_dir="m", config={})
    submitted, completed, open_claims = [], set(), []
    now = NOW
    for verb, number in actions:
        now += 100
        chosen = submitted[number % len(submitted)] if submitted else None
        try:
            if verb == "submit":
                job = new_job(f"{len(submitted)}", priority=PRIORITIES[number % 3])
                submitted.append(vault.jobs.submit(job)[0].id)
            elif verb == "claim":
                found = vault.jobs.claim("d", now, 30)
                if found:
                    open_claims.append(found)
            elif verb in ("finish", "give_back", "skip") and open_claims:
                taken = open_claims[number % len(open_claims)]
                if verb == "finish" and vault.jobs.finish(
                    taken.job.id, taken.fence, manifest_sha256="m", data_hash=None, at=now
                ):
                    completed.add(taken.job.id)
                elif verb == "give_back":
                    vault.jobs.give_back(
                        taken.job.id, taken.fence, now, delay_s=1, reason={"code": "x"}, count=True, max_attempts=3
                    )
                elif verb == "skip":
                    vault.jobs.skip(taken.job.id, taken.fence, now)
            elif verb == "move" and chosen:
                vault.jobs.move(chosen, priority=PRIORITIES[number % 3])
            elif verb == "cancel" and chosen:
                vault.jobs.cancel(chosen, by="t")
            elif verb == "retry" and chosen:
                vault.jobs.retry(chosen, by="t")
            elif verb == "hold":
                vault.jobs.hold("t", "paused")
            elif verb == "unhold":
                vault.jobs.unhold("t")
        except ConflictError:
            continue
        assert len(vault.jobs.processing()) <= 1
    assert sum(vault.jobs.counts().values()) == len(submitted)
    assert vault.jobs.counts().get("completed", 0) == len(completed) == vault.ledger.stats("dio").completed
    fences = [event.seq for event in vault.events.list(limit=1000)]
    assert fences == sorted(fences)
    vault.close()


def test_a_wait_does_not_outlast_a_clock_that_was_set_back(vault: Vault) -> None:
    job, _ = vault.jobs.submit(new_job())
    year = 366 * 86400.0
    claim = vault.jobs.claim("me", year, 30)
    assert claim is not None
    terms = {"delay_s": 5.0, "reason": {"code": "worker_died"}, "count": True, "max_attempts": 3}
    vault.jobs.give_back(job.id, claim.fence, year, **terms)
    assert vault.jobs.claim("me", year + 1, 30) is None
    assert vault.jobs.claim("me", 1000.0, 30) is not None


def test_waits_grow_to_a_limit_however_many_attempts_there_are(vault: Vault) -> None:
    job, _ = vault.jobs.submit(new_job())
    now = 1000.0
    waits = []
    for _ in range(12):
        claim = vault.jobs.claim("me", now, 30)
        assert claim is not None
        terms = {"delay_s": 5.0, "reason": {"code": "worker_died"}, "count": True, "max_attempts": 100}
        vault.jobs.give_back(job.id, claim.fence, now, **terms)
        waits.append(vault.jobs.get(job.id).not_before - now)
        now += waits[-1]
    assert waits[:3] == [5.0, 20.0, 80.0]
    assert waits[-1] == MAX_WAIT_S
