"""BIN, Binary Alchemy: arithmetic and comparison on binary numbers, with or without the work shown."""

from guild.skills.bin.generator import BinGenerator
from guild.skills.definition import SkillDefinition


def build(skill: SkillDefinition) -> BinGenerator:
    return BinGenerator(skill)


__all__ = ["BinGenerator", "build"]
