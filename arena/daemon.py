"""The daemon: takes jobs, has them carried out, enters what happened, follows commands.

One pass (`run_once`) is: *settle the running battle, obey commands, take the next job, keep the view in step*. All
state is in the ledger and in the run directories; a daemon that is killed at any instant is replaced by the next one,
which takes up a worker that still runs, finishes what ended meanwhile and returns to the queue what was lost.

Intake runs beside it on its own thread, so that a large file never delays a pause.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from arena.control import take_control_files
from arena.executors.contract import Executor, Handle
from arena.ingest import RunIngest, settle_checkpoints
from arena.prepare import Preparation
from arena.queue import QueueView
from arena.rundir import ControlMessage, Outcome, RunDir
from realm.errors import ConflictError, CorruptFileError, DiskFullError, RealmError
from realm.files import durable_write_json, free_bytes, is_disk_full
from realm.ids import new_id
from realm.paths import RealmPaths
from realm.processes import FileLock, ProcessIdentity
from realm.services import heartbeat_file
from realm.settings import Settings
from vault import backup
from vault.manifest import verify
from vault.records import Claim, Command, Job
from vault.store import Vault

TICK_S = 0.05
BACKUP_S = 3600.0
"""How old the newest copy of the ledger may get."""
LOOK_S = 0.5
"""Longest time between two looks at the queue and the commands when nothing was committed (retries fall due)."""
BEAT_S = 1.0
VIEW_S = 0.25
"""Least time between two looks at the queue folders."""
ABSENCE_S = 5.0
"""After a longer gap between two passes the trainer's silence is not counted: it may have been stopped as we were."""
MUTE_BYTES = 1 << 20
"""With less room than this a trainer cannot be expected to write a record."""
PERMANENT = {
    "bad_config",
    "refused",
    "bad_data",
    "data_missing",
    "masking",
    "missing_package",
    "diverged",
    "no_training_rows",
}
"""Error codes of a run that another attempt cannot help."""


class Scanner(Protocol):
    """What the daemon asks of the intake."""

    def scan(self, now: float) -> Any: ...


@dataclass
class Battle:
    """The run that is being carried out."""

    job_id: str
    run_id: str
    attempt: int
    fence: int
    handle: Handle
    ingest: RunIngest
    renewed_at: float
    heard_at: float
    """Monotonic time at which the run last showed a sign of life."""


