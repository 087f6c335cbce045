"""The part of a run's resume state that is the loop's own, and what it concludes from it.

Plain numbers and lists, written into `state.json` of every checkpoint and read back exactly. Whether a loss is too
high for too long, or too many batches are not finite, is decided here from this state alone, so a resumed run decides
the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

NONFINITE_PATIENCE = 3
"""So many batches that are not finite ..."""
NONFINITE_WINDOW = 50
"""... within so many batches mean that the weights are at fault, not the data."""
MAX_ROLLBACKS = 3
SPIKE_AFTER = 50
"""Steps before a rise of the loss can be told from its ordinary course."""
SPIKE_STEPS = 20
"""So many high losses in a row are a spike that does not pass by itself."""
SPIKE_NATS, SPIKE_DEVIATIONS = 0.5, 8.0
"""High means above the running mean by the larger of the two."""
LOSS_WINDOW = 50
"""Steps over which a checkpoint's training loss is averaged."""


@dataclass
class Progress:
    """Everything of the loop that a resumed run must know. Plain JSON values."""

    step: int = 0
    """Updates done in this run."""
    cursor: int = 0
    """Number of the next batch; ahead of `step` when batches were passed over."""
    data_hash: str = ""
    """Rolling hash of the samples behind all updates, in order."""
    evaluated_at: int = -1
    saved_at: int = -1
    best: dict[str, Any] | None = None
    """Score of the best checkpoint and its step: {name, value, higher_is_better, step, checkpoint}."""
    recent_losses: list[float] = field(default_factory=list)
    nonfinite: list[int] = field(default_factory=list)
    """Cursors of recent batches that were not finite."""
    skipped: list[list[int]] = field(default_factory=list)
    """[first, behind last] cursors of data that was passed over."""
    rollbacks: int = 0
    loss_mean: float = 0.0
    """Running mean and mean deviation of losses that were not high, and the step since when they are."""
    loss_deviation: float = 0.0
    high_since: int | None = None
    samples: int = 0
    tokens: int = 0
    measured: list[dict[str, Any]] = field(default_factory=list)
    """The latest measurements, as the identity card shows them."""

    def skip_to(self, behind: int) -> None:
        """Pass over the data up to batch `behind` and remember which it was, joining neighbours."""
        first, last = self.cursor, behind
        while self.skipped and self.skipped[-1][1] >= first:
            first = min(first, self.skipped[-1][0])
            last = max(last, self.skipped.pop()[1])
        if last > first:
            self.skipped.append([first, last])
        self.cursor = max(self.cursor, behind)

    def note_nonfinite(self) -> bool:
        """Count the present batch as not finite; tell whether there were too many lately."""
        recent = [cursor for cursor in self.nonfinite if cursor > self.cursor - NONFINITE_WINDOW]
        self.nonfinite = [*recent, self.cursor]
        return len(self.nonfinite) >= NONFINITE_PATIENCE

    def note_loss(self, loss: float) -> bool:
        """Follow the course of the loss after an update; tell whether it has been far above it for too long."""
        bound = self.loss_mean + max(SPIKE_NATS, SPIKE_DEVIATIONS * self.loss_deviation)
        if self.step <= SPIKE_AFTER or loss <= bound:
            weight = max(0.02, 1 / max(1, self.step))
            self.loss_deviation += weight * (abs(loss - self.loss_mean) - self.loss_deviation)
            self.loss_mean += weight * (loss - self.loss_mean)
            self.high_since = None
            return False
        if self.high_since is None:
            self.high_since = self.step
        return self.step - self.high_since + 1 >= SPIKE_STEPS

    def advance(self, samples: bytes, tokens: int, loss: float) -> None:
        """Count an update made from `samples` (8 bytes each)."""
        self.step += 1
        self.cursor += 1
        self.data_hash = hashlib.blake2b(bytes.fromhex(self.data_hash) + samples, digest_size=16).hexdigest()
        self.samples += len(samples) // 8
        self.tokens += tokens
        self.recent_losses.append(loss)
        if len(self.recent_losses) > LOSS_WINDOW:
            del self.recent_losses[0]
