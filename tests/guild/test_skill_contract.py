"""What every skill's generator keeps, run on each skill that ships."""

import pytest

from guild.skills import get_skill, get_trainer, list_skills

SKILLS = [skill.id for skill in list_skills()]
CASES = [(skill.id, level) for skill in list_skills() for level in range(1, skill.max_level + 1)]


@pytest.mark.parametrize(("skill_id", "level"), CASES)
def test_equal_arguments_give_equal_rows(skill_id, level):
    generator = get_trainer(skill_id)
    assert generator.sample(level, 40, seed=5) == generator.sample(level, 40, seed=5)
    assert generator.sample(level, 40, seed=5) != generator.sample(level, 40, seed=6)
    assert generator.evaluation_set(level, "heldout") == generator.evaluation_set(level, "heldout")


@pytest.mark.parametrize(("skill_id", "level"), CASES)
def test_training_rows_are_chats_without_faults(skill_id, level):
    generator = get_trainer(skill_id)
    for row in generator.sample(level, 60, seed=1):
        question, reply = row["messages"]
        assert (question["role"], reply["role"]) == ("user", "assistant")
        assert generator.check(question["content"], reply["content"]) == []
        assert row["metadata"].keys() == {"skill", "level", "op", "tag", "problem", "split"}
        assert generator.problem_key(question["content"]) == row["metadata"]["problem"]
        assert not generator.is_held_out(question["content"])


@pytest.mark.parametrize(("skill_id", "level"), CASES)
@pytest.mark.parametrize("split", ["known", "heldout"])
def test_evaluation_rows_hold_the_answer_and_lie_on_their_side(skill_id, level, split):
    generator = get_trainer(skill_id)
    chosen = generator.evaluation_set(level, split)
    assert chosen.rows and len(chosen.rows) <= get_skill(skill_id).eval.samples_per_level <= 200
    assert chosen.distinct_problems <= chosen.space
    for row in chosen.rows:
        (question,) = row["messages"]
        assert generator.check(question["content"], row["answer"]) == []
        assert generator.score(row["answer"], row["answer"]).whole
        assert generator.is_held_out(question["content"]) == (split == "heldout")
        assert row["metadata"]["tag"] in chosen.tags


def test_rows_are_fresh_without_a_seed_and_the_same_with_one() -> None:
    generator = get_trainer("bin")
    assert generator.sample(5, 20) != generator.sample(5, 20)
    assert generator.sample(5, 20, seed=3) == generator.sample(5, 20, seed=3)
