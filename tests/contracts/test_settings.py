"""Every setting says what it is, can be set from each source, and every file in configs/ loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from guild.heroes import load_hero
from guild.skills import get_skill
from guild.skills.definition import SkillDefinition, load_yaml_model
from realm.hosts import HostRegistry
from realm.settings import load_with_sources, settings_schema

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file())


def leaves(schema: dict[str, Any], root: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return each dotted key with its schema."""
    found: dict[str, dict[str, Any]] = {}
    for name, part in schema["properties"].items():
        target = root["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if "properties" in target:
            found |= leaves(target, root, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = part
    return found


def test_every_setting_is_documented() -> None:
    schema = settings_schema()
    found = leaves(schema, schema)
    assert len(found) > 20
    assert [key for key, part in found.items() if len(part.get("description", "")) < 10] == []


def test_every_setting_has_a_value_and_a_source(tmp_path: Path) -> None:
    schema = settings_schema()
    _, values = load_with_sources(tmp_path, environment={})
    assert {value.key for value in values} == set(leaves(schema, schema))
    assert {value.source for value in values} == {"default", "flag --home"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_in_configs_loads(path: Path) -> None:
    where = path.relative_to(ROOT / "configs").parts
    if where == ("hosts.yaml",):
        assert HostRegistry.load(path).local()
    elif where[0] == "heroes":
        assert load_hero(path.stem).id == path.stem
    elif where == ("skills", "_template.yaml"):
        assert load_yaml_model(path, SkillDefinition).id == "template"
    elif where[0] == "skills":
        assert get_skill(path.stem).id == path.stem
    else:
        pytest.fail(f"Nothing reads {path}.")


@pytest.mark.parametrize("name", ["docker/compose.yaml", ".pre-commit-config.yaml"])
def test_other_yaml_of_ours_parses(name: str) -> None:
    assert isinstance(yaml.safe_load((ROOT / name).read_text()), dict)
