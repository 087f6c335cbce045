"""Previews: the trainer's own mask where there is a tokenizer, words where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from realm.wiring import Realm
from tests.tavern.conftest import World, problem_of
from tests.tavern.test_pages import outline
from vault.records import NewJob

tokenizers = pytest.importorskip("tokenizers")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ROW = {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "two"}]}


def make_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user assistant"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE})
    )


@pytest.fixture
def job(realm: Realm) -> Any:
    """A first job of a hero whose base model is not there yet."""
    realm.vault.ledger.ensure_hero(
        "dio", name="DIO", trainer="sft", model="squire", model_dir="models/squire", config={}
    )
    return realm.vault.jobs.submit(NewJob("dio", "sft", "first.jsonl", "first", rows=1, report={"examples": [ROW]}))[0]


def test_before_the_tokenizer_is_there_the_answer_says_so(owner: TestClient, job: Any) -> None:
    reply = owner.get(f"/api/v1/jobs/{job.id}/preview")
    assert reply.status_code == 409
    assert problem_of(reply)["code"] == "no_tokenizer"
    assert "has no tokenizer yet" in outline(owner, f"/quests/{job.id}").text


def test_the_first_job_has_a_preview_once_the_tokenizer_is_there(owner: TestClient, realm: Realm, job: Any) -> None:
    make_tokenizer(realm.paths.models / "squire")
    (row,) = owner.get(f"/api/v1/jobs/{job.id}/preview").json()["preview"]
    assert row == [
        ["<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n", False],
        ["two<|im_end|>", True],
        ["\n", False],
    ]
    assert "What is trained" in outline(owner, f"/quests/{job.id}").text


def test_a_job_that_kept_no_example_has_none(owner: TestClient, world: World) -> None:
    reply = owner.get(f"/api/v1/jobs/{world.waiting}/preview")
    assert reply.status_code == 404
    assert problem_of(reply)["code"] == "preview_not_found"
    assert "What is trained" not in outline(owner, f"/quests/{world.waiting}").text


@pytest.mark.parametrize("text", ["", "{}", "[" * 20_000, '{"version": "1.0"}', "\udcff"])
def test_a_broken_tokenizer_is_told_without_its_place(owner: TestClient, realm: Realm, job: Any, text: str) -> None:
    folder = realm.paths.models / "squire"
    make_tokenizer(folder)
    (folder / "tokenizer.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    reply = owner.get(f"/api/v1/jobs/{job.id}/preview")
    assert reply.status_code == 409
    assert problem_of(reply)["code"] == "preview_failed"
    assert str(realm.paths.home) not in reply.text
    assert "What is trained" in outline(owner, f"/quests/{job.id}").text
