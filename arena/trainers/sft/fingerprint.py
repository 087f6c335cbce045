"""The logit fingerprint: what a model says to a fixed prompt, recorded when it is saved.

Whoever serves a checkpoint computes it again and compares: serving stacks are known to answer with the base model
when an adapter does not match. It tells weights apart, it does not prove equality: float32 logits of the last position
at 32 places of the vocabulary, rounded to six decimals, and the most likely token.
"""

from __future__ import annotations

from typing import Any

import torch

from arena.trainers.sft.chat import ChatTokenizer
from arena.trainers.sft.loss import linear_argmax
from arena.trainers.sft.model import LanguageModel

PROMPT = [{"role": "user", "content": "Who are you?"}]
_PLACES = 32


@torch.no_grad()
def fingerprint(model: LanguageModel, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """Return the fingerprint of a model in memory: {ids, places, logits, top, dtype}."""
    ids = tokenizer.encode_prompt(PROMPT)
    weight = model.head_weight
    was_training = model.module.training
    model.module.eval()
    try:
        hidden = model.hidden(torch.tensor([ids], device=weight.device), None)[-1:]
    finally:
        model.module.train(was_training)
    places = _places(weight.shape[0])
    logits = torch.nn.functional.linear(hidden, weight[places].to(hidden.dtype)).float()[0]
    return {
        "ids": ids,
        "places": places,
        "logits": [round(value, 6) for value in logits.tolist()],
        "top": int(linear_argmax(hidden, weight)[0]),
        "dtype": str(hidden.dtype).removeprefix("torch."),
    }


def matches(recorded: dict[str, Any], logits: torch.Tensor, *, tolerance: float = 1e-3) -> bool:
    """Tell whether logits of the last position of `recorded["ids"]`, [V], are those of the recorded model.

    `tolerance` is absolute; another dtype, another device or another kernel moves logits by a little.
    """
    values = logits.float()[torch.tensor(recorded["places"], device=logits.device)].cpu()
    return bool((values - torch.tensor(recorded["logits"])).abs().max() <= tolerance)


def _places(vocabulary: int) -> list[int]:
    step = max(1, vocabulary // _PLACES)
    return list(range(0, vocabulary, step))[:_PLACES]