class Daemon:
    """The arena's main loop over one executor."""

    def __init__(
        self,
        settings: Settings,
        vault: Vault,
        executor: Executor,
        *,
        preparation: Preparation | None = None,
        intake: Scanner | None = None,
        ready: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.paths: RealmPaths = settings.paths
        self.vault = vault
        self.executor = executor
        self.view = QueueView(self.paths, vault)
        self.battle: Battle | None = None
        self._intake = intake
        self._preparation = preparation or Preparation(self.paths, vault, settings.arena, lambda job: ())
        self._ready = ready
        self._clock = clock
        self._monotonic = monotonic
        self._owner = new_id("daemon")
        self._rescan_at = 0.0
        self._folded_at = 0.0
        self._watch = vault.database.watch()
        self._look_at = 0.0
        self._view_is_stale = True
        self._viewed_at = 0.0
        self._beaten_at = -BEAT_S
        self._passed_at = monotonic()

    # The life of the process

    def run(self, stop: threading.Event, begun: Callable[[], None] = lambda: None) -> None:
        """Recover, then pass after pass until `stop`; `begun` is called once this is the realm's one daemon.

        Raises ConflictError when another daemon has this realm.
        """
        lock = FileLock(self.paths.control / "arena.lock")
        if not lock.acquire():
            raise ConflictError(
                "Another daemon serves this realm.", hint="`realm status` shows it.", code="daemon_runs"
            )
        begun()
        intake = threading.Thread(target=self._take_in, args=(stop,), name="intake", daemon=True)
        try:
            self._recover_with_room(stop)
            intake.start()
            self._warm_up()
            while not stop.wait(TICK_S if self.battle else 2 * TICK_S):
                self._guarded_pass()
                self._beat()
        finally:
            stop.set()
            if intake.is_alive():
                intake.join(timeout=5.0)
            self.executor.close()
            lock.release()

    def run_once(self) -> None:
        """One pass."""
        now = self._clock()
        if self.battle is not None:
            if self._monotonic() - self._passed_at > ABSENCE_S:  # we slept ourselves, perhaps the whole machine did
                self.battle.heard_at = self._monotonic()
            self._follow(self.battle, now)
        self._passed_at = self._monotonic()
        take_control_files(self.paths, self.vault)
        changed = self._watch.changed()
        self._view_is_stale |= changed
        if changed or self._monotonic() >= self._look_at:
            self._look_at = self._monotonic() + LOOK_S
            self._obey()
            if self.battle is None and self._ready():
                self._take_next(now)
        self.executor.tick(now)
        self._keep_house()

    def recover(self) -> None:
        """Bring ledger, run directories and processes together after any kind of end."""
        now = self._clock()
        for job in self.vault.jobs.processing():
            assert job.run_id is not None
            handle = self.executor.adopt(self.paths.runs / job.run_id, job.fence)
            ingest = RunIngest(job.run_id, self.paths.runs / job.run_id, self.vault)
            ingest.pump()
            settle_checkpoints(job.run_id, self.paths.runs / job.run_id, self.vault)
            handle = handle or Handle(self.paths.runs / job.run_id, job.fence, None)
            heard = self._monotonic()
            battle = Battle(job.id, job.run_id, job.attempts, job.fence, handle, ingest, 0.0, heard)
            if self.executor.poll(handle) == "running":
                self.battle = battle
            else:
                self._end(battle, now)
        self.view.reconcile()

    def _recover_with_room(self, stop: threading.Event) -> None:
        """Recover; on a full disk wait for room, which is no reason to end (the status says that the disk is full)."""
        while not stop.is_set():
            try:
                self.recover()
                return
            except (DiskFullError, OSError) as error:
                if not is_disk_full(error):
                    raise
                traceback.print_exc()
                self.battle = None
                self._beat()
                stop.wait(1.0)

    def _beat(self) -> None:
        """Show the Weaver that the loop goes round."""
        if self._monotonic() - self._beaten_at >= BEAT_S:
            self._beaten_at = self._monotonic()
            beat = heartbeat_file(self.paths, "arena")
            with contextlib.suppress(OSError):  # a full or read-only disk is no reason to end
                beat.parent.mkdir(exist_ok=True, mode=0o700)
                beat.touch()

    def _guarded_pass(self) -> None:
        try:
            self.run_once()
        except Exception:  # a pass must not end the daemon: what failed is repeated by the next one
            traceback.print_exc()
            time.sleep(0.5)

    def _take_in(self, stop: threading.Event) -> None:
        """The intake's thread."""
        while self._intake is not None and not stop.wait(2 * TICK_S):
            try:
                for result in self._intake.scan(self._clock()):
                    self._tell(result)
            except Exception:  # the files are still in the inbox: the next look takes them
                traceback.print_exc()
                stop.wait(1.0)

    def _tell(self, result: Any) -> None:
        """Say what became of a file that is neither a job nor refused: those two tell of themselves."""
        kinds = {"duplicate": "file_known", "waiting": "file_waits", "ignored": "file_left", "error": "file_waits"}
        if result.kind in kinds:
            story = {"name": result.name, "text": f"{result.message} {result.hint}".strip(), "code": result.code}
            self.vault.events.record(kinds[result.kind], "inbox", story)

    def _warm_up(self) -> None:
        warm_up = getattr(self.executor, "warm_up", None)
        if callable(warm_up):
            try:
                warm_up()
            except OSError:
                traceback.print_exc()

    # The running battle

    def _follow(self, battle: Battle, now: float) -> None:
        standing = self.executor.poll(battle.handle)
        if battle.ingest.pump():
            battle.heard_at = self._monotonic()
        if standing != "running":
            self._end(battle, now)
            return
        arena = self.settings.arena
        if self._monotonic() - battle.renewed_at > arena.lease_s / 3:
            self.vault.jobs.renew(battle.job_id, battle.fence, now + arena.lease_s)
            battle.renewed_at = self._monotonic()
        patience = arena.hang_s * (5 if battle.ingest.phase in ("preparing", "loading", "tokenizing") else 1)
        waits = battle.ingest.phase == "paused"
        if not waits and self._monotonic() - battle.heard_at > patience:
            if free_bytes(self.paths.runs) < max(MUTE_BYTES, arena.disk_floor_mib << 20):
                battle.heard_at = self._monotonic()  # it waits for room on the disk and cannot even say so
                return
            self.executor.kill(battle.handle)
            words = f"No sign of life for {patience:.0f} s; the worker was ended. Its log has every thread's stack."
            self._settle_lost(battle, now, {"code": "hung", "message": words})

    def _end(self, battle: Battle, now: float) -> None:
        """An attempt is over: enter all that it left, then judge its outcome."""
        while battle.ingest.pump():
            pass
        run_dir = self.paths.runs / battle.run_id
        settle_checkpoints(battle.run_id, run_dir, self.vault)
        outcome = RunDir(run_dir).outcome()
        if outcome is None or outcome.fence != battle.fence:
            words = "The worker ended without a word (killed, or the machine went down)."
            self._settle_lost(battle, now, {"code": "worker_died", "message": words})
            return
        jobs = self.vault.jobs
        if outcome.status == "completed":
            self._complete(battle, outcome, now)
        elif outcome.status == "skipped":
            jobs.skip(battle.job_id, battle.fence, now)
        elif outcome.status == "stopped":
            reason = {"code": "stopped", "message": "Stopped on request; its checkpoint is safe."}
            self._give_back(battle, now, reason, count=False)
        else:
            self._settle_failure(battle, outcome, now)
        self._close(battle)

    def _complete(self, battle: Battle, outcome: Outcome, now: float) -> None:
        """A job is complete when its last checkpoint verifies, not because somebody said so."""
        folder = self.paths.runs / battle.run_id / (outcome.checkpoint or "missing")
        try:
            manifest = verify(folder)
        except CorruptFileError as error:
            self._give_back(battle, now, {"code": error.code, "message": error.message}, count=True)
            return
        self.vault.jobs.finish(
            battle.job_id, battle.fence, manifest_sha256=manifest.sha256(), data_hash=outcome.data_hash, at=now
        )

    def _settle_failure(self, battle: Battle, outcome: Outcome, now: float) -> None:
        error = outcome.error or {"code": "trainer_error", "message": "The trainer failed."}
        if error.get("code") in PERMANENT:
            self.vault.jobs.give_up(battle.job_id, battle.fence, now, error)
        else:
            self._give_back(battle, now, error, count=True)

    def _settle_lost(self, battle: Battle, now: float, reason: dict[str, Any]) -> None:
        self._give_back(battle, now, reason, count=True)
        self._close(battle)

    def _give_back(self, battle: Battle, now: float, reason: dict[str, Any], *, count: bool) -> None:
        arena = self.settings.arena
        self.vault.jobs.give_back(
            battle.job_id,
            battle.fence,
            now,
            delay_s=arena.retry_delay_s,
            reason=reason,
            count=count,
            max_attempts=arena.max_attempts,
        )

    def _close(self, battle: Battle) -> None:
        """Settle the commands that the ended attempt will not answer any more."""
        if self.battle is battle:
            self.battle = None
        for command in self.vault.commands.open():
            if command.state == "sent":
                applied = command.verb in ("stop", "skip", "pause")
                effect = {"effect": "the battle ended", "run_id": battle.run_id}
                self.vault.commands.settle(command.id, "done" if applied else "refused", effect)

    # The next job

    def _take_next(self, now: float) -> None:
        claim = self.vault.jobs.claim(self._owner, now, self.settings.arena.lease_s)
        if claim is None:
            return
        handle: Handle | None = None
        try:
            run_dir = self._preparation.run_dir(claim)
            handle = self.executor.start(run_dir, claim.attempt, claim.fence)
        except (RealmError, OSError) as error:
            self._could_not_start(claim, error, now)
            return
        ingest = RunIngest(claim.run.id, run_dir, self.vault)
        heard = self._monotonic()
        self.battle = Battle(claim.job.id, claim.run.id, claim.attempt, claim.fence, handle, ingest, heard, heard)

    def _could_not_start(self, claim: Claim, error: RealmError | OSError, now: float) -> None:
        reason = {"code": getattr(error, "code", "cannot_start"), "message": getattr(error, "message", str(error))}
        reason |= {"hint": error.hint} if isinstance(error, RealmError) and error.hint else {}
        if reason["code"] in PERMANENT:
            self.vault.jobs.give_up(claim.job.id, claim.fence, now, reason)
            return
        if isinstance(error, CorruptFileError) and "checkpoint_id" in error.data:
            self.vault.ledger.set_checkpoint_status(error.data["checkpoint_id"], "quarantined", error.message)
        arena = self.settings.arena
        self.vault.jobs.give_back(
            claim.job.id,
            claim.fence,
            now,
            delay_s=arena.retry_delay_s,
            reason=reason,
            count=True,
            max_attempts=arena.max_attempts,
        )

    # Commands

    def _obey(self) -> None:
        for command in self.vault.commands.open():
            if command.state == "pending":
                self._apply(command)

    def _apply(self, command: Command) -> None:
        """Carry out one command: on the queue here, on the battle by a message that the trainer answers."""
        jobs, verb = self.vault.jobs, command.verb
        if verb in ("pause", "stop"):
            jobs.hold(command.by, "paused" if verb == "pause" else "stopped")
        released = verb == "resume" and jobs.unhold(command.by)
        if self.battle is not None:
            RunDir(self.paths.runs / self.battle.run_id).send(ControlMessage(command.id, verb))  # type: ignore[arg-type]
            self.vault.commands.sent(command.id)
        elif verb in ("pause", "stop"):
            self.vault.commands.settle(command.id, "done", {"effect": "the queue is held"})
        elif verb == "resume":
            words = "the queue goes on" if released else "nothing was paused"
            self.vault.commands.settle(command.id, "done", {"effect": words})
        else:
            self.vault.commands.settle(command.id, "refused", {"effect": "no battle is running", "code": "no_battle"})

    # Housekeeping

    def _keep_house(self) -> None:
        now = self._monotonic()
        due = self._view_is_stale or now >= self._rescan_at or self.view.touched()
        if due and now - self._viewed_at > VIEW_S:
            self._view_is_stale = False
            self.view.reconcile()
            self._viewed_at = self._monotonic()
            self._rescan_at = now + self.settings.arena.rescan_s
        if now - self._folded_at > 30:
            self._folded_at = now
            self.vault.database.checkpoint_log()
            self._back_up(self._clock())

    def _back_up(self, now: float) -> None:
        """Copy the ledger once an hour; a copy that cannot be made now is tried again in half a minute."""
        folder = self.paths.backups
        if 0 <= now - backup.newest_at(folder) < BACKUP_S:
            return
        try:
            if backup.back_up(self.vault.database, folder, now) is not None:
                backup.thin_out(folder, now)
        except (RealmError, OSError) as error:
            print(f"No copy of the ledger: {error}", file=sys.stderr)


def serve(daemon: Daemon, identity_file: Path) -> int:
    """Run a daemon as this process until SIGTERM or SIGINT; the battle's worker goes on without it."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def tell_who_serves() -> None:
        with contextlib.suppress(OSError):  # the Weaver writes it as well, as soon as there is room
            identity_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            told = {"identity": ProcessIdentity.current().to_dict(), "started_at": time.time()}
            durable_write_json(identity_file, told)

    daemon.run(stop, tell_who_serves)
    return 0


def battle_job(vault: Vault) -> Job | None:
    """Return the job that is being worked on, if any."""
    processing = vault.jobs.processing()
    return processing[0] if processing else None
