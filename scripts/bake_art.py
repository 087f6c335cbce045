"""Bake the pixel art of the Tavern from its text sources.

`python scripts/bake_art.py` reads `tavern/static/art/{icons,sprites}.txt` and writes `tavern/static/icons.svg`,
`tavern/static/sprites.svg` and `tavern/static/hall/*.png`; `--check` writes nothing and fails when one of them is not
what its source says. Runs on the standard library alone; the same input gives the same bytes.

A picture is a grid of colours: a list of rows, each a list of "#rrggbb" or None. SVG pictures are one path a colour,
made of rectangles as large as the colour allows.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from hall import Grid, arenas, encode_png, same_picture, walls

STATIC = Path(__file__).resolve().parent.parent / "tavern" / "static"
INK = "#17120f"
STONE, SHADOW = (0.85, (0x8C, 0x8A, 0x84)), (0.5, (0x8A, 0x6F, 0xD0))
POSES = ("idle0", "rest0", "hurt", "joy0")
MOODS = ("fight", "joy", "hurt", "rest", "down", "stone")
BACKDROP = ("#2b1f33", "#3a2538", "#55302f", "#7a4526")


class Sprites:
    """The parsed sprite sheet."""

    def __init__(self, text: str) -> None:
        self.palette: dict[str, str] = {}
        self.parts: dict[str, list[str]] = {}
        self.poses: dict[str, list[tuple[str, int, int]]] = {}
        self.foes: dict[str, list[str]] = {}
        self.props: dict[str, list[str]] = {}
        self.eyes: dict[str, list[tuple[str, int, int]]] = {}
        self.marks: list[tuple[str, int, int, str, list[str]]] = []
        self.bust: list[str] = []
        for head, rows in _blocks(text):
            kind, _, rest = head.partition(" ")
            if kind == "palette":
                self.palette = {row[0]: row[2:] for row in rows}
            elif kind == "part":
                self.parts[rest] = rows
            elif kind == "prop":
                self.props[rest] = rows
            elif kind == "foe":
                self.foes[rest.split()[0]] = _mirror(rows)
            elif kind == "bust":
                self.bust = _mirror(rows)
            elif kind == "mark":
                name, x, y, colour = rest.split()
                self.marks.append((name, int(x), int(y), colour, rows))
            elif kind in ("pose", "eyes"):
                name, _, listing = rest.partition(":")
                triples = [item.split() for item in listing.split(",")]
                target = self.poses if kind == "pose" else self.eyes
                target[name] = [(what, int(x), int(y)) for what, x, y in triples]

    def hero(self, pose: str, tint: tuple[float, tuple[int, int, int]] | None = None, eye: str | None = None) -> Grid:
        layers = [(self.parts[part], x + 3, y) for part, x, y in self.poses[pose]]
        return self._paint(layers, 40, 34, tint, {"v": "#ffd0d4", "V": eye, "u": "#c23a4e"} if eye else {})

    def foe(self, name: str) -> Grid:
        if name == "mirror":
            return [row[::-1] for row in self.hero("idle0", SHADOW, "#ff6b74")]
        rows = self.foes[name]
        grid = self._paint([(rows, 0, 0)], len(rows[0]), len(rows), None, {})
        for sprite, x, y, colour, mark in self.marks:
            if sprite == name:
                for j, line in enumerate(mark):
                    for i, character in enumerate(line):
                        if character == "#":
                            grid[y + j][x + i] = colour
        return grid

    def prop(self, name: str) -> Grid:
        rows = self.props[name]
        return self._paint([(rows, 0, 0)], max(map(len, rows)), len(rows), None, {})

    def portrait(self, tint: tuple[float, tuple[int, int, int]] | None = None) -> Grid:
        """The bust before its background, without eyes."""
        grid: Grid = [[BACKDROP[y // 8] for _ in range(32)] for y in range(32)]
        for y in range(32):
            for x in range(0, 32, 4):
                grid[y][x] = _mix(BACKDROP[y // 8], "#ffffff", 0.07)
        bust = self._paint([(self.bust, 0, 0)], 32, 32, tint, {})
        for y, row in enumerate(bust):
            for x, colour in enumerate(row):
                if colour and 0 <= y - 1 < 32 and 0 <= x - 1 < 32:
                    grid[y - 1][x - 1] = colour
        return grid

    def mood(self, name: str) -> Grid:
        grid: Grid = [[None] * 32 for _ in range(32)]
        for letter, x, y in self.eyes[name]:
            grid[y][x] = grid[y][31 - x] = self.palette[letter]
        return grid

    def _paint(
        self,
        layers: list[tuple[list[str], int, int]],
        width: int,
        height: int,
        tint: tuple[float, tuple[int, int, int]] | None,
        swap: dict[str, str | None],
    ) -> Grid:
        """Paint text layers on a grid one pixel larger on every side and draw the outline."""
        grid: Grid = [[None] * (width + 2) for _ in range(height + 2)]
        for rows, dx, dy in layers:
            for j, row in enumerate(rows):
                for i, letter in enumerate(row):
                    if letter == ".":
                        continue
                    colour = swap.get(letter) or _tint(self.palette[letter], tint)
                    if 0 <= dy + j + 1 < height + 2 and 0 <= dx + i + 1 < width + 2:
                        grid[dy + j + 1][dx + i + 1] = colour
        filled = [[colour is not None for colour in row] for row in grid]
        for y, row in enumerate(grid):
            for x in range(len(row)):
                near = ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x))
                if not filled[y][x] and any(0 <= b < len(row) and 0 <= a < len(grid) and filled[a][b] for a, b in near):
                    row[x] = INK
        return grid


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Split a source into (head, rows); a line of pixels never holds a space before its second character."""
    head, rows = "", []
    for line in text.splitlines():
        if line.startswith("# ") or not line.strip():
            continue
        if re.match(r"(palette|part|pose|foe|prop|bust|eyes|mark)\b", line):
            if head:
                yield head, rows
            head, rows = line, []
        else:
            rows.append(line)
    yield head, rows


