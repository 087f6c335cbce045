"""From a run's records into the ledger.

`metrics.jsonl` is the truth about a run; this reads it on from where the ledger stands and enters what it says:
points, losses, checkpoints, evaluations, answers to commands. Everything entered is idempotent, so reading a stretch
twice after a crash changes nothing, and a daemon that was away for an hour catches up without loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arena.rundir import MetricsTail
from realm.errors import ConflictError, CorruptFileError
from vault.ledger import Progress
from vault.manifest import read_manifest
from vault.records import Run
from vault.store import Vault

SMOOTHING = 0.9
"""Weight of the past in the running mean of the training loss (a half-life of 7 steps)."""
POINTS = ("loss", "lr", "grad_norm", "step_s", "loss_tokens", "val_loss")
EVENTS = ("nonfinite", "loss_spike", "rollback", "out_of_memory", "disk_full", "disk_has_room", "resumed")
"""What a trainer tells that people should read; checkpoints that it set aside or rotated are seen on the disk."""


class RunIngest:
    """Follows one run. `pump` enters what is new; `last_record_t` tells when the trainer last wrote anything."""

    def __init__(self, run_id: str, run_dir: Path, vault: Vault) -> None:
        self._vault = vault
        self._run_dir = run_dir
        run = vault.ledger.run(run_id)
        self._tail = MetricsTail(run_dir / "metrics.jsonl", run.records_offset)
        self._run = run
        self._state = _State(run)
        self._points: list[tuple[str, int, float]] = []
        self.last_record_t: float | None = None

    @property
    def step(self) -> int:
        return self._state.step

    @property
    def phase(self) -> str:
        return self._state.phase

    def pump(self) -> int:
        """Enter all new records and return how many there were. A failed write is repeated by the next call."""
        offset = self._tail.offset
        records = self._tail.read()
        if not records:
            return 0
        before = self._state.copy()
        try:
            for record in records:
                self._take(record)
            self._vault.metrics.append(self._run.id, self._points)
            self._vault.ledger.advance(self._run.id, self._state.progress(self._tail.offset))
        except BaseException:
            self._tail.offset = offset
            self._state = before
            raise
        finally:
            self._points = []
        return len(records)

    def _take(self, record: dict[str, Any]) -> None:
        state = self._state
        kind = record["kind"]
        new = record["seq"] > self._run.records_seq
        state.seq = max(state.seq, int(record["seq"]))
        self.last_record_t = float(record["t"])
        state.max_steps = record.get("max_steps") or state.max_steps  # told by `ready`, before the first step
        step = int(record.get("step", state.step))
        if kind == "step":
            state.take_step(record, step)
            self._add_points(record, step)
        elif kind == "validation":
            state.val_loss = _number(record.get("val_loss")) or state.val_loss
            self._add_points(record, step)
        elif kind == "phase":
            state.phase = str(record["phase"])
        elif kind == "checkpoint":
            self._take_checkpoint(record)
        elif kind == "evaluation":
            self._take_evaluation(record, step)
        elif kind == "control":
            self._vault.commands.settle(str(record["id"]), "done", {"effect": record.get("effect"), "step": step})
        elif kind == "event" and new and record.get("name") in EVENTS:
            plain = {k: v for k, v in record.items() if k not in ("seq", "kind", "t", "name", "step", "crc")}
            hero_step = self._run.hero_step_start + step
            story = {"hero": self._run.hero_id, "step": hero_step, "run_step": step, "job_id": self._run.job_id}
            kind = "run_resumed_after_crash" if record["name"] == "resumed" else str(record["name"])
            self._vault.ledger.note(self._run.id, kind, story | plain)

    def _add_points(self, record: dict[str, Any], step: int) -> None:
        for name in POINTS:
            value = _number(record.get(name))
            if value is not None:
                self._points.append((name, step, value))
        if self._state.smooth is not None and record["kind"] == "step":
            self._points.append(("loss_smooth", step, self._state.smooth))

    def _take_checkpoint(self, record: dict[str, Any]) -> None:
        """Enter a checkpoint that the trainer committed; one that was rotated away meanwhile needs no row."""
        name = str(record["name"])
        try:
            self._vault.ledger.record_checkpoint(self._run.id, name, read_manifest(self._run_dir / name))
        except (CorruptFileError, ConflictError) as error:
            if (self._run_dir / name).exists():
                story = {"name": name, "text": error.message, "hero": self._run.hero_id}
                self._vault.ledger.note(self._run.id, "checkpoint_quarantined", story)

    def _take_evaluation(self, record: dict[str, Any], step: int) -> None:
        named = ("name", "skill", "level", "split", "correct", "total", "step", "seq", "kind", "t", "crc")
        self._vault.ledger.record_evaluation(
            self._run.id,
            run_step=step,
            name=str(record["name"]),
            skill=str(record["skill"]),
            level=int(record["level"]),
            split=str(record["split"]),
            correct=int(record["correct"]),
            total=int(record["total"]),
            details={key: value for key, value in record.items() if key not in named},
            at=float(record["t"]),
        )


def settle_checkpoints(run_id: str, run_dir: Path, vault: Vault) -> None:
    """Bring the ledger in step with a run's folder: enter what is committed there, note what is gone."""
    names = {path.name: path for path in run_dir.iterdir() if path.is_dir()} if run_dir.is_dir() else {}
    for name, path in sorted(names.items()):
        if name.startswith("checkpoint-"):
            try:
                vault.ledger.record_checkpoint(run_id, name, read_manifest(path))
            except (CorruptFileError, ConflictError):
                continue  # the trainer quarantines it when it next looks for a checkpoint to go on from
    known = vault.ledger.checkpoints(run_id=run_id, statuses=("verified",), limit=10_000).items
    for checkpoint in known:
        if checkpoint.name in names:
            continue
        quarantined = any(name.startswith(".quarantine-") and checkpoint.name in name for name in names)
        status = "quarantined" if quarantined else "deleted"
        vault.ledger.set_checkpoint_status(checkpoint.id, status, "failed verification" if quarantined else "rotation")


class _State:
    """What the records so far amount to."""

    def __init__(self, run: Run) -> None:
        self.seq = run.records_seq
        self.step = run.step
        self.phase = run.phase
        self.max_steps = run.max_steps
        self.smooth = run.train_loss
        self.val_loss = run.val_loss
        self.tokens = run.tokens
        self.seconds = run.train_seconds

    def copy(self) -> _State:
        twin = object.__new__(_State)
        twin.__dict__.update(self.__dict__)
        return twin

    def take_step(self, record: dict[str, Any], step: int) -> None:
        self.step = step
        loss = _number(record.get("loss"))
        if loss is not None:
            self.smooth = loss if self.smooth is None else SMOOTHING * self.smooth + (1 - SMOOTHING) * loss
        self.tokens += int(record.get("tokens") or 0)
        self.seconds += _number(record.get("step_s")) or 0.0

    def progress(self, offset: int) -> Progress:
        return Progress(
            offset=offset,
            seq=self.seq,
            step=self.step,
            phase=self.phase,
            max_steps=self.max_steps,
            train_loss=self.smooth,
            val_loss=self.val_loss,
            tokens=self.tokens,
            train_seconds=self.seconds,
        )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
