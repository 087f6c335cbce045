"""The causal language model of a run: loaded from files, whole or with adapters, and written back.

Nothing of a model folder is executed: configs are read through an allow-list (no `auto_map`, no `_`-keys), weights are
safetensors, `trust_remote_code` is off, the hub is never asked. What is written opens with
`AutoModelForCausalLM.from_pretrained(folder)` as it stands; for adapters that goes through PEFT's integration, and the
base model's folder is named in adapter_config.json.

Weights that train are float32; on a GPU the frozen base of a LoRA run is bfloat16.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from arena.trainers.sft.config import LoraConfig, SftConfig
from realm.errors import ConfigError, CorruptFileError, NotFoundError
from vault.manifest import read_manifest

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_MASK_BY_DICT = frozenset({"qwen2", "qwen3"})
"""Architectures that take ready masks by layer type, so that plain causal batches build none."""
_PLAIN_HEAD = frozenset({"qwen2", "qwen3", "llama", "mistral", "smollm3", "olmo2", "gpt_neox", "phi3"})
"""Architectures whose logits are the head's product and nothing else (no scaling, no soft cap)."""


@dataclass
class LanguageModel:
    """A transformers model and what the trainer needs to know of it."""

    module: Any
    """The transformers model; with adapters injected in place when `lora` is set."""
    base_dir: Path
    """Folder of the weights that the adapters stand on, or that training began with."""
    lora: LoraConfig | None

    @property
    def backbone(self) -> nn.Module:
        """The part before the output head."""
        return self.module.get_decoder() if hasattr(self.module, "get_decoder") else self.module.model

    @property
    def head_weight(self) -> Tensor:
        """Weight of the output head, [V, H]."""
        return self.module.get_output_embeddings().weight

    @property
    def named(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def hidden(self, input_ids_BT: Tensor, position_ids_BT: Tensor | None, *, compiled: bool = False) -> Tensor:
        """Return the last hidden states flattened to [B * T, H].

        Without positions the rows are plain and padded on the right: a causal model never looks at padding behind a
        token, so no mask is needed. With positions each restart begins a segment that attends to itself alone.
        """
        mask: Any = None
        if position_ids_BT is None and self._takes_mask_dict:
            mask = {"full_attention": None}
        call = self._compiled if compiled and self._compiled is not None else self.backbone
        out = call(input_ids=input_ids_BT, attention_mask=mask, position_ids=position_ids_BT, use_cache=False)
        return out.last_hidden_state.flatten(0, 1)

    _compiled: Any = None
    """The backbone compiled, when that was asked for."""
    _takes_mask_dict: bool = False
    _recomputes: bool = False
    """Whether activation checkpointing is on."""

    def prepare(self, config: SftConfig) -> None:
        """Set what belongs to a run and not to the weights: attention kernel, checkpointing, compilation."""
        model = self.module
        kind = model.config.model_type
        if kind not in _PLAIN_HEAD:
            raise ConfigError(
                f"The sft trainer does not know how {kind} models make their logits.",
                hint=f"Known: {', '.join(sorted(_PLAIN_HEAD))}.",
            )
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            raise ConfigError(f"The output head of this {kind} model has a bias, which the chunked loss does not know.")
        if model.config._attn_implementation != config.attention:
            model.set_attn_implementation(config.attention)
        if config.gradient_checkpointing and not self._recomputes:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            if self.lora is not None:
                model.enable_input_require_grads()
        elif self._recomputes and not config.gradient_checkpointing:
            model.activation_checkpointing_disable()
        self._recomputes = config.gradient_checkpointing
        layer_types = getattr(model.config, "layer_types", None) or ["full_attention"]
        self._takes_mask_dict = (
            kind in _MASK_BY_DICT
            and set(layer_types) == {"full_attention"}
            and config.attention in ("sdpa", "flash_attention_2")  # these are causal by a flag, others need the mask
        )
        self._compiled = (self._compiled or torch.compile(self.backbone)) if config.compile else None


def load_model(model_dir: Path, parent: Path | None, config: SftConfig, device: torch.device) -> LanguageModel:
    """Return the model as a run begins.

    A parent with adapters gives its adapters (or, for a whole-model run, weights with them merged in); a whole parent
    gives its weights.
    """
    parent_has_adapter = parent is not None and (parent / ADAPTER_CONFIG).is_file()
    source = model_dir
    if parent is not None:
        source = adapter_base(parent, model_dir) if parent_has_adapter else parent
    weights_dtype = torch.bfloat16 if config.lora is not None and device.type == "cuda" else torch.float32
    module = _from_folder(source, weights_dtype, config.attention).to(device)
    if parent_has_adapter:
        assert parent is not None
        stored = read_adapter_config(parent)
        wanted = config.lora or stored
        if (wanted.r, wanted.alpha) != (stored.r, stored.alpha):
            raise _other_shape(f"r {wanted.r}, alpha {wanted.alpha}", f"r {stored.r}, alpha {stored.alpha}", parent)
        _add_adapter(module, wanted)
        try:
            load_adapter(module, parent)
        except CorruptFileError:
            raise _other_shape(str(wanted.target_modules), str(stored.target_modules), parent) from None
        if config.lora is None:
            module = _merged(module)
    elif config.lora is not None:
        _add_adapter(module, config.lora)
    if config.lora is not None:
        for parameter in (p for p in module.parameters() if p.requires_grad):
            parameter.data = parameter.data.float()
    else:
        module.requires_grad_(True)
    model = LanguageModel(module, source, config.lora)
    model.prepare(config)
    return model


def save_model(model: LanguageModel, folder: Path) -> None:
    """Write weights and configs in the layout of transformers."""
    model.module.save_pretrained(folder)
    if model.lora is not None:
        path = folder / ADAPTER_CONFIG
        value = json.loads(path.read_text())
        value["base_model_name_or_path"] = str(model.base_dir)
        value["target_modules"] = sorted(value["target_modules"])  # a set has no order of its own
        path.write_text(json.dumps(value, indent=2, sort_keys=True))


def restore_weights(model: LanguageModel, folder: Path) -> None:
    """Put the weights of a checkpoint of the same shape into the model. Raises CorruptFileError."""
    if model.lora is not None:
        load_adapter(model.module, folder)
        return
    stored = load_file(folder / "model.safetensors")
    missing, unexpected = model.module.load_state_dict(stored, strict=False)
    tied = set(getattr(model.module, "_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied:
        raise CorruptFileError(f"{folder.name} holds weights of another shape: {sorted({*missing, *unexpected})[:4]}.")


def export_merged(model: LanguageModel, folder: Path) -> None:
    """Write the model alone, adapters merged into the weights; the model in memory stays as it is."""
    if model.lora is None:
        model.module.save_pretrained(folder)
        return
    import copy

    _merged(copy.deepcopy(model.module)).save_pretrained(folder)


def read_model_config(folder: Path) -> Any:
    """Return the transformers config of a folder, holding only fields that its class declares.

    `auto_map`, keys that begin with `_` and everything unknown are dropped: a config can name no code.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        raw = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise NotFoundError(f"{folder} has no config.json.", hint="A model folder is needed.") from None
    except ValueError as error:
        raise CorruptFileError(f"{folder}/config.json is not JSON: {error}.") from error
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ConfigError(f"{folder} holds a model of type {kind!r}, which transformers does not know by itself.")
    config_class = CONFIG_MAPPING[kind]
    known = set(config_class().to_dict()) - {"auto_map", "model_type", "transformers_version", "quantization_config"}
    kept = {key: value for key, value in raw.items() if key in known and not key.startswith("_")}
    return config_class(**kept)


def read_adapter_config(folder: Path) -> LoraConfig:
    """Return the shape of the adapters in a checkpoint; nothing else of the file is used."""
    raw = json.loads((folder / ADAPTER_CONFIG).read_text())
    if raw.get("peft_type") != "LORA":
        raise ConfigError(f"{folder.name} has adapters of type {raw.get('peft_type')!r}, not LORA.")
    return LoraConfig(
        r=int(raw["r"]),
        alpha=float(raw["lora_alpha"]),
        dropout=float(raw.get("lora_dropout", 0.0)),
        target_modules=sorted(map(str, raw["target_modules"])),
    )


def _other_shape(asked: str, stored: str, parent: Path) -> ConfigError:
    return ConfigError(
        f"lora asks for {asked}, but the adapters of {parent.name} have {stored}.",
        hint="Adapters keep their shape from run to run; start from a merged model for another one.",
    )


def adapter_base(checkpoint: Path, model_dir: Path) -> Path:
    """Return the folder of the weights that a checkpoint's adapters stand on: the model, or an earlier checkpoint.

    Adapters that were begun on a whole checkpoint mean nothing on another model. Raises ConfigError when it is gone.
    """
    named = read_manifest(checkpoint).card.get("adapter_base")
    base = Path(named) if named else model_dir
    if not base.is_dir():
        raise ConfigError(
            f"The adapters of {checkpoint.name} stand on {base}, which does not exist.",
            hint="Bring that model or checkpoint back; adapters cannot be moved to another one.",
        )
    return base


def load_adapter(module: Any, folder: Path) -> int:
    """Put a checkpoint's adapter tensors into the model's; return how many. Raises CorruptFileError."""
    stored = load_file(folder / ADAPTER_WEIGHTS)
    own = {name: p for name, p in module.named_parameters() if ".lora_" in name}
    wanted = {f"base_model.model.{name.replace('.default.weight', '.weight')}": p for name, p in own.items()}
    if wanted.keys() != stored.keys() or any(stored[key].shape != p.shape for key, p in wanted.items()):
        raise CorruptFileError(f"{folder.name} holds adapters of another shape than the model's.")
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(stored[key])
    return len(wanted)


def _from_folder(folder: Path, dtype: torch.dtype, attention: str) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not any(folder.glob("*.safetensors")):
        raise NotFoundError(f"{folder} has no safetensors weights.", hint="Pickled weights are never loaded.")
    return AutoModelForCausalLM.from_pretrained(
        folder,
        config=read_model_config(folder),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=dtype,
        attn_implementation=attention,
    )


def _add_adapter(module: Any, lora: LoraConfig) -> None:
    """Inject adapters in place through the PEFT integration of transformers; everything else is frozen."""
    from peft import LoraConfig as PeftLoraConfig

    alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    module.requires_grad_(False)
    module.add_adapter(
        PeftLoraConfig(
            r=lora.r,
            lora_alpha=alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
        )
    )


def _merged(module: Any) -> Any:
    """Fold the adapters into the weights of `module` and return the plain model."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, layer.get_base_layer())
    module._hf_peft_config_loaded = False
    if hasattr(module, "peft_config"):
        del module.peft_config
    return module
