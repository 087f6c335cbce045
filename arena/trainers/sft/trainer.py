"""Supervised fine-tuning, told in the order of its execution: settings, data, model, optimizer, step, measure, save.

The loop (`arena.loop`) calls `build`, then `train_step` and `apply_update` for every optimizer step, and `evaluate` and
`save` when they are due. An optimizer step is one batch of rows, cut into as few forward passes as fit; the loss is
the mean over all tokens that carry loss in the whole batch, whatever the cut, so that micro-batches, packing and a
halving after an out-of-memory error do not change what is learned.

Exactness: on a CPU the same job gives the same bits for a fixed number of threads. On a GPU the same rows in the same
order with the same learning rate; sums may differ in their last bits from kernel to kernel.
"""

from __future__ import annotations

import functools
import importlib.metadata
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from arena.trainers.contract import Declares, Measured, RunContext, Score, StepResult
from arena.trainers.sft import evaluate, guards
from arena.trainers.sft.config import SftConfig, parse_config
from arena.trainers.sft.data import BatchPlan, Dataset, Layout, MicroBatch, load_dataset, micro_batches
from arena.trainers.sft.fingerprint import fingerprint
from arena.trainers.sft.loss import liger_available, linear_cross_entropy
from arena.trainers.sft.model import export_merged, load_model, restore_weights, save_model
from arena.trainers.sft.optim import learning_rate, load_optimizer, make_optimizer, save_optimizer
from arena.trainers.sft.profiles import get_profile
from arena.trainers.sft.warm import WARM, WarmModel
from realm.errors import NotFoundError
from realm.files import read_json
from vault import manifest as manifests

_DEFAULT_PASS_TOKENS = 16384
_LARGEST_LISTED = 200
"""Files larger than this many MiB are verified by size only when they come from a parent checkpoint."""


