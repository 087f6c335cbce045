"""Quest files: the same bytes for the same arguments, no held-out row, evaluation sets that fit."""

import hashlib
import json

import pytest
import yaml

from guild.quests import (
    QuestSpec,
    evaluation_sets_for,
    make_quest,
    make_quest_rows,
    parse_mix,
    refuse_held_out,
    write_spec,
)
from guild.skills import get_trainer
from realm.errors import ConfigError, RefusedError


def test_the_same_arguments_write_the_same_file(tmp_path):
    first = make_quest("bin", [1, 2], 300, 7, tmp_path / "a.jsonl", mix={"show-work": 1})
    second = make_quest("bin", [1, 2], 300, 7, tmp_path / "b.jsonl", mix={"show-work": 1})
    other = make_quest("bin", [1, 2], 300, 8, tmp_path / "c.jsonl", mix={"show-work": 1})
    assert first.sha256 == second.sha256 != other.sha256
    assert first.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert (first.rows, first.skill, first.level) == (300, "bin", 2)


def test_a_quest_file_holds_rows_that_a_trainer_reads(tmp_path):
    quest = make_quest("bin", 3, 50, 0, tmp_path / "quest.jsonl")
    rows = [json.loads(line) for line in quest.path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 50
    assert all([m["role"] for m in row["messages"]] == ["user", "assistant"] for row in rows)


def test_levels_share_the_rows_by_weight():
    rows = make_quest_rows("bin", {1: 1, 3: 3}, 2000, 0)
    share = sum(row["metadata"]["level"] == 3 for row in rows) / len(rows)
    assert 0.71 < share < 0.79
    assert rows[0]["metadata"]["level"] != rows[-1]["metadata"]["level"] or len({*map(str, rows[:20])}) > 1


def test_no_quest_holds_an_evaluation_problem():
    trained = {row["metadata"]["problem"] for row in make_quest_rows("bin", [1, 2, 3], 6000, 1)}
    for chosen in evaluation_sets_for("bin", 3):
        examined = {row["metadata"]["problem"] for row in chosen.rows}
        assert (chosen.split == "heldout") == (not trained & examined)


def test_a_held_out_row_is_refused_by_its_number():
    generator = get_trainer("bin")
    rows = [*generator.sample(3, 4, seed=0), *generator.sample(3, 1, seed=0, split="heldout")]
    refuse_held_out(rows[:4], generator)
    with pytest.raises(RefusedError, match="Row 5") as raised:
        refuse_held_out(rows, generator)
    assert raised.value.data["row"] == 5


def test_evaluation_sets_reach_one_level_further_and_end_with_the_last():
    names = [chosen.name for chosen in evaluation_sets_for("bin", 2)]
    assert names[:4] == ["bin/L1/known", "bin/L1/known/direct", "bin/L1/heldout", "bin/L1/heldout/direct"]
    assert {chosen.level for chosen in evaluation_sets_for("bin", 2)} == {1, 2, 3}
    assert max(chosen.level for chosen in evaluation_sets_for("bin", 8)) == 8
    assert len(names) == len(set(names))
    with pytest.raises(ConfigError):
        evaluation_sets_for("bin", 9)


def test_the_headline_set_and_its_contrast_ask_the_same_problems():
    sets = {chosen.name: chosen for chosen in evaluation_sets_for("bin", 3)}
    worked, direct = sets["bin/L3/heldout"], sets["bin/L3/heldout/direct"]
    assert worked.tags == ("show-work",) and direct.tags == ("direct",)
    assert [r["metadata"]["problem"] for r in worked.rows] == [r["metadata"]["problem"] for r in direct.rows]


def test_a_specification_is_yaml_that_says_how_to_train(tmp_path):
    spec = QuestSpec("quest.jsonl", "bin", 3, config={"batch_size": 16}, evaluation_levels=(1, 2, 3))
    content = yaml.safe_load(write_spec(tmp_path / "quest.yaml", spec).read_text(encoding="utf-8"))
    assert content["trainer"] == "sft" and content["data"] == "quest.jsonl"
    assert content["config"] == {"batch_size": 16} and content["evaluation"] == {"levels": [1, 2, 3]}


def test_a_mix_is_read_from_a_command_line():
    assert parse_mix("show-work=0.7, direct=0.3") == {"show-work": 0.7, "direct": 0.3}
    for wrong in ("show-work", "show-work=much", "=0.2,x"):
        with pytest.raises(ConfigError):
            parse_mix(wrong)


@pytest.mark.parametrize("levels", [[], {1: 0.0}, {1: -1.0, 2: 2.0}])
def test_a_quest_without_levels_is_an_error(levels):
    with pytest.raises(ConfigError):
        make_quest_rows("bin", levels, 10, 0)


def test_a_quest_without_rows_is_an_error():
    with pytest.raises(ConfigError):
        make_quest_rows("bin", 1, 0, 0)
