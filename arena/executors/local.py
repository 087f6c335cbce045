"""The local executor: one warm worker process for this machine.

The worker (arena/worker.py) is its own session, so it lives on when the daemon dies and is taken up again by its
identity. It is told what to do by `assign.json` in its slot folder and serves one run after another, with model,
tokenizer and compiled kernels kept in memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from arena.executors.contract import Handle, Standing
from arena.rundir import Attempt, RunDir
from realm.errors import CorruptFileError, NotFoundError
from realm.files import durable_write_json, read_json
from realm.ids import new_id
from realm.processes import ProcessIdentity
from realm.settings import ArenaSettings, subprocess_environment


class LocalExecutor:
    """Runs attempts in the worker of one slot folder."""

    def __init__(self, slot: Path, home: Path, settings: ArenaSettings) -> None:
        self._slot = slot
        self._home = home
        self._settings = settings
        self._children: list[subprocess.Popen[bytes]] = []
        slot.mkdir(parents=True, exist_ok=True, mode=0o700)

    def start(self, run_dir: Path, attempt: int, fence: int) -> Handle:
        worker = self.worker() or self._spawn()
        RunDir(run_dir).write_attempt(Attempt(attempt, fence, worker))
        self._assign(run_dir, fence, worker)
        return Handle(run_dir, fence, worker)

    def adopt(self, run_dir: Path, fence: int) -> Handle | None:
        attempt = RunDir(run_dir).attempt()
        if attempt is None or attempt.fence != fence or attempt.worker is None or not attempt.worker.is_alive():
            return None
        if not self._is_assigned(run_dir, fence):  # the daemon died between naming the worker and telling it
            self._assign(run_dir, fence, attempt.worker)
        return Handle(run_dir, fence, attempt.worker)

    def poll(self, handle: Handle) -> Standing:
        outcome = RunDir(handle.run_dir).outcome()
        if outcome is not None and outcome.fence == handle.fence:
            return "ended"
        if handle.worker is not None and handle.worker.is_alive():
            return "running"
        outcome = RunDir(handle.run_dir).outcome()  # it may have ended between the two looks
        return "ended" if outcome is not None and outcome.fence == handle.fence else "lost"

    def terminate(self, handle: Handle) -> None:
        if handle.worker is not None:
            handle.worker.signal(signal.SIGTERM)

    def kill(self, handle: Handle) -> None:
        if handle.worker is None:
            return
        if handle.worker.signal(signal.SIGABRT):  # faulthandler writes every thread's stack to the log
            self._wait(handle.worker, 2.0)
        if handle.worker.signal(signal.SIGKILL):
            self._wait(handle.worker, 10.0)

    def warm_up(self) -> None:
        """Start the worker before there is work for it."""
        if self.worker() is None:
            self._spawn()

    def worker(self) -> ProcessIdentity | None:
        """Return the slot's worker if it runs."""
        try:
            identity = ProcessIdentity.from_dict(read_json(self._slot / "worker.json"))
        except (NotFoundError, CorruptFileError):
            return None
        return identity if identity is not None and identity.is_alive() else None

    def tick(self, now: float) -> None:
        self._children = [child for child in self._children if child.poll() is None]

    def close(self) -> None:
        self.tick(time.time())

    def shut_down(self, timeout_s: float) -> None:
        """End the worker: it saves what it is doing first. Kills it after `timeout_s`."""
        identity = self.worker()
        if identity is None or not identity.signal(signal.SIGTERM):
            return
        if not self._wait(identity, timeout_s):
            identity.signal(signal.SIGKILL)
            self._wait(identity, 10.0)

    def _assign(self, run_dir: Path, fence: int, worker: ProcessIdentity) -> None:
        assignment = {"id": new_id("asg"), "run_dir": str(run_dir), "fence": fence, "worker": worker.to_dict()}
        durable_write_json(self._slot / "assign.json", assignment)

    def _is_assigned(self, run_dir: Path, fence: int) -> bool:
        try:
            told = read_json(self._slot / "assign.json")
            return bool(told["run_dir"] == str(run_dir) and told["fence"] == fence)
        except (NotFoundError, CorruptFileError, KeyError, TypeError):
            return False

    def _spawn(self) -> ProcessIdentity:
        threads = str(self._settings.threads or default_threads())
        environment = subprocess_environment(
            self._home,
            OMP_NUM_THREADS=threads,
            MKL_NUM_THREADS=threads,
            TOKENIZERS_PARALLELISM="false",
            HF_HUB_OFFLINE="1",
            TRANSFORMERS_OFFLINE="1",
            HF_HUB_DISABLE_TELEMETRY="1",
            PYTHONUNBUFFERED="1",
            CUBLAS_WORKSPACE_CONFIG=":4096:8",
        )
        log = os.open(self._slot / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        command = [sys.executable, "-P", "-m", "realm", "worker", str(self._slot)]
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                cwd=self._home,
            )
        finally:
            os.close(log)
        self._children.append(child)
        identity = ProcessIdentity.of(child.pid)
        if identity is None:
            raise OSError(f"The worker ended at once with exit code {child.wait()}; see {self._slot / 'worker.log'}.")
        durable_write_json(self._slot / "worker.json", identity.to_dict())
        return identity

    def _wait(self, identity: ProcessIdentity, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while identity.is_alive():
            self.tick(time.time())
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        self.tick(time.time())
        return True


def default_threads() -> int:
    """Torch threads of one trainer: one on small machines, where spin barriers cost more than they bring."""
    cores = os.cpu_count() or 1
    return 1 if cores <= 4 else cores // 2
