"""The squire: a small Qwen3 and its tokenizer, built here from nothing.

Where there is neither a GPU nor a network, a hero still needs a model. `build_squire` trains a
byte-level BPE tokenizer on the texts that it is given, initialises a Qwen3 at random from a seed
and writes both as one ordinary model folder, which `AutoTokenizer.from_pretrained` and
`AutoModelForCausalLM.from_pretrained` open as it stands, offline.

What the tokenizer guarantees: every ASCII digit is a token of its own (arithmetic is not at the
mercy of merges), the circled digits, the ChatML markers and the thinking and stop emoji are single
tokens, and any text survives encode and decode. The chat template marks the assistant's turn and its
end marker with `{% generation %}`, so the loss mask comes from the template and nowhere else.

Invariant: the same texts, size and seed write the same bytes (tests/arena/test_squire.py). The
folder is complete or absent: it is written beside its place and renamed into it.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm.errors import ConfigError, ConflictError
from realm.files import durable_write, fsync_dir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHATML_TOKENS = (PAD, TURN_START, TURN_END)
"""Ids 0, 1 and 2, in this order; 2 ends a turn and is the model's end-of-sequence."""

CIRCLED_DIGITS = ("⓪", "①", "②", "③", "④", "⑤", "⑥", "⑦", "⑧", "⑨")
PROFILE_EMOJI = ("🤔", "💭", "🧠", "💡", "🛑", "⛔", "🚫", "✋")
"""Emoji that training profiles put around an answer."""

CHAT_TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' }}"
    "{%- if m['role'] == 'assistant' %}"
    "{% generation %}{{- m['content'] + '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- m['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# A word takes the one space before it, a digit stands alone, and whatever is between stays together
# up to the next of those, so that glue such as `) = ` can become a single token.
_PIECES = r" ?\p{L}+|\p{N}|[^\p{L}\p{N}]+?(?=\p{N}| ?\p{L}|$)"


@dataclass(frozen=True)
class SquireSize:
    """Shape of a squire. The vocabulary is an upper bound: a small corpus yields fewer merges."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int = 1024
    max_positions: int = 1024
    rope_theta: float = 10_000.0
    initializer_range: float = 0.02


SIZES = {
    "tiny": SquireSize(32, 1, 2, 1, 16, 64, vocab_size=512),
    "squire": SquireSize(128, 2, 4, 2, 32, 384),
}
"""`tiny` is for tests of the machinery; `squire` learns (experiments/bin_formats)."""


def build_squire(out_dir: Path, corpus: Iterable[str], *, size: str = "squire", seed: int = 0) -> Path:
    """Write a new model folder at `out_dir` and return it.

    `corpus` is text for the tokenizer only; the weights are random. Raises ConflictError where the
    folder exists, ConfigError for an unknown size.
    """
    if size not in SIZES:
        raise ConfigError(f"There is no squire of size {size!r}.", hint=f"Sizes: {', '.join(sorted(SIZES))}.")
    if out_dir.exists():
        raise ConflictError(f"{out_dir} exists already.", hint="Give another folder, or remove this one first.")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out_dir.parent / f".tmp-{out_dir.name}-{uuid.uuid4().hex[:8]}"
    try:
        tokenizer = train_tokenizer(corpus, vocab_size=SIZES[size].vocab_size)
        model = new_model(len(tokenizer), SIZES[size], seed=seed)
        unfinished.mkdir()
        tokenizer.save_pretrained(unfinished)
        model.save_pretrained(unfinished, safe_serialization=True)
        for file in sorted(unfinished.iterdir()):
            durable_write(file, file.read_bytes())
        fsync_dir(unfinished)
        unfinished.rename(out_dir)
        fsync_dir(out_dir.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out_dir


def train_tokenizer(corpus: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with the ChatML template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    # Added before training, so that merges are learned on what is left between them.
    single = [AddedToken(t, normalized=False) for t in (*CIRCLED_DIGITS, *PROFILE_EMOJI)]
    raw.add_special_tokens(list(CHATML_TOKENS))
    raw.add_tokens(single)
    room = vocab_size - len(single)
    raw.train_from_iterator(
        _between_added_tokens(corpus),
        trainers.BpeTrainer(
            vocab_size=room,
            special_tokens=list(CHATML_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    raw.add_tokens(single)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=[TURN_START],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _between_added_tokens(corpus: Iterable[str]) -> Iterable[str]:
    """Yield the stretches of text that lie between single tokens, as the encoder will meet them."""
    import re

    cut = re.compile("|".join(map(re.escape, (*CHATML_TOKENS, *CIRCLED_DIGITS, *PROFILE_EMOJI))))
    for text in corpus:
        yield from (piece for piece in cut.split(text) if piece)


def new_model(vocab_size: int, size: SquireSize, *, seed: int) -> Qwen3ForCausalLM:
    """Return a Qwen3 with random weights, leaving the process's own random state as it was."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "num_key_value_heads": size.num_kv_heads,
        "head_dim": size.head_dim,
        "intermediate_size": size.intermediate_size,
        "max_position_embeddings": size.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_theta},
        "initializer_range": size.initializer_range,
        "tie_word_embeddings": True,
        "pad_token_id": CHATML_TOKENS.index(PAD),
        "eos_token_id": CHATML_TOKENS.index(TURN_END),
        "bos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**options))
