"""The skills' own colours, made readable: a style sheet from the YAML of each skill, for both themes.

A colour keeps its hue and saturation; its lightness moves until it reaches 4.5:1 against the theme's panel and raised
ground, which are read from `static/css/tokens.css`. `.k-<skill>` then gives `--c` like the common tones do.
tests/tavern/test_skills.py measures the contrast.
"""

from __future__ import annotations

import colorsys
import re
from functools import lru_cache

from guild.skills.registry import list_skills
from tavern.assets import STATIC

CONTRAST = 4.5
THEMES = ("hearth", "parchment")
_GROUNDS = ("panel", "raise")


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours `#rrggbb` (WCAG 2)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lifted(colour: str, grounds: tuple[str, ...]) -> str:
    """Return a colour with its lightness moved until it is readable on every one of the grounds."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*_channels(colour))
    darker = _luminance(grounds[0]) > 0.18
    for step in range(101):
        moved = max(0.0, lightness - step / 100) if darker else min(1.0, lightness + step / 100)
        found = "#" + "".join(f"{round(c * 255):02x}" for c in colorsys.hls_to_rgb(hue, moved, saturation))
        if all(contrast(found, ground) >= CONTRAST for ground in grounds):
            return found
    return "#000000" if darker else "#ffffff"


@lru_cache(maxsize=1)
def grounds() -> dict[str, tuple[str, ...]]:
    """Return what colours stand on, by theme."""
    text = (STATIC / "css" / "tokens.css").read_text(encoding="utf-8")
    found = {name: re.findall(rf"--{name}: (#[0-9a-f]{{6}})", text) for name in _GROUNDS}
    return {theme: tuple(found[name][place] for name in _GROUNDS) for place, theme in enumerate(THEMES)}


@lru_cache(maxsize=1)
def skill_sheet() -> str:
    """Return the style sheet."""
    dark, light = (
        {skill.id: lifted(skill.display.color, grounds()[theme]) for skill in list_skills()} for theme in THEMES
    )
    lines = []
    for skill_id in dark:
        lines += [
            f".k-{skill_id} {{ --c: {dark[skill_id]}; }}",
            f':root[data-theme="parchment"] .k-{skill_id} {{ --c: {light[skill_id]}; }}',
            "@media (prefers-color-scheme: light) "
            f"{{ :root:not([data-theme]) .k-{skill_id} {{ --c: {light[skill_id]}; }} }}",
        ]
    return "\n".join(lines) + "\n"


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def _luminance(colour: str) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
