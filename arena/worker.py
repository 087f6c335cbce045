"""The process that trains: one run (`realm train RUN_DIR`), or run after run (`realm worker SLOT`).

A warm worker waits for `assign.json`, carries the run out and waits again, so that the next run of the same hero finds
the model in memory. After a failure it ends, so that the next run starts in a clean process. It ends as well when it
has been idle for long, when its slot has been given to another worker, and on SIGTERM.

This module is torch-free until a run begins; the trainer is named by `module:Class` in the table it is given.
"""

from __future__ import annotations

import faulthandler
import importlib
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arena.jobs import read_job
from arena.rundir import EXIT_BAD_CONFIG, EXIT_COMPLETED, EXIT_FAILED, EXIT_STOPPED, Outcome, RunDir
from realm.errors import ConfigError, ConflictError, CorruptFileError, NotFoundError, RealmError
from realm.files import read_json
from realm.processes import ProcessIdentity

POLL_S = 0.02


def train(run_dir: Path, trainers: Mapping[str, str]) -> int:
    """Carry out the run in `run_dir` in this process and return the exit code; always leaves an outcome."""
    directory = RunDir(run_dir).ensure()
    attempt = directory.attempt()
    fence = attempt.fence if attempt else 0
    try:
        job = read_job(run_dir)
        trainer_class = load_trainer(job.trainer, trainers)
        run_training = importlib.import_module("arena.loop").run_training
        outcome: Outcome = run_training(trainer_class(), directory, job)
    except Exception as error:  # the last line of defence of a run: whatever it was is written down
        if isinstance(error, ConflictError) and error.code == "fence_lost":
            print(f"{run_dir.name}: another attempt has taken over.", file=sys.stderr)
            return EXIT_STOPPED
        traceback.print_exc()
        outcome = Outcome("failed", _last_step(directory), fence, error=describe(error))
        directory.write_outcome(outcome)
    if outcome.status == "failed":
        code = (outcome.error or {}).get("code", "")
        return EXIT_BAD_CONFIG if code == ConfigError.code else EXIT_FAILED
    return EXIT_COMPLETED if outcome.status == "completed" else EXIT_STOPPED


def serve(slot: Path, trainers: Mapping[str, str], idle_s: float) -> int:
    """Serve assignments until idle for `idle_s`, told to stop, replaced, or a run failed."""
    faulthandler.enable()
    me = ProcessIdentity.current()
    stopping = _on_term()
    _preload(trainers)
    served = ""
    last_work = time.monotonic()
    while not stopping:
        assignment = _assignment(slot)
        if assignment is not None and assignment["id"] != served:
            if ProcessIdentity.from_dict(assignment.get("worker")) != me:
                return EXIT_COMPLETED
            served = assignment["id"]
            if train(Path(assignment["run_dir"]), trainers) in (EXIT_FAILED, EXIT_BAD_CONFIG):
                return EXIT_FAILED
            last_work = time.monotonic()
            signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
        elif (idle_s and time.monotonic() - last_work > idle_s) or not _is_mine(slot, me):
            return EXIT_COMPLETED
        time.sleep(POLL_S)
    return EXIT_COMPLETED


def load_trainer(name: str, trainers: Mapping[str, str]) -> type[Any]:
    """Return the class of a trainer. Raises ConfigError naming those that exist."""
    target = trainers.get(name)
    if target is None:
        known = ", ".join(sorted(trainers))
        raise ConfigError(f"There is no trainer {name!r}.", hint=f"Known trainers: {known}.", key="trainer")
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        hint = "Install the training packages: pip install -c constraints.txt '.[train]'."
        raise ConfigError(f"The trainer {name!r} needs {error.name}.", hint=hint, code="missing_package") from error


def describe(error: BaseException) -> dict[str, str]:
    """Return an error as the three strings that an outcome carries."""
    if isinstance(error, RealmError):
        return {"code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, MemoryError):
        return {"code": "out_of_memory", "message": "The machine ran out of memory.", "hint": "Use a smaller batch."}
    words = f"{type(error).__name__}: {error}".strip()
    return {"code": "trainer_error", "message": words[:2000], "hint": "The worker's log has the whole story."}


def _preload(trainers: Mapping[str, str]) -> None:
    """Load the heavy libraries while there is nothing to do yet, so that the first run starts at once."""
    for name in ("arena.loop", trainers.get("sft", "").partition(":")[0]):
        if not name:
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:
            traceback.print_exc(file=sys.stderr)
            return
        warm_up = getattr(module, "warm_up", None)
        if callable(warm_up):
            warm_up()


def _assignment(slot: Path) -> dict[str, Any] | None:
    try:
        value = read_json(slot / "assign.json")
    except (NotFoundError, CorruptFileError):
        return None
    return value if isinstance(value, dict) and {"id", "run_dir"} <= value.keys() else None


def _is_mine(slot: Path, me: ProcessIdentity) -> bool:
    """Whether the slot still names this worker (it may not have been entered yet right after the start)."""
    try:
        named = ProcessIdentity.from_dict(read_json(slot / "worker.json"))
    except (NotFoundError, CorruptFileError):
        return slot.is_dir()
    return named is None or named == me or not named.is_alive()


def _on_term() -> list[bool]:
    """Return a list that becomes non-empty when the process is told to end."""
    told: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return told


def _last_step(directory: RunDir) -> int:
    """The last step that the run's records tell of."""
    from arena.rundir import read_records

    step = 0
    for record in read_records(directory.metrics_path):
        step = int(record.get("step", step))
    return step
