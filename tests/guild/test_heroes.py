"""Heroes' recipes: complete, and chosen by what the machine has."""

import pytest

from arena.trainers.sft.config import parse_config
from guild.heroes import QuestPlan, choose_variant, load_hero
from guild.skills import list_skills
from guild.skills.registry import CONFIGS
from realm.errors import ConfigError, NotFoundError

HEROES = sorted(path.stem for path in (CONFIGS / "heroes").glob("*.yaml"))


@pytest.mark.parametrize("hero_id", HEROES)
def test_every_recipe_is_complete(hero_id):
    hero = load_hero(hero_id)
    assert set(hero.skills) <= {skill.id for skill in list_skills()}
    assert len({variant.id for variant in hero.variants}) == len(hero.variants)
    for variant in hero.variants:
        assert variant.trainer == "sft"
        parse_config(dict(variant.config), source=f"{hero_id}/{variant.id}")


@pytest.mark.parametrize(
    ("cuda", "models", "chosen"),
    [
        (True, ["Qwen3-0.6B", "squire"], "qwen3_0_6b"),
        (True, ["squire"], "squire"),
        (False, ["Qwen3-0.6B"], "squire"),
        (False, [], "squire"),
    ],
)
def test_the_first_variant_that_the_machine_can_train_is_chosen(cuda, models, chosen):
    assert choose_variant(load_hero("dio"), cuda=cuda, models=models).id == chosen


def test_lower_levels_are_rehearsed_in_equal_shares():
    plan = QuestPlan(count=10, rehearsal=0.5)
    assert plan.level_shares(1) == {1: 1.0}
    assert plan.level_shares(3) == {1: 0.25, 2: 0.25, 3: 0.5}
    assert QuestPlan(count=10).level_shares(3) == {3: 1.0}


def test_an_unknown_hero_or_variant_is_not_found():
    with pytest.raises(NotFoundError):
        load_hero("nobody")
    with pytest.raises(NotFoundError, match="squire"):
        load_hero("dio").variant("giant")


def test_a_recipe_whose_last_variant_asks_for_something_is_refused(tmp_path):
    text = (CONFIGS / "heroes" / "dio.yaml").read_text(encoding="utf-8")
    (tmp_path / "dio.yaml").write_text(
        text.replace("id: squire\n", "id: squire\n    requires: {cuda: true}\n"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"dio\.yaml"):
        load_hero("dio", tmp_path)
