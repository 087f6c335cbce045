"""The training loop: *stop or pause? -> evaluate -> save -> step -> log -> advance*, for every trainer.

It reads `job.json` and `control/` of a run directory and writes `metrics.jsonl`, checkpoints and `outcome.json`; it
never meets the database. What it promises, and where that is held (tests/arena/test_loop*.py):

- Resumption is exact. The resume state is one dictionary (step, data cursor, RNG, optimizer, best score, hash of the
  consumed samples); N steps, kill -9 and N steps equal 2N steps bit for bit on a CPU. Saving, measuring and pausing
  change no bit of training.
- No update is made from a loss or a gradient that is not finite. Such a batch is passed over; the third within fifty
  batches rolls back to the last good checkpoint and goes on behind the offending data (the recipe of PaLM,
  Chowdhery et al. 2022, section 5.1); after three roll-backs the run fails and says why. A loss that jumps and stays
  up is treated alike, except that after three roll-backs it is left alone.
- Out of memory halves the micro-batch and repeats the step: same rows, same update, same random numbers.
- A full disk costs nothing: the unfinished save is removed and training waits for room.
- A trainer whose fence is no longer the newest commits nothing.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from arena.checkpoints import Checkpoint, CheckpointStore, FenceLostError, no_fault
from arena.jobs import JobFile
from arena.progress import MAX_ROLLBACKS, Progress
from arena.requests import Control
from arena.rundir import ControlMessage, MetricsWriter, Outcome, RunDir, Verb
from arena.trainers import rng
from arena.trainers.contract import Measured, RunContext, Score, StepResult, Trainer
from realm.errors import CorruptFileError, DiskFullError, RealmError
from realm.files import durable_write_json, free_bytes, is_disk_full, read_json

STATE_FILE = "state.json"
STATE_SCHEMA = 1


class DivergedError(RealmError):
    """Loss or gradient stayed not finite after every roll-back."""

    code = "diverged"


class OutOfMemoryError(RealmError):
    """Even the smallest micro-batch does not fit into memory."""

    code = "out_of_memory"


@dataclass(frozen=True)
class Hooks:
    """What tests replace: clocks, waiting, room on disk, and a function called at named points of a save."""

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    free: Callable[[Path], int] = free_bytes
    fault: Callable[[str], None] = no_fault
    poll_s: float = 0.1
    """Between two looks at `control/` while paused."""
    room_poll_s: float = 5.0
    """Between two looks at a full disk."""


def run_training(trainer: Trainer, run_dir: RunDir, job: JobFile, hooks: Hooks | None = None) -> Outcome:
    """Run a job to its end, a stop request or a failure; return the outcome, which also is in `outcome.json`.

    Raises FenceLostError, with nothing written, when a newer attempt took over.
    """
    return TrainingLoop(trainer, run_dir, job, hooks or Hooks()).run()


class TrainingLoop:
    """One run of one job by one trainer."""

    def __init__(self, trainer: Trainer, run_dir: RunDir, job: JobFile, hooks: Hooks) -> None:
        self.trainer = trainer
        self.run_dir = run_dir
        self.job = job
        self.hooks = hooks
        attempt = run_dir.attempt()
        self.fence = attempt.fence if attempt else 0
        self.metrics = MetricsWriter(run_dir.metrics_path)
        self.control = Control(run_dir, self.metrics)
        self.progress = Progress()
        self.checkpoint: Checkpoint | None = None
        """The newest committed checkpoint of this run."""
        self.store = CheckpointStore(
            run_dir.path,
            fence=self.fence,
            holds_fence=self._holds_fence,
            floor_bytes=job.disk_floor_bytes,
            clock=hooks.clock,
            free=hooks.free,
            fault=hooks.fault,
        )
        self._last_save_at = 0.0
        self._next_fence_check = 0.0
        self._step_mark = 0.0
        self._save_reason = ""
        self._lr = 0.0

    # The story

    def run(self) -> Outcome:
        with self._process_prepared():
            try:
                self._begin()
                ended = self._train()
                outcome = self._outcome(ended)
            except FenceLostError:
                raise
            except Exception as error:
                outcome = self._failed(error)
            finally:
                self.trainer.close()
        if not self._holds_fence():
            raise FenceLostError(f"Attempt {self.fence} of {self.job.run_id} was replaced by a newer one.")
        self._record("phase", phase="done", detail=outcome.status)
        with contextlib.suppress(OSError):
            self.metrics.sync()
        self._write_outcome(outcome)
        self.metrics.close()
        return outcome

    def _train(self) -> str:
        """The loop itself. Returns how it ended: completed, stopped or skipped."""
        progress = self.progress
        while True:
            ended = self._stop_or_pause()
            if ended:
                return ended
            if self._evaluation_is_due():
                self._evaluate()
            if self._save_is_due():
                ended = self._save()
                if ended:
                    return ended
            if progress.step >= self.trainer.max_steps:
                return "completed"
            result = self._step()
            if result is not None:
                self._log(result)
                self._advance(result)
                self._watch_for_a_spike(result.loss)

    def _begin(self) -> None:
        """Build the trainer, then take up the newest checkpoint that verifies, if there is one."""
        self.run_dir.clear_outcome()
        self.store.clean()
        self._record("phase", phase="loading", detail="")
        rng.seed_everything(self.job.seed)
        self.trainer.build(RunContext(self.run_dir.path, self.job, self._record))
        self.store.keep = max(2, self.trainer.keep_checkpoints)
        rng.seed_everything(self.job.seed)  # whatever building drew: a warm start draws less than a cold one
        self._initial_rng = rng.capture()
        checkpoint, quarantined = self.store.newest_verified()
        for name in quarantined:
            self._event("checkpoint_quarantined", checkpoint=name)
        if checkpoint is not None:
            self._restore(checkpoint)
            self._event("resumed", checkpoint=checkpoint.name, attempt=self.fence)
        gc.collect(1)  # a full collection takes 0.2 s with these libraries loaded; freezing makes later ones cheap
        gc.freeze()
        self._record("phase", phase="training", detail="")
        self._last_save_at = self._step_mark = self.hooks.monotonic()

    # Stop or pause?

    def _stop_or_pause(self) -> str | None:
        """Obey what was asked since the last look; holds here while paused. Returns the end that was asked for."""
        now = self.hooks.monotonic()
        if now >= self._next_fence_check:
            self._next_fence_check = now + 2.0
            if not self._holds_fence():
                raise FenceLostError(f"Attempt {self.fence} of {self.job.run_id} was replaced by a newer one.")
        for message in self.control.look():
            ended = self._obey(message)
            if ended:
                return ended
        if self.control.terminated:
            return self._stop("stopped", "terminated by signal")
        return self._hold() if self.control.paused else None

    def _obey(self, message: ControlMessage) -> str | None:
        verb: Verb = message.verb
        ended = None
        if verb in ("stop", "skip"):
            ended = self._stop("stopped" if verb == "stop" else "skipped", verb)
            effect = (
                f"saved and {'stopped' if verb == 'stop' else 'skipped'}" if self._is_saved() else "ended, not saved"
            )
        elif verb == "save":
            ended = self._save_unless_saved("asked for")
            effect = "saved"
        elif verb == "pause":
            self.control.paused = True
            effect = "pausing"
        else:
            effect = "resumed" if self.control.paused else "was not paused"
            self.control.paused = False
        self.control.answer(message, effect, step=self.progress.step)
        return ended

    def _stop(self, status: str, reason: str) -> str:
        """Save what is not saved yet and end. A full disk does not keep the run from stopping."""
        if self.progress.step:
            try:
                if not self._is_saved():
                    self._save_once(reason)
            except DiskFullError as error:
                self._event(
                    "disk_full", needed=error.data.get("needed"), free=error.data.get("free"), detail="not saved"
                )
        return status

    def _hold(self) -> str | None:
        """Paused: save, then wait in memory for resume, stop or skip."""
        ended = self._save_unless_saved("pause") if self.progress.step else None
        if ended:
            return ended
        self._record("phase", phase="paused", detail="")
        while self.control.paused:
            if self.control.terminated:
                return self._stop("stopped", "terminated by signal")
            self.hooks.sleep(self.hooks.poll_s)
            if not self._holds_fence():
                raise FenceLostError(f"Attempt {self.fence} of {self.job.run_id} was replaced by a newer one.")
            for message in self.control.look():
                ended = self._obey(message)
                if ended:
                    return ended
        self._record("phase", phase="training", detail="resumed")
        self._step_mark = self.hooks.monotonic()
        return None

    # Evaluate

    def _evaluation_is_due(self) -> bool:
        step, every = self.progress.step, self.trainer.eval_every_steps
        if step in (0, self.progress.evaluated_at):
            return False
        return step >= self.trainer.max_steps or (every is not None and step % every == 0)

    def _evaluate(self) -> None:
        self._record("phase", phase="evaluating", detail="")
        with rng.preserved():
            measured = self._measure()
        progress = self.progress
        progress.evaluated_at = progress.step
        progress.measured = [_summary(record) for record in measured.records]
        self._score = measured.score
        for record in measured.records:
            kind = record["kind"]
            self._record(kind, step=progress.step, **{k: v for k, v in record.items() if k != "kind"})
        self._record("phase", phase="training", detail="")
        self._step_mark = self.hooks.monotonic()

    _score: Score | None = None
    """Of the measurement at `evaluated_at`."""

    def _measure(self) -> Measured:
        while True:
            try:
                return self.trainer.evaluate()
            except Exception as error:
                self._make_room_in_memory(error)

    # Save

    def _save_is_due(self) -> bool:
        step = self.progress.step
        if step == 0 or self._is_saved():
            return False
        if step >= self.trainer.max_steps:
            self._save_reason = "final"
            return True
        every_steps, every_s = self.trainer.save_every_steps, self.trainer.save_every_s
        if every_steps is not None and step % every_steps == 0:
            self._save_reason = "interval"
            return True
        if every_s is not None and self.hooks.monotonic() - self._last_save_at >= every_s:
            self._save_reason = "time"
            return True
        return False

    def _is_saved(self) -> bool:
        return self.progress.saved_at == self.progress.step

    def _save_unless_saved(self, reason: str) -> str | None:
        if self.progress.step == 0 or self._is_saved():
            return None
        self._save_reason = reason
        return self._save()

    def _save(self) -> str | None:
        """Save; on a full disk wait for room. Returns an end that was asked for while waiting."""
        while True:
            try:
                self._save_once(self._save_reason)
                return None
            except DiskFullError as error:
                ended = self._wait_for_room(error)
                if ended:
                    return ended

    def _save_once(self, reason: str) -> None:
        self._record("phase", phase="saving", detail=reason)
        progress = self.progress
        before = progress.saved_at
        progress.saved_at = progress.step  # what is written must say so
        self._streams = rng.capture()  # before anything of the save can draw from them
        try:
            with rng.preserved():
                card = self._card()
                checkpoint = self.store.save(card, self._write, expected_bytes=self.trainer.checkpoint_bytes)
        except BaseException:
            progress.saved_at = before
            raise
        self.checkpoint = checkpoint
        sha256 = checkpoint.manifest.sha256()
        self.trainer.saved(sha256)
        self._record(
            "checkpoint",
            step=progress.step,
            path=str(checkpoint.path),
            name=checkpoint.name,
            manifest_sha256=sha256,
            size=checkpoint.manifest.size,
            reason=reason,
        )
        self._keep_best(checkpoint)
        best = progress.best["checkpoint"] if progress.best else None
        for name in self.store.rotate(checkpoint, best=best):
            self._event("checkpoint_deleted", checkpoint=name)
        self._record("phase", phase="training", detail="")
        self._last_save_at = self._step_mark = self.hooks.monotonic()

    def _write(self, folder: Path) -> None:
        """Write the trainer's files and the one resume dictionary into an unfinished checkpoint."""
        own = self.trainer.save(folder)
        state = {
            "schema": STATE_SCHEMA,
            "run_step": self.progress.step,
            "hero_step": self.job.hero_step_start + self.progress.step,
            "loop": asdict(self.progress),
            "rng": self._streams,
            "trainer": own,
        }
        durable_write_json(folder / STATE_FILE, state)

    def _keep_best(self, checkpoint: Checkpoint) -> None:
        """Remember the best among the saved: it counts only when it was measured at this very step."""
        progress = self.progress
        if self._score is None or progress.evaluated_at != progress.step:
            return
        best = progress.best
        old = Score(best["name"], best["value"], best["higher_is_better"]) if best else None
        if self._score.beats(old):
            progress.best = {**asdict(self._score), "step": progress.step, "checkpoint": checkpoint.name}

    def _card(self) -> dict[str, Any]:
        """Return the identity card of a checkpoint of this moment."""
        progress, job = self.progress, self.job
        losses = progress.recent_losses
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for record in progress.measured if progress.evaluated_at == progress.step else []:
            by_kind.setdefault(record["kind"], []).append(record)
        validation = by_kind.get("validation", [])
        exact = by_kind.get("evaluation", [])
        total = sum(record["total"] for record in exact)
        return {
            "hero": job.hero,
            "run": job.run_id,
            "job": job.job_id,
            "trainer": job.trainer,
            "step": job.hero_step_start + progress.step,
            "run_step": progress.step,
            "train_loss": sum(losses) / len(losses) if losses else None,
            "val_loss": validation[0]["val_loss"] if validation else None,
            "accuracy": sum(record["correct"] for record in exact) / total if total else None,
            "evaluations": exact,
            "learning_rate": self._lr,
            "examples_trained": progress.samples,
            "tokens_trained": progress.tokens,
            "data_hash": progress.data_hash,
            "data": [{"name": d.origin or d.path, "sha256": d.sha256, "rows": d.rows} for d in job.data],
            "skill": job.skill,
            "level": job.level,
            "seed": job.seed,
            "parent": Path(job.parent_checkpoint).name if job.parent_checkpoint else None,
            "config_hash": hashlib.sha256(job.model_dump_json().encode()).hexdigest(),
            "has_optimizer": True,
            "created_by": "arena.loop",
            "python": platform.python_version(),
            **self.trainer.card(progress.cursor),
        }

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint of this run. Raises CorruptFileError when its state is not ours."""
        state = read_json(checkpoint.path / STATE_FILE)
        if state.get("schema") != STATE_SCHEMA:
            raise CorruptFileError(f"{checkpoint.name}: its state has schema {state.get('schema')}.")
        self.trainer.restore(checkpoint.path, state["trainer"])
        known = {key: value for key, value in state["loop"].items() if key in Progress.__dataclass_fields__}
        vars(self.progress).update(vars(Progress(**known)))
        self._keep_best_of(checkpoint)
        rng.restore(state["rng"])
        self.checkpoint = checkpoint
        self.trainer.saved(checkpoint.manifest.sha256())

    def _keep_best_of(self, checkpoint: Checkpoint) -> None:
        """A checkpoint is named after its state is written, so its own name is put in on the way back."""
        best = self.progress.best
        if best and best["step"] == self.progress.step:
            best["checkpoint"] = checkpoint.name

    # Step

    def _step(self) -> StepResult | None:
        """Make one update, or pass over a batch that is not finite (None)."""
        result = self._gradients()
        if result.finite:
            self.trainer.apply_update()
            return result
        self.trainer.discard_update()
        self._not_finite(result)
        return None

    def _gradients(self) -> StepResult:
        """Forward and backward. Out of memory: again from the start with half of the micro-batch."""
        streams = rng.snapshot()
        while True:
            try:
                return self.trainer.train_step(self.progress.step, self.progress.cursor)
            except Exception as error:
                self.trainer.discard_update()
                self._make_room_in_memory(error)
                rng.rewind(streams)

    def _make_room_in_memory(self, error: Exception) -> None:
        """Halve the micro-batch if `error` says that memory ran out; anything else is raised again."""
        if not is_out_of_memory(error):
            raise error
        text = str(error).split("\n")[0][:300]
        error.__traceback__ = None  # its frames hold the tensors that did not fit
        changed = self.trainer.shrink()
        if changed is None:
            raise OutOfMemoryError(
                f"One row at a time does not fit into memory: {text}",
                hint="Shorten max_length, turn gradient_checkpointing on, or train adapters (lora).",
            )
        gc.collect()
        self._event("out_of_memory", detail=text, **changed)

    def _not_finite(self, result: StepResult) -> None:
        """Pass over the batch; when it is one of several, roll back and pass over all data since the checkpoint."""
        progress = self.progress
        cursor = progress.cursor
        rolls_back = progress.note_nonfinite()
        self._event(
            "nonfinite",
            loss=repr(result.loss),
            grad_norm=repr(result.grad_norm),
            batch=cursor,
            action="rolled back" if rolls_back else "batch skipped",
        )
        if not rolls_back:
            progress.skip_to(cursor + 1)
            return
        if progress.rollbacks >= MAX_ROLLBACKS:
            raise DivergedError(
                f"Loss or gradient is not finite at step {progress.step + 1}, after {MAX_ROLLBACKS} roll-backs.",
                hint="Lower learning_rate, lengthen warmup_steps, or look at the rows of the skipped batches.",
            )
        self._roll_back(cursor + 1)

    def _watch_for_a_spike(self, loss: float) -> None:
        """Roll back when the loss has risen far above its course and stays there; after three times let it be."""
        progress = self.progress
        if not progress.note_loss(loss):
            return
        since, rolls_back = progress.high_since, progress.rollbacks < MAX_ROLLBACKS
        self._event(
            "loss_spike",
            loss=loss,
            usual=progress.loss_mean,
            since=since,
            action="rolled back" if rolls_back else "left alone",
        )
        if rolls_back:
            self._roll_back(progress.cursor, before_step=since)
        else:
            progress.loss_mean, progress.high_since = loss, None

    def _roll_back(self, resume_at: int, before_step: int | None = None) -> None:
        """Return to the last good state, of a step below `before_step`, and go on with the data from `resume_at`."""
        rollbacks, skipped = self.progress.rollbacks + 1, self.progress.skipped
        checkpoint, quarantined = self.store.newest_verified(before_step)
        for name in quarantined:
            self._event("checkpoint_quarantined", checkpoint=name)
        if checkpoint is not None:
            self._restore(checkpoint)
        else:
            self.trainer.reset()
            vars(self.progress).update(vars(Progress()))
            rng.restore(self._initial_rng)
        progress = self.progress
        progress.rollbacks = rollbacks
        progress.skipped = skipped
        progress.nonfinite = []
        first = progress.cursor
        progress.skip_to(resume_at)
        self._event(
            "rollback",
            checkpoint=checkpoint.name if checkpoint else None,
            skipped_batches=[first, progress.cursor],
            rollback=rollbacks,
        )
        self._step_mark = self.hooks.monotonic()

    # Log and advance

    def _log(self, result: StepResult) -> None:
        now = self.hooks.monotonic()
        self._record(
            "step",
            step=self.progress.step + 1,
            loss=result.loss,
            lr=result.lr,
            grad_norm=result.grad_norm,
            tokens=result.tokens,
            loss_tokens=result.loss_tokens,
            step_s=round(now - self._step_mark, 6),
            **result.extra,
        )
        self._step_mark = now

    def _advance(self, result: StepResult) -> None:
        self.progress.advance(result.samples, result.tokens, result.loss)
        self._lr = result.lr

    def _event(self, name: str, **fields: Any) -> None:
        self._record("event", name=name, step=self.progress.step, **fields)

    def _record(self, kind: str, **fields: Any) -> None:
        """Append a record. On a full disk a measurement waits for room, a remark (phase, event) is left out."""
        while True:
            try:
                self.metrics.append(kind, **fields)
                return
            except OSError as error:
                if not is_disk_full(error):
                    raise
                if kind in ("phase", "event") or self.control.terminated:
                    return
                self.hooks.sleep(self.hooks.room_poll_s)

    # Waiting for room

    def _wait_for_room(self, error: DiskFullError) -> str | None:
        """Hold until a save fits again; obeys stop and skip meanwhile, which then end the run unsaved."""
        needed = int(error.data.get("needed", 0))
        self._event("disk_full", needed=needed, free=error.data.get("free"), detail=error.message)
        self._record("phase", phase="paused", detail=f"disk full, needs {needed:,} bytes")
        while True:
            if self.control.terminated:
                return "stopped"
            for message in self.control.look():
                if message.verb in ("stop", "skip"):
                    self.control.answer(message, "ended, not saved: the disk is full", step=self.progress.step)
                    return "stopped" if message.verb == "stop" else "skipped"
                if message.verb == "pause":
                    self.control.paused = True
                elif message.verb == "resume":
                    self.control.paused = False
                self.control.answer(message, "noted; waiting for room on the disk", step=self.progress.step)
            if not self._holds_fence():
                raise FenceLostError(f"Attempt {self.fence} of {self.job.run_id} was replaced by a newer one.")
            try:
                self.store.check_room(self.trainer.checkpoint_bytes)
            except DiskFullError:
                self.hooks.sleep(self.hooks.room_poll_s)
                continue
            self._event("disk_has_room", needed=needed, free=self.hooks.free(self.run_dir.path))
            return None

    # The end

    def _write_outcome(self, outcome: Outcome) -> None:
        """Write the last file; a full disk is waited for, since without it nobody knows how the run ended."""
        while True:
            try:
                self.run_dir.write_outcome(outcome)
                return
            except OSError as error:
                if not is_disk_full(error) or self.control.terminated:
                    raise
                self.hooks.sleep(self.hooks.room_poll_s)

    def _outcome(self, status: str) -> Outcome:
        return Outcome(
            status=status,  # type: ignore[arg-type]
            step=self.progress.step,
            fence=self.fence,
            checkpoint=self.checkpoint.name if self.checkpoint else None,
            data_hash=self.progress.data_hash or None,
        )

    def _failed(self, error: Exception) -> Outcome:
        """Turn an error into an outcome. What a person cannot have caused leaves its traceback in the worker's log."""
        if isinstance(error, RealmError):
            said = {"code": error.code, "message": error.message, "hint": error.hint}
        else:
            traceback.print_exception(error, file=sys.stderr)
            said = {"code": "trainer_error", "message": f"{type(error).__name__}: {error}", "hint": "See worker.log."}
        return Outcome(
            status="failed",
            step=self.progress.step,
            fence=self.fence,
            checkpoint=self.checkpoint.name if self.checkpoint else None,
            error=said,
            data_hash=self.progress.data_hash or None,
        )

    def _holds_fence(self) -> bool:
        attempt = self.run_dir.attempt()
        return attempt is None or attempt.fence <= self.fence

    @contextlib.contextmanager
    def _process_prepared(self) -> Iterator[None]:
        """SIGTERM means stop, here and to whoever serves runs; the collector forgets the frozen objects afterwards."""
        in_main = threading.current_thread() is threading.main_thread()
        previous = signal.getsignal(signal.SIGTERM)

        def told(number: int, frame: FrameType | None) -> None:
            self.control.terminate()
            if callable(previous):
                previous(number, frame)

        if in_main:
            signal.signal(signal.SIGTERM, told)
        try:
            yield
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, previous)
            gc.unfreeze()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or on the host."""
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement without its examples."""
    return {key: value for key, value in record.items() if key not in ("wrong", "by_tag")}


__all__ = ["STATE_FILE", "DivergedError", "Hooks", "OutOfMemoryError", "Progress", "TrainingLoop", "run_training"]
