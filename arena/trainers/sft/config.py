"""What a supervised fine-tuning run can be told. Plain data: importing this loads neither torch nor transformers.

`SftConfig` is validated once, written whole to `job.json`, and never changes during a run. What can be derived is a
property. A contradiction names both keys. `read_config` is the tolerant reader for job files of older versions.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from realm.errors import ConfigError
from realm.settings import Config


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021) through PEFT."""

    r: int = Field(default=16, ge=1, le=1024)
    """Rank of the update."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the update is multiplied by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter; 0 keeps fused paths possible."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the linear layers that get an adapter; the output head never does."""


class MaskingConfig(Config):
    """When the share of tokens that carry no loss makes a run suspicious, and when it stops it."""

    min_share: float = Field(default=0.25, ge=0, le=1)
    """Below this masked share the run is refused: instructions are being trained."""
    warn_below: float = Field(default=0.30, ge=0, le=1)
    """Below this masked share a warning is reported."""
    warn_above: float = Field(default=0.85, ge=0, le=1)
    """Above this masked share a warning is reported: little of each row is trained."""


class SftConfig(Config):
    """One supervised fine-tuning run."""

    learning_rate: float = Field(default=4e-4, gt=0)
    """Peak learning rate, reached after the warm-up."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Course of the learning rate after the warm-up; `wsd` is warm-up, stable, decay over the last fifth."""
    warmup_steps: int = Field(default=100, ge=0)
    """Optimizer steps of linear warm-up; never more than a tenth of a short run is used."""
    min_lr_ratio: float = Field(default=0.05, ge=0, le=1)
    """Learning rate at the end of the run, as a share of the peak."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's averages of the gradient and of its square."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled decay, on matrices only."""
    grad_clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 clips nothing."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data, used when `max_steps` is null."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of this run; null means that `epochs` decides."""
    batch_size: int = Field(default=16, ge=1)
    """Rows in one optimizer step, over all micro-batches."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """When set, an optimizer step takes as many rows as fit into this many tokens and `batch_size` is not used."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows in one forward pass; null takes the whole step on a CPU and what `micro_batch_tokens` allows on a GPU."""
    micro_batch_tokens: int | None = Field(default=None, ge=16)
    """Tokens, padding included, in one forward pass; null means 16,384."""
    max_length: int = Field(default=2048, ge=8)
    """Longest row in tokens. Longer chat rows are left out and reported, longer texts are cut into pieces."""
    packing: Literal["auto"] | bool = "auto"
    """Several rows in one sequence without attention between them; `auto` packs short rows on a GPU."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto` takes a GPU where there is one."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward pass; what trains stays float32. `auto` means bf16 on a GPU that has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """torch.compile; pays after some minutes only."""
    attention: Literal["sdpa", "flash_attention_2", "flex_attention", "eager"] = "sdpa"
    """Attention kernel."""
    loss_chunk_tokens: int | None = Field(default=None, ge=1)
    """Labelled tokens whose logits are alive at once; null means as many as fit into 64 MiB."""
    lora: LoraConfig | None = None
    """Train adapters of this shape; null trains every weight."""

    validation_fraction: float = Field(default=0.0, ge=0, le=0.5)
    """Share of the rows that is kept out of training and measured; which ones is decided by their content."""
    eval_every_steps: int | None = Field(default=None, ge=1)
    """Measure every so many steps; null measures at the end only."""
    eval_batch_tokens: int | None = Field(default=None, ge=16)
    """Tokens, padding included, in one forward pass of a measurement; null means 16,384 on a GPU, 2,048 on a CPU."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Save every so many steps; null leaves it to `save_every_s` and the end."""
    save_every_s: float | None = Field(default=300.0, gt=0)
    """Save when so many seconds have passed since the last save; null leaves it to `save_every_steps`."""
    keep_checkpoints: int = Field(default=2, ge=2)
    """Newest verified checkpoints of this run that rotation keeps, beside the best and the pinned ones."""

    profile: str = "plain_sft"
    """How rows are dressed before they are rendered; see `profiles`."""
    masking: MaskingConfig = MaskingConfig()
    carry_optimizer: bool = True
    """Begin with the optimizer state of the parent checkpoint."""
    dropped_rows_limit: float = Field(default=0.05, ge=0, le=1)
    """Share of rows that may be left out for their length before the run is refused."""

    @model_validator(mode="after")
    def _agree(self) -> SftConfig:
        if self.micro_batch_size is not None and self.batch_tokens is None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} is more than batch_size {self.batch_size}")
        if self.masking.warn_below < self.masking.min_share:
            raise ValueError("masking.warn_below is less than masking.min_share")
        if self.masking.warn_above <= self.masking.warn_below:
            raise ValueError("masking.warn_above is not more than masking.warn_below")
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < self.max_length:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} is less than max_length {self.max_length}, "
                "so the longest row would not fit into a forward pass"
            )
        return self

    @property
    def gradient_accumulation(self) -> int:
        """Forward passes of a step when rows are neither packed nor grouped by length."""
        return -(-self.batch_size // (self.micro_batch_size or self.batch_size))


def parse_config(tree: dict[str, Any], *, source: str = "config") -> SftConfig:
    """Validate a configuration tree. Raises ConfigError that names every offending key."""
    try:
        return SftConfig.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'keys'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{source}: {problems}.", hint="See the keys of the sft trainer.") from None


def read_config(tree: dict[str, Any]) -> tuple[SftConfig, list[str]]:
    """Read the configuration of an older job file: keys that no longer exist are left out and returned."""
    known = {key: value for key, value in tree.items() if key in SftConfig.model_fields}
    return parse_config(known), sorted(set(tree) - set(known))
