"""Stages: the six legal ones, each with its own zones, and geometry that can be stood on."""

from __future__ import annotations

import pytest

from realm.errors import NotFoundError
from worldmodel.stages import STAGES, Stage, get_stage


def test_the_legal_stages_are_found_by_their_external_ids() -> None:
    assert {stage.id: stage.short_name for stage in STAGES} == {
        2: "FoD", 3: "PS", 8: "YS", 28: "DL", 31: "BF", 32: "FD"
    }  # fmt: skip
    with pytest.raises(NotFoundError, match="not a legal"):
        get_stage(4)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.short_name)
def test_everything_that_one_stands_on_lies_inside_the_blast_zones(stage: Stage) -> None:
    assert stage.blast.holds(-stage.ground, 0.0) and stage.blast.holds(stage.ground, 0.0)
    for platform in stage.platforms:
        assert platform.left < platform.right and platform.y > 0
        assert stage.blast.holds(platform.left, platform.y) and stage.blast.holds(platform.right, platform.y)
    assert not stage.blast.holds(stage.blast.right + 1, 0.0) and not stage.blast.holds(0.0, stage.blast.bottom - 1)


def test_one_stages_zones_do_not_judge_another() -> None:
    fell_on_battlefield = (0.0, -120.0)
    assert not get_stage(31).blast.holds(*fell_on_battlefield)
    assert get_stage(32).blast.holds(*fell_on_battlefield)
