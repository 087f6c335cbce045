"""Token counts and previews: what they show is what the trainer masks, and ChatML says which tokens these are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arena.gatekeepers import Depth, Lengths, Policy, inspect_file, preview, preview_rows
from realm.errors import RealmError

chat_module = pytest.importorskip("arena.trainers.sft.chat")
tokenizers = pytest.importorskip("tokenizers")

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ROW = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "assistant\nWhat is ①⓪ + ①?"},
        {"role": "assistant", "content": "①① 🙂"},
        {"role": "user", "content": "And again?"},
        {"role": "assistant", "content": "The same."},
    ]
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with ChatML markers, as a model folder has it."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what is the same", "assistant\nuser\nsystem\n"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE})
    )
    return folder


def chatml_pieces(row: dict[str, Any]) -> list[tuple[str, bool]]:
    """The rule, written down a second time: only what the assistant says and the end of its turn is trained."""
    pieces: list[tuple[str, bool]] = []
    for message in row["messages"]:
        trained = message["role"] == "assistant"
        pieces.append((f"<|im_start|>{message['role']}\n", False))
        pieces.append((message["content"] + "<|im_end|>", trained))
        pieces.append(("\n", False))
    return pieces


def spans(pieces: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    joined: list[tuple[str, bool]] = []
    for text, trained in pieces:
        if joined and joined[-1][1] == trained:
            joined[-1] = (joined[-1][0] + text, trained)
        elif text:
            joined.append((text, trained))
    return joined


def test_the_preview_trains_exactly_what_chatml_says(model_dir: Path) -> None:
    assert spans(preview(ROW, model_dir)) == spans(chatml_pieces(ROW))


def test_the_preview_is_the_trainers_mask(model_dir: Path) -> None:
    tokenizer = chat_module.ChatTokenizer(model_dir)
    ids, mask = tokenizer.encode([ROW]).row(0)
    shown = preview(ROW, model_dir)
    assert [trained for _, trained in shown] == [bool(flag) for flag in mask]
    assert len(shown) == len(ids)


def test_previews_are_limited(model_dir: Path) -> None:
    assert len(preview_rows([ROW] * 9, model_dir)) == 3


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RealmError):
        preview(ROW, tmp_path)


def _inspect(tmp_path: Path, rows: list[dict[str, Any]], policy: Policy) -> Any:
    path = tmp_path / f"a{len(list(tmp_path.iterdir()))}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return inspect_file(path, "a.jsonl", path.with_suffix(".rows"), path.with_suffix(".bad"), policy).report


def test_tokens_are_counted_exactly_or_estimated(tmp_path: Path, model_dir: Path) -> None:
    rows = [ROW] * 3000
    tokens = len(preview(ROW, model_dir))
    trained = sum(flag for _, flag in preview(ROW, model_dir))
    deep = _inspect(tmp_path, rows, Policy(depth=Depth.DEEP, tokenizer_dir=model_dir))
    assert (deep.tokens, deep.tokens_exact, deep.longest_tokens) == (3000 * tokens, True, tokens)
    assert deep.supervised_share == round(trained / tokens, 4)
    assert deep.supervised_by == "tokens"
    standard = _inspect(tmp_path, rows, Policy(tokenizer_dir=model_dir))
    assert (standard.tokens, standard.tokens_exact) == (3000 * tokens, False)


def test_deep_turns_down_what_the_run_would(tmp_path: Path, model_dir: Path) -> None:
    long = {"messages": [ROW["messages"][1], {"role": "assistant", "content": "x y " * 500}]}
    rows = [ROW] * 40 + [long]
    deep = _inspect(tmp_path, rows, Policy(depth=Depth.DEEP, tokenizer_dir=model_dir, max_tokens=200))
    assert deep.reasons == {"too_long": 1}
    assert deep.rejected[0].line == 41
    standard = _inspect(tmp_path, rows, Policy(tokenizer_dir=model_dir, max_tokens=200))
    assert (standard.reasons, standard.rows_too_long) == ({}, 1)


def test_the_memory_estimate_gets_the_lengths(tmp_path: Path, model_dir: Path) -> None:
    asked: list[Lengths] = []

    def estimate(lengths: Lengths) -> dict[str, Any]:
        asked.append(lengths)
        return {"peak_bytes": 10**9}

    report = _inspect(tmp_path, [ROW] * 5, Policy(tokenizer_dir=model_dir, estimate_memory=estimate))
    tokens = len(preview(ROW, model_dir))
    assert asked == [Lengths(5, tokens, float(tokens), True)]
    assert report.memory == {"peak_bytes": 10**9}


def test_a_missing_tokenizer_is_a_warning_not_a_refusal(tmp_path: Path) -> None:
    report = _inspect(tmp_path, [ROW], Policy(tokenizer_dir=tmp_path / "none"))
    assert report.accepted
    assert any("Tokens were not counted" in warning for warning in report.warnings)


def test_the_intake_imports_no_training_library() -> None:
    code = (
        "import sys, arena.formats, arena.gatekeepers, arena.intake;"
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
