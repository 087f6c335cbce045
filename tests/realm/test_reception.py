"""What arrives meets the realm's rules: held-out problems stay out, bad recipes are refused, needs are told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from arena.squire import build_squire
from guild.corpus import squire_corpus
from guild.quests import evaluation_sets_for, make_quest_rows
from realm.settings import Settings
from realm.wiring import Realm
from vault.records import Job


@pytest.fixture
def realm(settings: Settings) -> Iterator[Realm]:
    realm = Realm(settings)
    yield realm
    realm.close()


def take(realm: Realm, name: str, text: str) -> Job:
    """Drop a file, look until it is gone from the inbox, and return the newest job."""
    (realm.paths.inbox / name).write_text(text)
    end = time.monotonic() + 20
    while any(path.is_file() for path in realm.paths.inbox.iterdir()) and time.monotonic() < end:
        realm.intake.scan(time.time())
    return realm.vault.jobs.list(limit=1).items[0]


def lines(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_held_out_problems_are_withheld_whatever_file_they_come_in(realm: Realm) -> None:
    rows = make_quest_rows("bin", 2, 40, seed=1)
    held_out = next(s for s in evaluation_sets_for("bin", 2) if s.name == "bin/L2/heldout")
    stolen = [{"prompt": row["messages"][0]["content"], "completion": row["answer"]} for row in list(held_out.rows)[:5]]
    job = take(realm, "mixed.jsonl", lines(rows + stolen))
    assert job.state == "queued" and job.rows == 40
    assert job.report is not None and job.report["rows_withheld"] == 5
    objects = (realm.paths.objects / f"{job.data[0]['canonical_sha256']}.jsonl").read_text()
    assert not any(row["prompt"] in objects for row in stolen)


def test_the_report_counts_tokens_and_says_what_memory_the_run_needs_once_there_is_a_model(realm: Realm) -> None:
    before = take(realm, "before.jsonl", lines(make_quest_rows("bin", 1, 30, seed=1)))
    assert before.report is not None and not before.report["memory"]
    hero = realm.ensure_hero()
    build_squire(realm.paths.home / hero.model_dir, squire_corpus(), size="tiny", seed=0)
    job = take(realm, "after.jsonl", lines(make_quest_rows("bin", 1, 30, seed=2)))
    assert job.report is not None and job.report["tokens"] > 100
    memory = job.report["memory"]
    assert memory["fits"] is True and memory["total"] == sum(part["size"] for part in memory["parts"])


def test_planned_steps_are_known_before_the_run(realm: Realm) -> None:
    job = take(realm, "rows.jsonl", lines(make_quest_rows("bin", 1, 160, seed=1)))
    _, variant = realm.hero_variant()
    config = variant.config
    trained = 160 - round(160 * config["validation_fraction"])
    assert job.planned_steps == round(config["epochs"] * -(-trained // config["batch_size"]))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("config: {learning_rat: 1}", "learning_rat"),
        ("config: {learning_rate: -1}", "learning_rate"),
        ("trainer: alchemy", "alchemy"),
        ("colour: red", "colour"),
        ("config: {micro_batch_size: 64, batch_size: 8}", "micro_batch_size"),
    ],
)
def test_a_recipe_that_cannot_be_obeyed_is_refused_by_name(realm: Realm, spec: str, words: str) -> None:
    rows = json.dumps(make_quest_rows("bin", 1, 3, seed=1), ensure_ascii=False)
    job = take(realm, "quest.yaml", f"data: {rows}\n{spec}\n")
    assert job.state == "refused" and job.reason is not None and words in job.reason["message"]
    assert [path.name for path in realm.paths.failed.glob("*.yaml")] == ["quest.yaml"]


def test_a_quest_that_asks_a_skill_for_rows_gets_them_in_the_heros_shares(realm: Realm) -> None:
    job = take(realm, "make.yaml", "data: {skill: bin, level: 3, count: 400, seed: 7}\nskill: bin\nlevel: 3\n")
    assert (job.state, job.rows, job.skill, job.level) == ("queued", 400, "bin", 3)
    text = (realm.paths.objects / f"{job.data[0]['canonical_sha256']}.jsonl").read_text()
    shown = text.count("[show-work]") / 400
    assert 0.8 < shown <= 1.0


def test_a_broken_tokenizer_stops_no_file(realm: Realm) -> None:
    hero = realm.ensure_hero()
    folder = realm.paths.home / hero.model_dir
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{broken")
    job = take(realm, "rows.jsonl", lines(make_quest_rows("bin", 1, 30, seed=1)))
    assert job.state == "queued" and job.report is not None
    assert any("not a tokenizer" in warning for warning in job.report["warnings"])
