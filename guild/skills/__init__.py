"""Skills: one YAML file each in `configs/skills`, and one generator module that the file names.

`list_skills()` and `get_skill(id)` read definitions; `get_trainer(id)` returns the generator that
makes training rows, evaluation sets and checks answers.
"""

from guild.skills.contract import SkillGenerator
from guild.skills.definition import SkillDefinition
from guild.skills.registry import SkillRegistry, get_skill, get_trainer, list_skills

__all__ = [
    "SkillDefinition",
    "SkillGenerator",
    "SkillRegistry",
    "get_skill",
    "get_trainer",
    "list_skills",
]