class SftTrainer:
    """The `sft` trainer; implements `arena.trainers.contract.Trainer`."""

    config_model: ClassVar[type[SftConfig]] = SftConfig
    declares: ClassVar[Declares] = Declares(
        metrics=("epoch",),
        evaluations=("validation", "exact_match"),
        data=("messages", "text"),
        checkpoint_loads_with="transformers.AutoModelForCausalLM.from_pretrained(folder)",
    )

    max_steps = 0
    checkpoint_bytes = 0

    # Settings

    def build(self, context: RunContext) -> None:
        """Data first (it is cheap and most likely to be at fault), then model and optimizer."""
        self.context = context
        self.job = context.job
        self.config = parse_config(context.job.config, source=f"{context.job.name}: config")
        self.eval_every_steps = self.config.eval_every_steps
        self.save_every_steps = self.config.save_every_steps
        self.save_every_s = self.config.save_every_s
        self.keep_checkpoints = self.config.keep_checkpoints
        self.device = _device(self.config.device if context.device == "auto" else context.device)
        self.parent = Path(self.job.parent_checkpoint) if self.job.parent_checkpoint else None
        self.profile = get_profile(self.config.profile)
        self._saved_as: str | None = None
        self._measuring = False
        self._prepare_torch()
        started = time.monotonic()
        self._build_data()
        tokenized = time.monotonic()
        warm = self._build_model()
        now = time.monotonic()
        context.report(
            "event",
            name="ready",
            step=0,
            tokenize_s=round(tokenized - started, 4),
            load_s=round(now - tokenized, 4),
            warm=warm,
            device=str(self.device),
            parameters=sum(p.numel() for p in self.model.module.parameters()),
            trainable=sum(p.numel() for p in self.named.values()),
            max_steps=self.max_steps,
        )

    def _prepare_torch(self) -> None:
        """Fixed threads and deterministic kernels on a CPU; what was set before is put back by `close`."""
        self._before = (
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        )
        torch.set_num_threads(self.job.threads)
        if self.device.type == "cpu":
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # costs a pass over every new tensor
        else:
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True

    # Data

    def _build_data(self) -> None:
        config, run_dir = self.config, self.context.run_dir
        self.context.phase("tokenizing")
        self.tokenizer = WARM.tokenizer(Path(self.job.model_dir))
        self.data: Dataset = load_dataset(
            [(run_dir / file.path, file.sha256) for file in self.job.data],
            self.tokenizer,
            self.profile,
            max_length=config.max_length,
            validation_fraction=config.validation_fraction,
            cache=run_dir / "tokens",
        )
        report = guards.check(self.data, self.tokenizer, config)
        self.context.report("event", name="data_checked", step=0, **vars(report))
        self.sets = [
            (info, evaluate.prepare(run_dir / info.path, self.tokenizer, self.profile))
            for info in self.job.evaluation_sets
        ]
        self.plan = BatchPlan(
            self.data.train.lengths,
            self.job.seed,
            batch_rows=config.batch_size,
            batch_tokens=config.batch_tokens,
        )
        self.max_steps = config.max_steps or self.plan.batches_in(config.epochs)
        self.layout = self._first_layout()
        # On a CPU passes that stay in its caches are half as fast again as large ones (measured on the squire).
        self.eval_tokens = config.eval_batch_tokens or (16384 if self.device.type == "cuda" else 2048)

    def _first_layout(self) -> Layout:
        config, lengths = self.config, self.data.train.lengths
        packing = config.packing
        if packing == "auto":  # a dense mask over a packed row costs more than padding saves, except on a GPU
            packing = self.device.type == "cuda" and float(lengths.mean()) < config.max_length / 2
        return Layout(
            packing=packing,
            rows=config.micro_batch_size,
            tokens=config.micro_batch_tokens or max(_DEFAULT_PASS_TOKENS, config.max_length),
            pad_to=64 if config.compile else 8 if self.device.type == "cuda" else 1,
        )

    # Model and optimizer

    def _build_model(self) -> bool:
        """Take the warm model when it is the parent, else load; return whether it was warm."""
        self.context.phase("loading")
        warm = WARM.take(self.parent, self.config, str(self.device))
        if warm is None:
            self._load_initial()
        else:
            self.model = warm.model
            self.model.prepare(self.config)
            self._attach_optimizer()
            if self.config.carry_optimizer:
                self.optimizer.state.update(warm.optimizer_state)
        self.model.module.train()
        trainable = sum(p.numel() * p.element_size() for p in self.named.values())
        self.checkpoint_bytes = 3 * trainable
        self.bf16 = self.config.precision == "bf16" or (
            self.config.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.fused = liger_available() and self.device.type == "cuda"
        return warm is not None

    def _load_initial(self) -> None:
        """Weights of the parent checkpoint (verified first) or of the base model, and the optimizer with them."""
        if self.parent is not None:
            if not self.parent.is_dir():
                raise NotFoundError(f"The parent checkpoint {self.parent} does not exist.", path=str(self.parent))
            manifests.verify(self.parent, deep=manifests.read_manifest(self.parent).size < _LARGEST_LISTED << 20)
        torch.manual_seed(self.job.seed)  # new adapters begin at the same numbers in every attempt
        self.model = load_model(Path(self.job.model_dir), self.parent, self.config, self.device)
        self._attach_optimizer()
        if self.parent is not None and self.config.carry_optimizer:
            steps = read_json(self.parent / "state.json").get("trainer", {}).get("optimizer_steps", {})
            if steps:
                load_optimizer(self.optimizer, self.named, self.parent, steps)
        self.model.module.train()

    def _attach_optimizer(self) -> None:
        self.named = self.model.named
        self.parameters = list(self.named.values())
        self.optimizer = make_optimizer(self.named.items(), self.config)

    def restore(self, folder: Path, state: dict[str, Any]) -> None:
        """Take up a checkpoint of this run: weights, averages, and the layout that memory allowed."""
        restore_weights(self.model, folder)
        self._attach_optimizer()
        load_optimizer(self.optimizer, self.named, folder, state["optimizer_steps"])
        self.layout = Layout(**state["layout"])
        self.eval_tokens = int(state["eval_tokens"])

    def reset(self) -> None:
        """Begin again as `build` did; the layout stays, since memory did not grow."""
        self._load_initial()

    # Step

    def train_step(self, step: int, cursor: int) -> StepResult:
        """Gradients of batch `cursor`. One look at the device, for loss and norm together."""
        rows = self.plan.rows(cursor)
        batches = micro_batches(self.data.train, rows, self.layout, self.tokenizer.pad)
        self._largest = max((batch.rows for batch in batches), default=0)
        self._largest_tokens = max((batch.input_ids.size for batch in batches), default=0)
        loss_tokens = sum(len(batch.targets) for batch in batches)
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for batch in batches:
            loss = self._loss(batch) / max(1, loss_tokens)
            loss.backward()
            total += loss.detach()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        loss_value, norm_value = torch.stack((total, self._norm.to(total.dtype))).tolist()
        self._lr = learning_rate(self.config, step, self.max_steps)
        return StepResult(
            loss=loss_value,
            grad_norm=norm_value,
            lr=self._lr,
            tokens=sum(batch.tokens for batch in batches),
            loss_tokens=loss_tokens,
            samples=self.data.train.hashes[rows].tobytes(),
            extra={"epoch": round(self.plan.epoch_at(cursor + 1), 6)},
        )

    def _loss(self, batch: MicroBatch) -> Tensor:
        """Summed loss of one forward pass."""
        input_ids = self._to_device(batch.input_ids)
        positions = self._to_device(batch.position_ids) if batch.position_ids is not None else None
        labels_at, targets = self._to_device(batch.labels_at), self._to_device(batch.targets)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self.model.hidden(input_ids, positions, compiled=True)
            hidden = hidden.index_select(0, labels_at)
            if self.bf16:
                hidden = hidden.to(torch.bfloat16)
            return linear_cross_entropy(
                hidden, self.model.head_weight, targets, chunk=self.config.loss_chunk_tokens, fused=self.fused
            )

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def apply_update(self) -> None:
        """Clip by the norm that was just reported, then AdamW at this step's learning rate."""
        if self.config.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.grad_clip, self._norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._saved_as = None

    def discard_update(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def shrink(self) -> dict[str, Any] | None:
        """Halve the largest forward pass. The batch, its order and its loss stay what they are."""
        if self._measuring:
            if self.eval_tokens <= self.config.max_length:
                return None
            self.eval_tokens = max(self.config.max_length, self.eval_tokens // 2)
            return {"eval_batch_tokens": self.eval_tokens}
        layout = self.layout.halved(getattr(self, "_largest", 1), getattr(self, "_largest_tokens", 1))
        if layout is None:
            return None
        before, self.layout = self._largest, layout
        self._largest = layout.rows or before
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return {"micro_batch_before": before, "micro_batch": layout.rows, "batch_size": self.config.batch_size}

    # Measure

    def evaluate(self) -> Measured:
        """Validation loss over the fixed split and exact match on every evaluation set, in float32 without dropout."""
        self.model.module.eval()
        self._measuring = True
        try:
            records = []
            if len(self.data.validation):
                records.append(
                    evaluate.validation_loss(self.model, self.data.validation, self.eval_tokens, self.tokenizer.pad)
                )
            for info, prepared in self.sets:
                records.append(
                    evaluate.exact_match(
                        self.model,
                        info,
                        prepared,
                        tokenizer=self.tokenizer,
                        profile=self.profile,
                        tokens=self.eval_tokens,
                    )
                )
        finally:
            self.model.module.train()
        self._measuring = False
        return Measured(tuple(records), _score(records))

    # Save

    def save(self, folder: Path) -> dict[str, Any]:
        """Model, tokenizer and optimizer files. The schedule is a function of the step and needs none."""
        save_model(self.model, folder)
        for name, data in self.tokenizer.files.items():
            (folder / name).write_bytes(data)
        steps = save_optimizer(self.optimizer, self.named, folder)
        return {
            "optimizer_steps": steps,
            "layout": vars(self.layout),
            "eval_tokens": self.eval_tokens,
            "schedule": {"name": self.config.schedule, "max_steps": self.max_steps},
        }

    def card(self, cursor: int) -> dict[str, Any]:
        return {
            "epoch": self.plan.epoch_at(cursor),
            "base_model": self.job.model_dir,
            "adapter": self.config.lora.model_dump() if self.config.lora else None,
            "adapter_base": str(self.model.base_dir) if self.config.lora else None,
            "profile": self.config.profile,
            "fingerprint": fingerprint(self.model, self.tokenizer),
            "packages": _packages(),
        }

    def saved(self, manifest_sha256: str) -> None:
        self._saved_as = manifest_sha256

    def export(self, folder: Path) -> None:
        """Write a whole model with its tokenizer, adapters merged in."""
        export_merged(self.model, folder)
        for name, data in self.tokenizer.files.items():
            (folder / name).write_bytes(data)

    def close(self) -> None:
        """Leave the model for the next run if a checkpoint holds exactly it; put torch's settings back."""
        if getattr(self, "_saved_as", None) is not None:
            assert self._saved_as is not None
            self.discard_update()
            WARM.keep(WarmModel(self._saved_as, self.model, dict(self.optimizer.state), str(self.device)))
        if hasattr(self, "_before"):
            threads, deterministic, fill = self._before
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def _score(records: list[dict[str, Any]]) -> Score | None:
    """Held-out exact match where there is one, else known exact match, else validation loss."""
    for split in ("heldout", "known"):
        sets = [r for r in records if r["kind"] == "evaluation" and r["split"] == split]
        total = sum(r["total"] for r in sets)
        if total:
            return Score(f"accuracy_{split}", sum(r["correct"] for r in sets) / total)
    losses = [r["val_loss"] for r in records if r["kind"] == "validation"]
    return Score("val_loss", losses[0], higher_is_better=False) if losses else None


@functools.cache
def _packages() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "safetensors")}


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
