"""A skill is one YAML file and one generator module; a wrong file says what is wrong with it."""

import shutil

import pytest
import yaml

from guild.skills import SkillRegistry, get_skill, get_trainer, list_skills
from guild.skills.bin.generator import normal_mix
from guild.skills.registry import CONFIGS
from realm.errors import ConfigError, NotFoundError


def write_skill(folder, **changes):
    content = yaml.safe_load((CONFIGS / "skills" / "_template.yaml").read_text(encoding="utf-8"))
    content.update(changes)
    (folder / f"{content['id']}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return SkillRegistry(folder)


def test_the_skills_that_ship_are_listed():
    assert [skill.id for skill in list_skills()] == ["bin"]
    assert get_skill("bin").display.color == "#F59E0B"


def test_a_new_skill_is_one_file(tmp_path):
    shutil.copy(CONFIGS / "skills" / "bin.yaml", tmp_path)
    registry = write_skill(tmp_path, id="sums")
    assert [skill.id for skill in registry.list()] == ["bin", "sums"]
    rows = registry.generator("sums").sample(1, 10, seed=0)
    assert {row["metadata"]["op"] for row in rows} == {"add"}
    assert {row["metadata"]["skill"] for row in rows} == {"sums"}


def test_an_unknown_skill_is_not_found():
    with pytest.raises(NotFoundError, match="bin"):
        get_skill("alchemy")
    with pytest.raises(NotFoundError):
        get_trainer("alchemy")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, ["colour"]),
        ({"category": "cooking"}, ["category"]),
        ({"max_level": 2}, ["max_level", "level_progression", "[2]"]),
        ({"primary_metric": "charm"}, ["primary_metric"]),
        ({"api": {"generator": "guild.skills.bin", "url": "http://127.0.0.1:1"}}, ["api"]),
        ({"level_progression": {1: {"desc": "x", "mix": {"direct": 0.4}}}}, ["level_progression.1.mix"]),
        ({"id": "Has Spaces"}, ["id"]),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path, changes, words):
    if "id" in changes:
        (tmp_path / "odd.yaml").write_text("id: Has Spaces\n", encoding="utf-8")
        registry = SkillRegistry(tmp_path)
    else:
        registry = write_skill(tmp_path, **changes)
    with pytest.raises(ConfigError) as raised:
        registry.list()
    assert str(tmp_path) in str(raised.value)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"api": {"generator": "guild.skills.nowhere"}}, "nowhere"),
        ({"api": {"generator": "guild.curriculum"}}, "build"),
        ({"api": {"url": "http://127.0.0.1:1"}}, "api.generator"),
        (
            {"level_progression": {1: {"desc": "x", "bits": 2, "operations": ["conjure"], "mix": {"direct": 1}}}},
            "conjure",
        ),
        ({"level_progression": {1: {"desc": "x", "bits": 2, "operations": ["add"], "mix": {"loud": 1}}}}, "loud"),
    ],
)
def test_a_generator_that_cannot_be_had_says_why(tmp_path, changes, word):
    registry = write_skill(tmp_path, **changes)
    with pytest.raises(ConfigError, match=word):
        registry.generator("template")


def test_broken_yaml_and_a_missing_folder_are_errors_of_configuration(tmp_path):
    with pytest.raises(ConfigError, match="nothing-here"):
        SkillRegistry(tmp_path / "nothing-here").list()
    (tmp_path / "broken.yaml").write_text("id: [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        SkillRegistry(tmp_path).list()


def test_difficulties_are_other_names_of_tags():
    assert normal_mix({"easy": 0.5, "hard": 0.5}) == {"direct": 0.5, "show-work": 0.5}
    with pytest.raises(ConfigError):
        normal_mix({"direct": 0})


def test_the_default_mix_of_a_level_is_the_one_in_its_file():
    tags = [row["metadata"]["tag"] for row in get_trainer("bin").sample(1, 4000, seed=0)]
    shares = {tag: tags.count(tag) / len(tags) for tag in set(tags)}
    assert shares == pytest.approx({"direct": 0.50, "verify": 0.35, "show-work": 0.12, "trace": 0.03}, abs=0.03)
    tags = [row["metadata"]["tag"] for row in get_trainer("bin").sample(1, 200, seed=0, mix={"trace": 1})]
    assert set(tags) == {"trace"}
