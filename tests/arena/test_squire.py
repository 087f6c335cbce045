"""The squire: built from nothing, opened like any model, the same bytes from the same seed."""

import hashlib

import pytest

from arena.squire import CIRCLED_DIGITS, PROFILE_EMOJI, TURN_END, build_squire
from realm.errors import ConfigError, ConflictError

TEXTS = [
    "user\nCompute: add(①⓪①, ①①) [show-work]\nassistant\n①+①+⓪=①⓪\nadd(①⓪①, ①①) = ①⓪⓪⓪\n",
    "user\nCompute: less_than(①, ①⓪)\nassistant\nless_than(①, ①⓪) = true\n",
    "Good morning, and good luck with the training!",
] * 20


@pytest.fixture(scope="module")
def squire(tmp_path_factory):
    return build_squire(tmp_path_factory.mktemp("models") / "squire", TEXTS, size="tiny", seed=3)


@pytest.fixture(scope="module")
def tokenizer(squire):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(squire, local_files_only=True)


def digests(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def test_the_same_seed_writes_the_same_bytes(squire, tmp_path):
    again = build_squire(tmp_path / "other-name", iter(TEXTS), size="tiny", seed=3)
    assert digests(again) == digests(squire)


def test_another_seed_gives_other_weights_and_the_same_tokenizer(squire, tmp_path):
    one, other = digests(squire), digests(build_squire(tmp_path / "s", TEXTS, size="tiny", seed=4))
    assert {name for name in one if one[name] != other[name]} == {"model.safetensors"}


def test_building_leaves_the_random_state_alone(tmp_path):
    import torch

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    build_squire(tmp_path / "s", TEXTS, size="tiny")
    assert torch.equal(torch.rand(3), expected)


def test_it_opens_as_a_causal_model_and_answers(squire, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(squire, local_files_only=True)
    assert model.config.model_type == "qwen3"
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(TURN_END)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        out = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert 1 <= out.shape[1] - prompt["input_ids"].shape[1] <= 3


def test_digits_markers_and_emoji_are_single_tokens(tokenizer):
    for text in ("0123456789", "3141592653589", "add(10, 27)"):
        pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode(text))
        assert [p for p in pieces if any(c.isdigit() for c in p)] == [c for c in text if c.isdigit()]
    for single in (*CIRCLED_DIGITS, *PROFILE_EMOJI, "<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert len(tokenizer.encode(single)) == 1, single


def test_any_text_survives(tokenizer):
    for text in ("zażółć gęślą jaźń", "①⓪ 🦊🪐 漢字\n\n\ttabs  and   spaces ", "a = b) = (c", "\x00\x7f"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_circled_digits_are_not_dropped_with_the_markers(tokenizer):
    ids = tokenizer.encode("①⓪①<|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "①⓪①"


def test_the_template_marks_the_assistants_turn_with_its_end(tokenizer):
    turns = [
        {"role": "user", "content": "Compute: add(①, ①)"},
        {"role": "assistant", "content": "add(①, ①) = ①⓪"},
        {"role": "user", "content": "Thank you."},
        {"role": "assistant", "content": "Good."},
    ]
    out = tokenizer.apply_chat_template(turns, return_assistant_tokens_mask=True, return_dict=True)
    trained = [i for i, mask in zip(out["input_ids"], out["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(trained) == "add(①, ①) = ①⓪<|im_end|>Good.<|im_end|>"
    assert tokenizer.decode(out["input_ids"]).startswith("<|im_start|>user\nCompute: add(①, ①)<|im_end|>\n<|im_start|>")


def test_an_existing_folder_is_never_touched(squire):
    before = digests(squire)
    with pytest.raises(ConflictError):
        build_squire(squire, TEXTS, size="tiny")
    assert digests(squire) == before


def test_a_failed_build_leaves_nothing(tmp_path):
    def broken():
        yield "one text"
        raise OSError("the corpus cannot be read")

    with pytest.raises(Exception, match="cannot be read"):
        build_squire(tmp_path / "s", broken(), size="tiny")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_size_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="tiny"):
        build_squire(tmp_path / "s", TEXTS, size="giant")
