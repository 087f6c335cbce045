"""Measurements: teacher forcing equals greedy generation; counts by tag; what was wrong; the validation loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from arena.loop import run_training
from arena.rundir import RunDir
from arena.trainers.sft import SftTrainer
from arena.trainers.sft.warm import WARM
from realm.errors import CorruptFileError
from tests.arena.training_kit import addition_rows, make_run, records
from vault import manifest as manifests

CONFIG: dict[str, Any] = {
    "device": "cpu",
    "max_steps": 220,
    "batch_size": 16,
    "learning_rate": 8e-3,
    "max_length": 64,
    "warmup_steps": 10,
    "save_every_s": None,
    "validation_fraction": 0.1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, squire_dir: Path) -> RunDir:
    """A tiny squire that knows some sums and not others."""
    run_dir, job = make_run(
        tmp_path_factory.mktemp("trained") / "r",
        model_dir=squire_dir,
        trainer="sft",
        rows=addition_rows(300, bits=2),
        evaluation=[*addition_rows(40, seed=1, bits=2), *addition_rows(30, seed=2, bits=4)],
        **CONFIG,
    )
    outcome = run_training(SftTrainer(), run_dir, job)
    assert outcome.status == "completed", outcome.error
    return run_dir


def test_teacher_forcing_is_greedy_generation(trained: RunDir, squire_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (record,) = records(trained, "evaluation")
    outcome = trained.outcome()
    assert outcome is not None
    folder = trained.path / str(outcome.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    problems = [*addition_rows(40, seed=1, bits=2), *addition_rows(30, seed=2, bits=4)]
    right, wrong_prompts = 0, []
    for row in problems:
        ids = tokenizer.apply_chat_template(
            row["messages"][:1], tokenize=True, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        with torch.no_grad():
            out = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0)
        said = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=False)
        if said.startswith(row["messages"][1]["content"] + "<|im_end|>"):
            right += 1
        else:
            wrong_prompts.append(row["messages"][0]["content"])
    assert record["total"] == len(problems)
    assert record["correct"] == right
    assert 5 < right < 65  # otherwise this test shows little
    assert [w["prompt"] for w in record["wrong"]] == wrong_prompts[:20]


def test_counts_are_told_by_tag_and_wrong_answers_with_what_was_said(trained: RunDir) -> None:
    (record,) = records(trained, "evaluation")
    assert set(record["by_tag"]) == {"easy", "hard"}
    assert sum(entry["correct"] for entry in record["by_tag"].values()) == record["correct"]
    assert sum(entry["total"] for entry in record["by_tag"].values()) == record["total"]
    assert 0 < len(record["wrong"]) <= 20
    for wrong in record["wrong"]:
        assert wrong.keys() == {"prompt", "expected", "got"}
        assert "<|im_end|>" not in wrong["got"]
    assert (record["name"], record["skill"], record["level"], record["split"]) == ("add/L1/known", "add", 1, "known")


def test_the_card_of_the_checkpoint_tells_the_measurements(trained: RunDir) -> None:
    outcome = trained.outcome()
    assert outcome is not None
    card = manifests.read_manifest(trained.path / str(outcome.checkpoint)).card
    (validation,) = records(trained, "validation")
    (record,) = records(trained, "evaluation")
    assert card["val_loss"] == validation["val_loss"]
    assert card["accuracy"] == record["correct"] / record["total"]
    assert card["evaluations"][0]["correct"] == record["correct"]


def test_the_validation_loss_is_the_mean_over_held_out_answer_tokens(trained: RunDir, squire_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    (record,) = records(trained, "validation")
    outcome = trained.outcome()
    assert outcome is not None
    model = AutoModelForCausalLM.from_pretrained(trained.path / str(outcome.checkpoint), local_files_only=True).eval()
    from arena.trainers.sft.chat import ChatTokenizer
    from arena.trainers.sft.data import load_dataset
    from arena.trainers.sft.profiles import get_profile

    data = load_dataset(
        [(trained.path / "data/train.jsonl", "any")],
        ChatTokenizer(squire_dir),
        get_profile("plain_sft"),
        max_length=64,
        validation_fraction=0.1,
        cache=None,
    ).validation
    assert len(data) > 5
    total, count = 0.0, 0
    for index in range(len(data)):
        ids, mask = data.row(index)
        tokens = torch.tensor(ids.tolist())[None]
        labels = torch.where(torch.tensor(mask.tolist())[None] == 1, tokens, -100)
        kept = int((labels != -100).sum())
        with torch.no_grad():
            total += model(input_ids=tokens, labels=labels).loss.item() * kept
        count += kept
    assert record["tokens"] == count
    assert record["val_loss"] == pytest.approx(total / count, rel=1e-4)


def test_a_broken_set_names_its_file(tmp_path: Path, squire_dir: Path) -> None:
    from arena.trainers.sft import evaluate
    from arena.trainers.sft.profiles import get_profile

    path = tmp_path / "bad.jsonl"
    path.write_text('{"messages": []}\n')
    with pytest.raises(CorruptFileError, match=r"bad\.jsonl"):
        evaluate.prepare(path, WARM.tokenizer(squire_dir), get_profile("plain_sft"))
