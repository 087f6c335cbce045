"""The sft trainer through the loop: packed equals separate, exact resumption, adapters, warm starts, memory, files."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from arena.loop import Hooks, run_training
from arena.rundir import Outcome, RunDir
from arena.trainers.contract import RunContext, Trainer
from arena.trainers.sft import SftTrainer
from arena.trainers.sft.chat import ChatTokenizer
from arena.trainers.sft.data import Layout, micro_batches
from arena.trainers.sft.fingerprint import matches
from arena.trainers.sft.model import read_model_config
from arena.trainers.sft.warm import WARM
from tests.arena.training_kit import addition_rows, assert_same_tensors, losses, make_run, records, tensors
from vault import manifest as manifests

ROWS = addition_rows(80)
CONFIG: dict[str, Any] = {
    "device": "cpu",
    "max_steps": 6,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "max_length": 64,
    "warmup_steps": 2,
    "save_every_steps": 2,
    "save_every_s": None,
}
LORA = {"r": 4, "alpha": 8, "dropout": 0.1}


def train(
    folder: Path, model_dir: Path, trainer: SftTrainer | None = None, hooks: Hooks | None = None, **options: Any
) -> tuple[RunDir, Outcome]:
    run_dir, job = make_run(folder, model_dir=model_dir, trainer="sft", **{"rows": ROWS, **CONFIG, **options})
    outcome = run_training(trainer or SftTrainer(), run_dir, job, hooks)
    assert outcome.status == "completed", outcome.error
    return run_dir, outcome


def built(folder: Path, model_dir: Path, **options: Any) -> SftTrainer:
    """A trainer that is ready for its first step, outside of the loop."""
    run_dir, job = make_run(folder, model_dir=model_dir, trainer="sft", **{"rows": ROWS, **CONFIG, **options})
    trainer = SftTrainer()
    trainer.build(RunContext(run_dir.path, job, lambda *_, **__: None, device="cpu"))
    return trainer


def final(run_dir: RunDir, outcome: Outcome) -> Path:
    assert outcome.checkpoint is not None
    return run_dir.path / outcome.checkpoint


def killed(run_dir: RunDir, job: Any, point: str, count: int) -> bool:
    """Run in a forked child that dies by SIGKILL the `count`-th time it passes `point`; tell whether it did."""
    pid = os.fork()
    if pid == 0:
        try:
            left = [count]

            def pass_by(reached: str) -> None:
                if reached == point:
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            class Dies(SftTrainer):
                def apply_update(self) -> None:
                    pass_by("step")
                    super().apply_update()

            run_training(Dies(), run_dir, job, Hooks(fault=pass_by))
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def test_it_is_a_trainer_and_writes_what_it_declares(tmp_path: Path, squire_dir: Path) -> None:
    trainer = SftTrainer()
    run_dir, _ = train(tmp_path / "r", squire_dir, trainer)
    assert isinstance(trainer, Trainer)
    step = records(run_dir, "step")[0]
    assert {"loss", "lr", "grad_norm", "tokens", "loss_tokens", "step_s", *trainer.declares.metrics} <= step.keys()
    assert 0 < step["loss_tokens"] < step["tokens"]


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
def test_packed_equals_separate(tmp_path: Path, squire_dir: Path, lora: Any) -> None:
    """Loss and every gradient of a packed batch equal those of its rows one at a time, to 1e-5."""
    trainer = built(tmp_path / "r", squire_dir, lora=lora, batch_size=24)
    results = {}
    for name, layout in {
        "separate": Layout(packing=False, rows=1, tokens=64),
        "padded": Layout(packing=False, rows=None, tokens=10_000),
        "packed": Layout(packing=True, rows=None, tokens=10_000, pad_to=8),
        "packed in three": Layout(packing=True, rows=None, tokens=240),
    }.items():
        trainer.layout = layout
        result = trainer.train_step(0, 0)
        results[name] = (result, {n: p.grad.clone() for n, p in trainer.named.items()})
        trainer.discard_update()
    trainer.close()
    reference, gradients = results.pop("separate")
    for name, (result, got) in results.items():
        assert result.loss == pytest.approx(reference.loss, abs=1e-5), name
        assert (result.loss_tokens, result.tokens, result.samples) == (
            reference.loss_tokens,
            reference.tokens,
            reference.samples,
        )
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(got[parameter], gradient, rtol=1e-4, atol=1e-5, msg=f"{name}: {parameter}")


def test_segments_of_a_packed_row_do_not_see_each_other(tmp_path: Path, squire_dir: Path) -> None:
    """Changing the first row of a pack moves nothing behind it; without positions it would."""
    trainer = built(tmp_path / "r", squire_dir)
    data = trainer.data.train
    rows = [0, 1, 2]
    (batch,) = micro_batches(data, torch.tensor(rows).numpy(), Layout(True, None, 999), trainer.tokenizer.pad)
    ids, positions = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.position_ids)
    first = int((positions[0] == 0).nonzero()[1])
    changed = ids.clone()
    changed[0, : first - 1] = 5
    with torch.no_grad():
        before, after = trainer.model.hidden(ids, positions), trainer.model.hidden(changed, positions)
        loose_before, loose_after = trainer.model.hidden(ids, None), trainer.model.hidden(changed, None)
    trainer.close()
    assert (before[first:] - after[first:]).abs().max() <= 1e-5
    assert (before[:first] - after[:first]).abs().max() > 1e-2
    assert (loose_before[first:] - loose_after[first:]).abs().max() > 1e-3


def test_the_mean_is_over_the_tokens_of_the_whole_step(tmp_path: Path, squire_dir: Path) -> None:
    trainer = built(tmp_path / "r", squire_dir)
    rows = trainer.plan.rows(0)
    total, count = 0.0, 0
    model = trainer.model.module
    with torch.no_grad():
        for row in rows:
            ids, mask = trainer.data.train.row(int(row))
            tokens = torch.tensor(ids.tolist())[None]
            labels = torch.where(torch.tensor(mask.tolist())[None] == 1, tokens, -100)
            kept = int((labels[:, 1:] != -100).sum())
            total += model(input_ids=tokens, labels=labels).loss.item() * kept
            count += kept
    result = trainer.train_step(0, 0)
    trainer.close()
    assert result.loss_tokens == count
    assert result.loss == pytest.approx(total / count, abs=1e-5)


def test_the_same_job_gives_the_same_bits(tmp_path: Path, squire_dir: Path) -> None:
    first = train(tmp_path / "a", squire_dir, lora=LORA)
    WARM.clear()
    second = train(tmp_path / "b", squire_dir, lora=LORA)
    assert losses(first[0]) == losses(second[0])
    assert_same_tensors(final(*first), final(*second))
    assert first[1].data_hash == second[1].data_hash


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize(("point", "count"), [("step", 4), ("before_rename", 2), ("after_manifest", 3)])
def test_resumption_after_a_kill_is_exact(tmp_path: Path, squire_dir: Path, lora: Any, point: str, count: int) -> None:
    straight = train(tmp_path / "straight", squire_dir, lora=lora, eval_every_steps=3, evaluation=ROWS[:10])
    WARM.clear()
    options = {**CONFIG, "lora": lora, "eval_every_steps": 3}
    run_dir, job = make_run(
        tmp_path / "killed", model_dir=squire_dir, trainer="sft", rows=ROWS, evaluation=ROWS[:10], **options
    )
    assert killed(run_dir, job, point, count)
    outcome = run_training(SftTrainer(), run_dir, job)
    assert outcome.status == "completed", outcome.error
    assert any(r["name"] == "resumed" for r in records(run_dir, "event")) or point == "step"
    assert losses(run_dir) == losses(straight[0])
    assert outcome.data_hash == straight[1].data_hash
    assert_same_tensors(final(run_dir, outcome), final(*straight))


def test_running_out_of_memory_keeps_the_batch_and_its_order(tmp_path: Path, squire_dir: Path) -> None:
    class Tight(SftTrainer):
        def _loss(self, batch: Any) -> Any:
            if batch.rows > 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory (fake)")
            return super()._loss(batch)

    roomy = train(tmp_path / "roomy", squire_dir)
    WARM.clear()
    tight = train(tmp_path / "tight", squire_dir, Tight())
    assert tight[1].data_hash == roomy[1].data_hash
    changes = [r for r in records(tight[0], "event") if r["name"] == "out_of_memory"]
    assert [(r["micro_batch_before"], r["micro_batch"]) for r in changes] == [(8, 4), (4, 2)]
    wanted, got = losses(roomy[0]), losses(tight[0])
    assert list(got.values()) == pytest.approx(list(wanted.values()), abs=1e-4)


def test_a_checkpoint_opens_in_transformers_as_it_stands(tmp_path: Path, squire_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name, lora in (("full", None), ("lora", {"r": 4, "alpha": 8})):
        WARM.clear()
        trainer = SftTrainer()
        run_dir, outcome = train(tmp_path / name, squire_dir, trainer, lora=lora)
        folder = final(run_dir, outcome)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        text = tokenizer.apply_chat_template(ROWS[0]["messages"][:1], tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        model.eval()
        kept = WARM.model
        assert kept is not None
        kept.model.module.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, kept.model.module(ids).logits, rtol=0, atol=1e-6)
            card = manifests.read_manifest(folder).card
            recorded = card["fingerprint"]
            logits = model(torch.tensor([recorded["ids"]])).logits[0, -1]
            assert matches(recorded, logits)
            base = AutoModelForCausalLM.from_pretrained(squire_dir, local_files_only=True).eval()
            assert not matches(recorded, base(torch.tensor([recorded["ids"]])).logits[0, -1])
        assert {"config.json"} <= {p.name for p in folder.iterdir()} or lora
        assert not [p for p in folder.rglob("*") if p.suffix in (".pt", ".bin", ".pkl", ".pth")]


def test_export_is_a_whole_model_with_adapters_merged(tmp_path: Path, squire_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    trainer = built(tmp_path / "r", squire_dir, lora={"r": 4, "alpha": 8})
    for step in range(3):
        trainer.train_step(step, step)
        trainer.apply_update()
    trainer.model.module.eval()
    (tmp_path / "out").mkdir()
    trainer.export(tmp_path / "out")
    ids = torch.tensor([[1, 5, 9, 20]])
    with torch.no_grad():
        wanted = trainer.model.module(ids).logits
        got = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True).eval()(ids).logits
    trainer.close()
    assert not (tmp_path / "out/adapter_config.json").exists()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_warm_start_gives_the_bits_of_a_cold_one(tmp_path: Path, squire_dir: Path, lora: Any) -> None:
    first = train(tmp_path / "first", squire_dir, lora=lora)
    parent = final(*first)
    assert WARM.model is not None
    warm = train(tmp_path / "warm", squire_dir, parent=parent, hero_step=6, lora=lora)
    WARM.clear()
    cold = train(tmp_path / "cold", squire_dir, parent=parent, hero_step=6, lora=lora)
    ready = [next(r for r in records(run, "event") if r["name"] == "ready") for run, _ in (warm, cold)]
    assert [r["warm"] for r in ready] == [True, False]
    assert losses(warm[0]) == losses(cold[0])
    assert_same_tensors(final(*warm), final(*cold))
    steps = json.loads((final(*warm) / "state.json").read_text())["trainer"]["optimizer_steps"]
    assert set(steps.values()) == {12}


def test_the_optimizer_is_carried_only_when_asked(tmp_path: Path, squire_dir: Path) -> None:
    parent = final(*train(tmp_path / "first", squire_dir))
    fresh = train(tmp_path / "fresh", squire_dir, parent=parent, carry_optimizer=False)
    steps = json.loads((final(*fresh) / "state.json").read_text())["trainer"]["optimizer_steps"]
    assert set(steps.values()) == {6}


def test_a_model_that_moved_on_is_not_taken_for_its_checkpoint(tmp_path: Path, squire_dir: Path) -> None:
    first = train(tmp_path / "first", squire_dir)
    parent = final(*first)
    train(tmp_path / "second", squire_dir, parent=parent)
    again = train(tmp_path / "third", squire_dir, parent=parent)  # not the newest: must come from its files
    ready = next(r for r in records(again[0], "event") if r["name"] == "ready")
    assert ready["warm"] is False


def test_a_damaged_parent_is_refused(tmp_path: Path, squire_dir: Path) -> None:
    parent = final(*train(tmp_path / "first", squire_dir))
    WARM.clear()
    with open(parent / "model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xfe")
    run_dir, job = make_run(tmp_path / "r", model_dir=squire_dir, trainer="sft", rows=ROWS, parent=parent, **CONFIG)
    outcome = run_training(SftTrainer(), run_dir, job)
    assert outcome.error is not None
    assert outcome.error["code"] == "corrupt_file"


def test_adapters_go_on_merge_and_keep_their_shape(tmp_path: Path, squire_dir: Path) -> None:
    parent = final(*train(tmp_path / "lora", squire_dir, lora={"r": 4, "alpha": 8}))
    WARM.clear()
    whole = train(tmp_path / "whole", squire_dir, parent=parent, max_steps=1, save_every_steps=None)
    assert (final(*whole) / "model.safetensors").exists()
    assert not (final(*whole) / "adapter_config.json").exists()
    first_loss = records(whole[0], "step")[0]["loss"]
    WARM.clear()
    onward = train(tmp_path / "onward", squire_dir, parent=parent, lora={"r": 4, "alpha": 8}, max_steps=1)
    assert records(onward[0], "step")[0]["loss"] == pytest.approx(first_loss, abs=1e-4)
    run_dir, job = make_run(
        tmp_path / "other",
        model_dir=squire_dir,
        trainer="sft",
        rows=ROWS,
        parent=parent,
        **{**CONFIG, "lora": {"r": 8}},
    )
    WARM.clear()
    outcome = run_training(SftTrainer(), run_dir, job)
    assert outcome.error is not None
    assert outcome.error["code"] == "bad_config"
    assert "r 8" in outcome.error["message"]


def test_adapters_remember_the_checkpoint_that_they_stand_on(tmp_path: Path, squire_dir: Path) -> None:
    """Whole, then adapters, then more adapters: the third run must not put them on the original model."""
    lora = {"r": 4, "alpha": 8}
    whole = final(*train(tmp_path / "whole", squire_dir))
    WARM.clear()
    first = train(tmp_path / "first", squire_dir, parent=whole, lora=lora)
    warm = train(tmp_path / "warm", squire_dir, parent=final(*first), lora=lora)
    WARM.clear()
    cold = train(tmp_path / "cold", squire_dir, parent=final(*first), lora=lora)
    assert losses(warm[0]) == losses(cold[0])
    assert_same_tensors(final(*warm), final(*cold))
    assert manifests.read_manifest(final(*cold)).card["adapter_base"] == str(whole)


def test_a_model_config_can_name_no_code(tmp_path: Path, squire_dir: Path) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    for path in squire_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config"},
        "_attn_implementation_internal": "evil/kernels",
        "trust_remote_code": True,
        "unknown_key": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    read = read_model_config(folder)
    assert not hasattr(read, "auto_map")
    assert not hasattr(read, "unknown_key")
    train(tmp_path / "r", folder, max_steps=1)
    assert not canary.exists()


def test_gradient_checkpointing_and_chunked_loss_change_nothing_but_memory(tmp_path: Path, squire_dir: Path) -> None:
    plain = train(tmp_path / "plain", squire_dir, max_steps=3)
    WARM.clear()
    saving = train(tmp_path / "saving", squire_dir, max_steps=3, gradient_checkpointing=True, loss_chunk_tokens=5)
    assert list(losses(saving[0]).values()) == pytest.approx(list(losses(plain[0]).values()), abs=1e-5)


def test_bf16_trains_close_to_fp32_and_saves_float32(tmp_path: Path, squire_dir: Path) -> None:
    plain = train(tmp_path / "plain", squire_dir, max_steps=4)
    WARM.clear()
    half = train(tmp_path / "half", squire_dir, max_steps=4, precision="bf16")
    assert list(losses(half[0]).values()) == pytest.approx(list(losses(plain[0]).values()), rel=0.02)
    assert all(t.dtype == torch.float32 for t in tensors(final(*half)).values())


def test_epochs_and_token_batches_decide_the_steps(tmp_path: Path, squire_dir: Path) -> None:
    trainer = built(tmp_path / "a", squire_dir, max_steps=None, epochs=1.5, batch_size=8)
    assert trainer.max_steps == 15
    trainer.close()
    trainer = built(tmp_path / "b", squire_dir, max_steps=None, batch_tokens=200)
    counts = [trainer.train_step(0, k).tokens for k in range(trainer.max_steps)]
    trainer.close()
    assert max(counts) <= 200
    assert sum(counts) == len(trainer.data.train.ids)


def test_profiles_reach_the_tokens(tmp_path: Path, squire_dir: Path) -> None:
    trainer = built(tmp_path / "r", squire_dir, profile="emoji_think")
    ids, _ = trainer.data.train.row(0)
    text = trainer.tokenizer.decode(ids)
    trainer.close()
    assert any(emoji in text for emoji in "🤔💭🧠💡")


def test_a_warm_start_is_quick_and_saving_a_squire_takes_no_time(tmp_path: Path, squire_dir: Path) -> None:
    """Bounds are those of the product; a busy machine gets three tries."""
    rows = addition_rows(2000, bits=6)
    previous = train(tmp_path / "0", squire_dir, rows=rows, max_steps=2, save_every_steps=None)
    best_start = best_save = 9.0
    for attempt in range(1, 4):
        began = time.time()
        run = train(
            tmp_path / str(attempt), squire_dir, rows=rows, parent=final(*previous), max_steps=2, save_every_steps=None
        )
        all_records = records(run[0])
        first_step = next(r["t"] for r in all_records if r["kind"] == "step")
        saving = next(r["t"] for r in all_records if r["kind"] == "phase" and r["phase"] == "saving")
        saved = next(r["t"] for r in all_records if r["kind"] == "checkpoint")
        best_start, best_save = min(best_start, first_step - began), min(best_save, saved - saving)
        previous = run
    assert best_start < 2.0
    assert best_save < 0.3


def test_the_tokenizer_of_a_checkpoint_is_that_of_the_model(tmp_path: Path, squire_dir: Path) -> None:
    folder = final(*train(tmp_path / "r", squire_dir, max_steps=1))
    assert ChatTokenizer(folder).fingerprint == ChatTokenizer(squire_dir).fingerprint


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lora", [None, LORA])
def test_sixty_kills_at_random_change_nothing(tmp_path: Path, squire_dir: Path, lora: Any) -> None:
    chance = random.Random(0)
    options = {"lora": lora, "max_steps": 10}
    straight = train(tmp_path / "straight", squire_dir, **options)
    kills = number = 0
    while kills < 60:
        number += 1
        WARM.clear()
        run_dir, job = make_run(
            tmp_path / f"r{number}", model_dir=squire_dir, trainer="sft", rows=ROWS, **{**CONFIG, **options}
        )
        for _ in range(4):
            point = chance.choice(["step", "step", "before_files", "after_files", "before_manifest", "after_rename"])
            kills += killed(run_dir, job, point, chance.randint(1, 5))
        outcome = run_training(SftTrainer(), run_dir, job)
        assert outcome.status == "completed", outcome.error
        assert losses(run_dir) == losses(straight[0])
        assert outcome.data_hash == straight[1].data_hash
        assert_same_tensors(final(run_dir, outcome), final(*straight))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of torch about itself, while its compiler loads
def test_a_compiled_model_learns_the_same(tmp_path: Path, squire_dir: Path) -> None:
    plain = train(tmp_path / "plain", squire_dir, max_steps=3)
    WARM.clear()
    compiled = train(tmp_path / "compiled", squire_dir, max_steps=3, compile=True)
    assert list(losses(compiled[0]).values()) == pytest.approx(list(losses(plain[0]).values()), abs=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}])
def test_on_a_gpu_a_stopped_run_goes_on_with_the_same_data(tmp_path: Path, squire_dir: Path, lora: Any) -> None:
    """There the promise is: the same batches, the same learning rate, losses within a thousandth."""
    straight = train(tmp_path / "straight", squire_dir, lora=lora, device="cuda", precision="bf16")
    WARM.clear()
    options = {**CONFIG, "lora": lora, "device": "cuda", "precision": "bf16"}
    run_dir, job = make_run(tmp_path / "r", model_dir=squire_dir, trainer="sft", rows=ROWS, **options)

    class Dies(SftTrainer):
        def train_step(self, step: int, cursor: int) -> Any:
            if step == 3:
                raise KeyboardInterrupt
            return super().train_step(step, cursor)

    with pytest.raises(KeyboardInterrupt):
        run_training(Dies(), run_dir, job)
    WARM.clear()
    outcome = run_training(SftTrainer(), run_dir, job)
    assert outcome.data_hash == straight[1].data_hash
    got = {r["step"]: r["loss"] for r in records(run_dir, "step")}
    assert list(got.values()) == pytest.approx(list(losses(straight[0]).values()), rel=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_packed_equals_padded(tmp_path: Path, squire_dir: Path) -> None:
    run_dir, job = make_run(tmp_path / "g", model_dir=squire_dir, trainer="sft", rows=ROWS, **CONFIG)
    gpu = SftTrainer()
    gpu.build(RunContext(run_dir.path, job, lambda *_, **__: None, device="cuda"))
    gpu.bf16 = False
    found = []
    for packing in (False, True):
        gpu.layout = Layout(packing=packing, rows=None, tokens=10_000, pad_to=8)
        found.append(gpu.train_step(0, 0).loss)
        gpu.discard_update()
    gpu.close()
    assert found[0] == pytest.approx(found[1], abs=1e-4)
