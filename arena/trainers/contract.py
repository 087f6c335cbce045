"""What a trainer is. Implement `Trainer`, name it in the entry-point group `realm.trainers`, and the arena runs it.

The loop (`arena.loop`) owns time: stopping, pausing, when to evaluate and save, logging, roll-back, the random number
state, the data cursor and the rolling hash of consumed samples. A trainer owns the model: it builds it, turns batch
number `cursor` into gradients, applies them, measures, writes and reads its files.

Rules that make resumption exact: batch `cursor` is a pure function of the job (seed, data, configuration); `train_step`
changes no weight and no optimizer state; randomness comes from the global generators of torch, numpy and random only;
`save` followed by `restore` in a new process gives the same bits; `evaluate` changes nothing that training sees.

A class satisfies the protocol by having the members; no base class is needed. The whole suite in
tests/arena/trainers/contract_suite.py runs against any implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from arena.jobs import JobFile


@dataclass(frozen=True)
class Declares:
    """What a trainer's runs can show, so that pages and gatekeepers need not guess."""

    metrics: tuple[str, ...]
    """Names in its step records beside loss, lr, grad_norm, tokens, loss_tokens, step_s."""
    evaluations: tuple[str, ...] = ()
    """Kinds of measurement: `validation`, `exact_match`, …"""
    data: tuple[str, ...] = ("messages", "text")
    """Kinds of canonical rows that it reads."""
    checkpoint_loads_with: str = ""
    """How a person opens a checkpoint, in one line."""


@dataclass(frozen=True)
class RunContext:
    """What `build` gets. `report(kind, **fields)` appends a record to the run's metrics."""

    run_dir: Path
    job: JobFile
    report: Callable[..., None]
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def phase(self, name: str, detail: str = "") -> None:
        """Say what the run is doing: loading, tokenizing, …"""
        self.report("phase", phase=name, detail=detail)


@dataclass(frozen=True)
class StepResult:
    """Gradients are ready, nothing is updated yet."""

    loss: float
    """Mean over the tokens (or samples) that carry loss, over all micro-batches."""
    grad_norm: float
    """Norm of all gradients before clipping."""
    lr: float
    tokens: int
    """Real tokens, padding left out."""
    loss_tokens: int
    samples: bytes
    """Identities of the samples in this batch, in order; the loop hashes them."""
    extra: dict[str, float] = field(default_factory=dict)
    """Further metrics, as declared."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass(frozen=True)
class Score:
    """One number to choose the best checkpoint by."""

    name: str
    value: float
    higher_is_better: bool = True

    def beats(self, other: Score | None) -> bool:
        if other is None or other.name != self.name:
            return True
        return self.value > other.value if self.higher_is_better else self.value < other.value


@dataclass(frozen=True)
class Measured:
    """What `evaluate` found: records (dicts with a `kind`, without `step`) and the score."""

    records: tuple[dict[str, Any], ...] = ()
    score: Score | None = None


@runtime_checkable
class Trainer(Protocol):
    """See the module's text. Methods are called from one thread, in the order of their listing here."""

    config_model: ClassVar[type[BaseModel]]
    declares: ClassVar[Declares]

    max_steps: int
    """Optimizer steps of this run; known after `build`."""
    checkpoint_bytes: int
    """About how large a checkpoint will be; known after `build`."""
    eval_every_steps: int | None
    save_every_steps: int | None
    save_every_s: float | None
    keep_checkpoints: int

    def build(self, context: RunContext) -> None:
        """Load model, data and optimizer as the run begins. Raises RealmError when the job cannot be obeyed."""

    def restore(self, folder: Path, state: dict[str, Any]) -> None:
        """Take weights and optimizer from a checkpoint of this run; `state` is what `save` returned."""

    def reset(self) -> None:
        """Go back to what `build` made: the roll-back when there is no checkpoint yet."""

    def train_step(self, step: int, cursor: int) -> StepResult:
        """Forward and backward over the micro-batches of batch `cursor`, as update number `step` (0-based)."""

    def apply_update(self) -> None:
        """Clip and apply the gradients of the last `train_step`."""

    def discard_update(self) -> None:
        """Drop the gradients of the last `train_step`."""

    def shrink(self) -> dict[str, Any] | None:
        """After an out-of-memory error: halve the micro-batch, keep the batch. What changed, or None at the end."""

    def evaluate(self) -> Measured:
        """Measure the model as it stands."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write model and optimizer files (safetensors, JSON) into an empty folder; return the trainer's own state."""

    def card(self, cursor: int) -> dict[str, Any]:
        """Return what the identity card of a checkpoint should say: epoch, parent, fingerprint, base model, …"""

    def saved(self, manifest_sha256: str) -> None:
        """A save was committed; nothing changed since `save`."""

    def export(self, folder: Path) -> None:
        """Write the model alone, ready for use: no optimizer, adapters merged."""

    def close(self) -> None:
        """The run is over, well or badly; give back what must not leak into the next run of this process."""
