"""Supervised fine-tuning of causal language models, whole or through adapters.

Light parts (`config`, `chat`, `profiles`, `preview`) import neither torch nor transformers; `SftTrainer` is loaded
when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arena.trainers.sft.trainer import SftTrainer

__all__ = ["SftTrainer"]


def __getattr__(name: str) -> Any:
    if name == "SftTrainer":
        from arena.trainers.sft.trainer import SftTrainer

        return SftTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def warm_up() -> None:
    """Pay for imports while there is nothing to do: the first optimizer step of a process alone takes over 0.5 s."""
    import torch
    import transformers.models.qwen3.modeling_qwen3

    from arena.trainers.sft import trainer

    del trainer
    with torch.random.fork_rng(devices=[]):
        config = transformers.Qwen3Config(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=8,
        )
        model = transformers.models.qwen3.modeling_qwen3.Qwen3ForCausalLM(config)
        model(input_ids=torch.zeros((1, 2), dtype=torch.int64), use_cache=False).logits.sum().backward()
        torch.optim.AdamW(model.parameters(), fused=True).step()