def _mirror(rows: list[str]) -> list[str]:
    width = max(map(len, rows))
    return [row.ljust(width, ".") + row.ljust(width, ".")[::-1] for row in rows]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _mix(base: str, over: str, share: float) -> str:
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(_rgb(base), _rgb(over), strict=True))


def _tint(colour: str, tint: tuple[float, tuple[int, int, int]] | None) -> str:
    if tint is None:
        return colour
    red, green, blue = _rgb(colour)
    light = (red * 0.3 + green * 0.59 + blue * 0.11) * tint[0]
    return "#" + "".join(f"{max(0, min(255, round(light * part / 128))):02x}" for part in tint[1])


def rectangles(grid: Grid) -> dict[str, str]:
    """Return an SVG path for each colour of a picture."""
    seen = [[False] * len(row) for row in grid]
    paths: dict[str, list[str]] = {}
    for y, row in enumerate(grid):
        for x, colour in enumerate(row):
            if colour is None or seen[y][x]:
                continue
            width = 1
            while x + width < len(row) and row[x + width] == colour and not seen[y][x + width]:
                width += 1
            height = 1
            while y + height < len(grid) and all(
                grid[y + height][i] == colour and not seen[y + height][i] for i in range(x, x + width)
            ):
                height += 1
            for j in range(y, y + height):
                for i in range(x, x + width):
                    seen[j][i] = True
            paths.setdefault(colour, []).append(f"M{x} {y}h{width}v{height}h-{width}z")
    return {colour: "".join(parts) for colour, parts in paths.items()}


def symbol(name: str, grid: Grid) -> str:
    body = "".join(f'<path fill="{colour}" d="{path}"/>' for colour, path in rectangles(grid).items())
    return f'<symbol id="{name}" viewBox="0 0 {len(grid[0])} {len(grid)}" shape-rendering="crispEdges">{body}</symbol>'


def sprite_sheet(text: str) -> str:
    sprites = Sprites(text)
    pictures = {"bust": sprites.portrait(), "bust-stone": sprites.portrait(STONE)}
    pictures |= {f"eyes-{mood}": sprites.mood(mood) for mood in MOODS}
    pictures |= {f"hero-{pose}": sprites.hero(pose) for pose in POSES}
    pictures["hero-stone"] = sprites.hero("hurt", STONE)
    pictures |= {f"foe-{name}": sprites.foe(name) for name in (*sprites.foes, "mirror")}
    pictures |= {name: sprites.prop(name) for name in ("glass", "crown")}
    symbols = "\n".join(symbol(name, grid) for name, grid in pictures.items())
    return f'<svg xmlns="http://www.w3.org/2000/svg">\n{symbols}\n</svg>\n'


def icon_sheet(text: str) -> str:
    symbols, name, rows = [], "", []
    for line in [*text.splitlines(), "end"]:
        if line.startswith("# ") or not line:
            continue
        if re.fullmatch(r"[a-z]+", line):
            if name:
                grid: Grid = [["c" if pixel == "#" else None for pixel in row.ljust(12, ".")] for row in rows]
                path = rectangles(grid)["c"]
                ink = f'<path shape-rendering="crispEdges" fill="currentColor" d="{path}"/>'
                symbols.append(f'<symbol id="{name}" viewBox="0 0 12 12">{ink}</symbol>')
            name, rows = line, []
        else:
            rows.append(line)
    return '<svg xmlns="http://www.w3.org/2000/svg">\n' + "\n".join(symbols) + "\n</svg>\n"


def bake() -> dict[Path, bytes]:
    """Return every file that is baked, by its path."""
    icons = (STATIC / "art" / "icons.txt").read_text(encoding="utf-8")
    sheet = (STATIC / "art" / "sprites.txt").read_text(encoding="utf-8")
    baked = {STATIC / "icons.svg": icon_sheet(icons).encode(), STATIC / "sprites.svg": sprite_sheet(sheet).encode()}
    sprites = Sprites(sheet)
    for name, grid in {**walls(sprites.prop), **arenas()}.items():
        baked[STATIC / "hall" / f"{name}.png"] = encode_png(grid)
    return baked


def _same(path: Path, content: bytes) -> bool:
    known = path.read_bytes()
    return same_picture(known, content) if path.suffix == ".png" else known == content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a baked file is stale")
    check = parser.parse_args().check
    stale = []
    for path, content in bake().items():
        if path.is_file() and _same(path, content):
            continue
        stale.append(str(path.relative_to(STATIC)))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if check and stale:
        print(f"Stale: {', '.join(stale)}. Run `python scripts/bake_art.py`.", file=sys.stderr)
        return 1
    print(f"{len(stale)} file(s) baked." if stale else "Art is up to date.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
