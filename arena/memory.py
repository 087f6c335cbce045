"""How much memory a fine-tuning run needs, before it begins: arithmetic alone, no torch.

The sum is written out by part, each with the reason for its size, because a single number cannot be argued with. The
part that older estimates forgot is the logits: length x vocabulary x 4 bytes is 1.24 GB a copy at 2,048 tokens of
Qwen3, with three to four copies alive unless the cross-entropy is chunked.

`calibrate` corrects an estimate by the peaks that finished runs measured on the same device. Sizes are bytes.
Held by tests/arena/test_memory.py: Qwen3-0.6B, whole, batch 1, 2,048 tokens, bf16, checkpointing, plain logits was
measured at 16.5 GB.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

GB = 10**9
_FLOAT32, _BF16 = 4, 2
_CUDA_CONTEXT = int(0.55 * GB)
"""Driver context, cuBLAS workspace and kernels of one process."""
_CPU_LIBRARIES = int(0.55 * GB)
"""Resident size of an idle process with torch and transformers."""
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ModelShape:
    """What counts of a decoder model, under the names of its config.json."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read the shape from a model's config.json. Raises KeyError when it is no decoder's."""
        heads = int(config["num_attention_heads"])
        return cls(
            hidden_size=int(config["hidden_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            intermediate_size=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear maps of one layer."""
        h, f = self.hidden_size, self.intermediate_size
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        sizes = [(h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)]
        return dict(zip(_PROJECTIONS, sizes, strict=True))

    @property
    def parameters(self) -> int:
        """All weights, norms included."""
        layer = sum(i * o for i, o in self.projections.values()) + 2 * self.hidden_size + 2 * self.head_dim
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.num_layers * layer + embeddings + self.hidden_size

    def adapter_parameters(self, r: int, targets: Sequence[str] = _PROJECTIONS) -> int:
        """Weights of LoRA adapters of rank `r` on the named projections of every layer."""
        sizes = self.projections
        return self.num_layers * sum(r * sum(sizes[name]) for name in targets if name in sizes)


@dataclass(frozen=True)
class RunShape:
    """What counts of a run's configuration."""

    rows: int = 1
    """Rows in one forward pass."""
    length: int = 2048
    """Tokens of a row, padding included."""
    bf16: bool = True
    """Forward passes in bfloat16 by autocast; what trains stays float32."""
    gradient_checkpointing: bool = False
    lora_r: int | None = None
    lora_targets: tuple[str, ...] = _PROJECTIONS
    chunked_loss: bool = True
    loss_chunk_tokens: int | None = None
    """Positions whose logits are alive at once; None means as many as fit into 64 MiB."""
    labelled_share: float = 1.0
    """Share of the positions that carry loss; with the chunked loss only those reach the head."""
    eager_attention: bool = False
    """Attention that writes its matrix down; SDPA and flash attention do not."""
    device: str = "cuda"
    """`cuda` or `cpu`."""

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Part:
    """One term of the sum and why it has its size."""

    name: str
    size: int
    why: str


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a run, by part."""

    parts: tuple[Part, ...]
    device: str
    calibrated_by: int = 0
    """How many measured runs have corrected it."""

    @property
    def total(self) -> int:
        return sum(part.size for part in self.parts)

    def size(self, name: str) -> int:
        """Return the bytes of a part, 0 when there is none of the name."""
        return sum(part.size for part in self.parts if part.name == name)

    def fits(self, free: int, headroom: float = 0.05) -> bool:
        """Tell whether the run fits into `free` bytes with some of them left over."""
        return self.total <= free * (1 - headroom)

    def explain(self) -> str:
        """Return one line a part and the sum, largest units, for people."""
        lines = [f"{part.size / GB:8.2f} GB  {part.name}: {part.why}" for part in self.parts]
        return "\n".join([*lines, f"{self.total / GB:8.2f} GB  in all"])


@dataclass(frozen=True)
class MeasuredPeak:
    """What a finished run of the same device was expected to need, before any correction, and what it needed."""

    estimated: int
    measured: int


def estimate(model: ModelShape, run: RunShape) -> MemoryEstimate:
    """Return the expected peak of a run of the sft trainer."""
    total = model.parameters
    on_gpu = run.device == "cuda"
    compute = _BF16 if run.bf16 else _FLOAT32
    if run.lora_r is None:
        trained, frozen = total, 0
        weights = Part("weights", total * _FLOAT32, f"{total:,} in float32")
    else:
        trained, frozen = model.adapter_parameters(run.lora_r, run.lora_targets), total
        width = _BF16 if on_gpu else _FLOAT32
        size = frozen * width + trained * _FLOAT32
        weights = Part("weights", size, f"{frozen:,} frozen at {width} bytes, {trained:,} in adapters in float32")
    parts = [
        weights,
        Part("gradients", trained * _FLOAT32, f"{trained:,} in float32"),
        Part("optimizer", trained * 2 * _FLOAT32, "two averages of AdamW a weight, float32"),
    ]
    if run.bf16 and (run.lora_r is None or not on_gpu):
        parts.append(Part("bf16 copies", total * _BF16, "weights cast for the pass, kept until its end"))
    parts += [_activations(model, run, compute), _logits(model, run, compute)]
    libraries = _CUDA_CONTEXT if on_gpu else _CPU_LIBRARIES
    parts.append(Part("process", libraries, "CUDA context and kernels" if on_gpu else "libraries of the process"))
    moving = sum(part.size for part in parts if part.name in ("bf16 copies", "activations", "logits"))
    parts.append(Part("fragmentation", int(0.12 * moving), "12 % of what comes and goes"))
    return MemoryEstimate(tuple(parts), run.device)


def calibrate(estimated: MemoryEstimate, measured_peaks: Sequence[MeasuredPeak]) -> MemoryEstimate:
    """Return the estimate corrected by the median ratio of measured to estimated peaks of finished runs.

    One run is worth half of its correction, many are worth all of it; a correction never exceeds a factor of two.
    """
    ratios = [peak.measured / peak.estimated for peak in measured_peaks if peak.estimated > 0 and peak.measured > 0]
    if not ratios:
        return estimated
    trust = len(ratios) / (len(ratios) + 1)
    ratio = min(2.0, max(0.5, 1 + trust * (statistics.median(ratios) - 1)))
    why = f"{len(ratios)} finished runs on this device needed {statistics.median(ratios):.2f} of their estimates"
    correction = Part("calibration", round(estimated.total * (ratio - 1)), why)
    return replace(estimated, parts=(*estimated.parts, correction), calibrated_by=len(ratios))


def _activations(model: ModelShape, run: RunShape, compute: int) -> Part:
    """What the forward pass leaves for the backward pass, for one token of one layer, times tokens and layers.

    Norms compute in float32 and keep input and result; the residual stream is float32 under autocast.
    """
    h, f = model.hidden_size, model.intermediate_size
    q, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    norms = 2 * h * (_FLOAT32 + _FLOAT32 + compute)
    attention = (q + kv) * (2 * compute + 2 * _FLOAT32) + kv * compute + q * compute + h * _FLOAT32
    feed_forward = 4 * f * compute + h * _FLOAT32
    layer = norms + attention + feed_forward
    if run.lora_r is not None:
        layer += len(run.lora_targets) * run.lora_r * compute
    matrix = model.num_heads * run.rows * run.length**2 * (compute + _FLOAT32) if run.eager_attention else 0
    if run.gradient_checkpointing:
        kept = (model.num_layers + 2) * run.tokens * h * _FLOAT32  # and what the last norm keeps
        size = kept + run.tokens * layer + matrix
        why = f"inputs of {model.num_layers} layers and one layer recomputed, {run.tokens:,} tokens"
    else:
        size = model.num_layers * (run.tokens * layer + matrix)
        why = f"{model.num_layers} layers x {run.tokens:,} tokens x {layer:,} bytes"
    return Part("activations", size, why)


def _logits(model: ModelShape, run: RunShape, compute: int) -> Part:
    """The head's output: whole, or the chunk that is alive."""
    v = model.vocab_size
    if not run.chunked_loss:
        a_position = v * (compute + 3 * _FLOAT32)
        why = f"{run.tokens:,} positions x {v:,}, as computed, in float32, as log-softmax and as gradient"
        return Part("logits", run.tokens * a_position, why)
    labelled = max(1, round(run.tokens * run.labelled_share))
    chunk = min(labelled, run.loss_chunk_tokens or max(16, 64 * 1024**2 // (4 * v)))
    size = chunk * v * (2 * compute + 2 * _FLOAT32) + 2 * labelled * model.hidden_size * compute
    why = f"{chunk:,} of {labelled:,} labelled positions x {v:,} at once"
    if run.lora_r is None:
        size += v * model.hidden_size * _FLOAT32
        why += ", and the head's gradient as it adds up"
    return Part("logits", size, why)
