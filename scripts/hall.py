"""The hall of the Tavern as pixel pictures: its two walls, and what is seen through the arch between them.

Drawn by code on a grid of colours, 76 logical pixels high, shown at whole multiples. `walls` and `arenas` return
pictures; `encode_png` writes one as an indexed PNG. Randomness is seeded by name: the same source, the same bytes.
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Callable

Grid = list[list[str | None]]
HEIGHT, WALL, ARENA = 76, 92, 480
_BAYER = (0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5)


class Canvas:
    """A picture that is being painted."""

    def __init__(self, width: int, height: int = HEIGHT) -> None:
        self.width, self.height = width, height
        self.grid: Grid = [["#000000"] * width for _ in range(height)]

    def rect(  # noqa: PLR0917 - colour, then x, y, width, height: as every drawing library has them
        self, colour: str, x: float, y: float, width: float, height: float, alpha: float = 1.0
    ) -> None:
        for j in range(max(0, int(y)), min(self.height, int(y) + int(height))):
            for i in range(max(0, int(x)), min(self.width, int(x) + int(width))):
                self.dot(colour, i, j, alpha)

    def dot(self, colour: str, x: int, y: int, alpha: float = 1.0) -> None:
        if 0 <= x < self.width and 0 <= y < self.height:
            self.grid[y][x] = colour if alpha >= 1 else _blend(self.grid[y][x] or "#000000", colour, alpha)

    def disc(self, colour: str, cx: float, cy: float, radius: float, *, upper: bool = False) -> None:
        for j in range(int(cy - radius), int(cy + radius) + 1):
            for i in range(int(cx - radius), int(cx + radius) + 1):
                inside = (i + 0.5 - cx) ** 2 + (j + 0.5 - cy) ** 2 <= radius**2
                if inside and not (upper and j >= cy):
                    self.dot(colour, i, j)

    def glow(self, cx: float, cy: float, radius: float, colour: str, strength: float) -> None:
        """Banded light with dithered edges: each band is faint, so the dots never shout."""
        bands = 5
        for j in range(max(0, int(cy - radius)), min(self.height, int(cy + radius))):
            for i in range(max(0, int(cx - radius)), min(self.width, int(cx + radius))):
                distance = math.hypot(i - cx, (j - cy) * 1.25) / radius
                if distance < 1:
                    band = int((1 - distance) * bands + (_BAYER[(j & 3) * 4 + (i & 3)] + 0.5) / 16)
                    if band > 0:
                        self.dot(colour, i, j, round(band / bands * strength, 3))

    def stamp(self, picture: Grid, x: int, y: int) -> None:
        for j, row in enumerate(picture):
            for i, colour in enumerate(row):
                if colour:
                    self.dot(colour, x + i, y + j)


def walls(prop: Callable[[str], Grid]) -> dict[str, Grid]:
    """Return the left wall with the hearth and the right wall with the bar."""
    return {"left": _left(prop).grid, "left-cold": _left(prop, lit=False).grid, "right": _right(prop).grid}


def arenas() -> dict[str, Grid]:
    """Return what may be seen through the arch, by name."""
    painters = {"library": _library, "foundry": _foundry, "ring": _ring, "glade": _glade, "night": _night}
    found = {}
    for name, paint in painters.items():
        canvas = Canvas(ARENA)
        paint(canvas, random.Random(name))
        _beam(canvas)
        found[name] = canvas.grid
    return found


def _beam(canvas: Canvas) -> None:
    canvas.rect("#4b3320", 0, 0, canvas.width, 5)
    canvas.rect("#6d4c30", 0, 0, canvas.width, 1)
    canvas.rect("#2f1f13", 0, 5, canvas.width, 1)
    canvas.rect("#000000", 0, 6, canvas.width, 2, 0.33)


def _wall(canvas: Canvas, rng: random.Random) -> None:
    width = canvas.width
    canvas.rect("#1d3530", 0, 0, width, HEIGHT)
    for x in range(0, width, 9):
        canvas.rect("#234039", x, 0, 1, 44)
    canvas.rect("#182c28", 0, 42, width, 1)
    canvas.rect("#4b3320", 0, 43, width, 33)
    for x in range(0, width, 8):
        canvas.rect("#3a2718", x, 45, 1, 25)
        canvas.rect("#5d4029", x + 1, 45, 1, 25)
    canvas.rect("#6d4c30", 0, 43, width, 2)
    canvas.rect("#2f1f13", 0, 45, width, 1)
    canvas.rect("#5b3f28", 0, 66, width, 10)
    for y in range(67, HEIGHT, 3):
        canvas.rect("#49311e", 0, y, width, 1)
    for x in range(0, width, 13):
        canvas.rect("#49311e", x + rng.randrange(6), 66 + rng.randrange(3) * 3, 1, 3)
    canvas.rect("#6e4d31", 0, 66, width, 1)
    canvas.rect("#3a2617", 0, 0, width, 5)
    canvas.rect("#563a23", 0, 0, width, 1)
    canvas.rect("#24170e", 0, 5, width, 1)


def _post(canvas: Canvas, x: int) -> None:
    canvas.rect("#4b3320", x, 0, 6, HEIGHT)
    canvas.rect("#6d4c30", x, 0, 1, HEIGHT)
    canvas.rect("#2f1f13", x + 5, 0, 1, HEIGHT)
    canvas.rect("#3a2617", x + 2, 12, 1, 14)
    canvas.rect("#3a2617", x + 3, 40, 1, 20)


def _left(prop: Callable[[str], Grid], *, lit: bool = True) -> Canvas:
    canvas, rng = Canvas(WALL), random.Random("left")
    _wall(canvas, rng)
    cx = 40
    canvas.rect("#565a58", cx - 17, 27, 34, 39)
    canvas.rect("#6b706d", cx - 17, 27, 34, 1)
    for j in range(28, 66, 5):
        for i in range((j & 1) * 4, 34, 8):
            canvas.rect("#4a4e4c", cx - 17 + i, j, 1, 5)
        canvas.rect("#484c4a", cx - 17, j + 4, 34, 1)
    canvas.rect("#120c0b", cx - 11, 38, 22, 28)
    canvas.disc("#120c0b", cx, 39, 11, upper=True)
    canvas.rect("#6d4c30", cx - 20, 24, 40, 3)
    canvas.rect("#87613f", cx - 20, 24, 40, 1)
    canvas.rect("#4b3320", cx - 20, 27, 40, 1)
    canvas.rect("#2a1d15", cx - 12, 62, 24, 3)
    canvas.rect("#5d3c22", cx - 10, 60, 20, 3)
    canvas.rect("#7a5230", cx - 8, 59, 7, 2)
    canvas.rect("#3f4341", cx - 20, 65, 40, 2)
    canvas.stamp(prop("mug"), cx + 8, 19)
    for x, height, colour in ((cx - 16, 6, "#e8c46a"), (cx - 11, 4, "#d9c49a")):  # candles on the mantel
        canvas.rect(colour, x, 24 - height, 2, height)
        if lit:
            canvas.rect("#ffd27a", x, 22 - height, 2, 2)
    x = 1
    for y in (20, 36):  # a small shelf in the corner
        canvas.rect("#6d4c30", x, y, 17, 2)
        canvas.rect("#4b3320", x, y + 2, 17, 1)
    _bottles(canvas, rng, x + 1, 13, 20)
    _bottles(canvas, rng, x + 1, 13, 36)
    canvas.rect("#8a5a22", 68, 16, 13, 15)  # the portrait of a knight
    canvas.rect("#cda55a", 69, 17, 11, 13)
    canvas.rect("#3f6f63", 70, 18, 9, 11)
    canvas.rect("#e2582f", 72, 20, 5, 2)
    canvas.rect("#dfe8e0", 72, 22, 5, 4)
    canvas.rect("#17120f", 72, 23, 5, 1)
    canvas.rect("#3c8f69", 71, 26, 7, 3)
    if lit:
        _flames(canvas, cx)
        canvas.glow(cx, 56, 46, "#d9722c", 0.36)
        canvas.glow(cx, 58, 26, "#f0a04a", 0.3)
    _post(canvas, WALL - 6)
    return canvas


def _flames(canvas: Canvas, cx: int) -> None:
    rows = ("#c2481f", 61, 9, 1), ("#e2582f", 56, 8, 2), ("#f08a3a", 58, 6, 3), ("#ffd27a", 60, 3, 4)
    heights = (3, 7, 10, 6, 12, 8, 14, 9, 11, 5, 8, 4)
    for colour, base, reach, level in rows:
        for i, height in enumerate(heights):
            x = cx - 6 + i
            if abs(i - 5.5) <= reach:
                top = max(1, height - level * 2)
                canvas.rect(colour, x, min(base, 61) - top + 1, 1, top + 61 - min(base, 61))


def _bottles(canvas: Canvas, rng: random.Random, x: int, width: int, y: int) -> None:
    colours = ("#7d9a4a", "#8a3c35", "#3f7c8a", "#b58a3d", "#6a4d8a", "#557a4c")
    end = x + width
    while x < end:
        colour, height = rng.choice(colours), 4 + rng.randrange(4)
        canvas.rect(colour, x, y - height, 3, height)
        canvas.rect(colour, x + 1, y - height - 2, 1, 2)
        canvas.rect("#ffffff", x, y - height + 1, 1, height - 2, 0.25)
        x += 5


def _right(prop: Callable[[str], Grid]) -> Canvas:
    canvas, rng = Canvas(WALL), random.Random("right")
    _wall(canvas, rng)
    for y in (17, 30):
        canvas.rect("#6d4c30", 14, y, 62, 2)
        canvas.rect("#3a2617", 14, y + 2, 62, 1)
        _bottles(canvas, rng, 16, 34 if y == 17 else 44, y)
    for x, y in ((54, 11), (62, 11), (64, 24)):
        canvas.stamp(prop("mug"), x, y)
    canvas.rect("#3f4341", 80, 6, 1, 6)  # a lantern
    canvas.rect("#8a5a22", 77, 12, 7, 9)
    canvas.rect("#ffd27a", 78, 13, 5, 7)
    canvas.rect("#fff2c0", 79, 14, 3, 4)
    canvas.rect("#7a5636", 12, 48, 80, 3)  # the counter
    canvas.rect("#946c46", 12, 48, 80, 1)
    canvas.rect("#3f2a1a", 14, 51, 78, 16)
    for x in range(16, 88, 14):
        canvas.rect("#4f3621", x, 53, 11, 12)
        canvas.rect("#33210f", x, 53, 11, 1)
    canvas.stamp(prop("mug"), 40, 42)
    _barrel(canvas, 9, 57)
    canvas.glow(80, 16, 40, "#e0a048", 0.3)
    _post(canvas, 0)
    return canvas


def _barrel(canvas: Canvas, bx: int, by: int) -> None:
    for j, width in enumerate((11, 13, 15, 15, 16, 16, 16, 16, 16, 16, 15, 15, 13, 11)):
        left = bx + 8 - width // 2
        canvas.rect("#17120f", left - 1, by + j, width + 2, 1)
        for i in range(width):
            stave = "#8f6439" if i < 3 else "#5d3d22" if i > width - 4 else "#774f2d"
            canvas.dot("#4b311c" if i % 4 == 3 else stave, left + i, by + j)
        if j in (3, 10):
            canvas.rect("#484c4a", left, by + j, width, 1)
            canvas.rect("#6b706d", left + 1, by + j, 3, 1)
    canvas.rect("#17120f", bx + 2, by - 1, 12, 1)
    canvas.rect("#9a7446", bx + 4, by, 8, 1)


def _floor(canvas: Canvas, base: str, line: str, edge: str) -> None:
    canvas.rect(base, 0, 60, canvas.width, 16)
    canvas.rect(edge, 0, 60, canvas.width, 1)
    y, gap = 61, 2
    while y < HEIGHT:
        canvas.rect(line, 0, y + gap - 1, canvas.width, 1)
        y, gap = y + gap, gap + 1
    for k in range(-28, 29):
        for row in range(61, HEIGHT):
            canvas.dot(line, round(canvas.width / 2 + k * (9 + (row - 60) * 1.1)), row)


def _library(canvas: Canvas, rng: random.Random) -> None:
    canvas.rect("#1c1a31", 0, 0, canvas.width, HEIGHT)
    for x in range(0, canvas.width, 7):
        canvas.rect("#211f3a", x, 0, 1, 60)
    middle = canvas.width // 2
    for k in range(7):
        _shelf(canvas, rng, middle + 19 + k * 31)
        _shelf(canvas, rng, middle - 47 - k * 31)
    x = middle - 11  # a tall window with the moon
    canvas.rect("#3b3654", x - 2, 6, 26, 52)
    canvas.rect("#0f1830", x, 10, 22, 46)
    canvas.rect("#0f1830", x + 3, 7, 16, 4)
    for _ in range(14):
        canvas.dot("#c9d6f0", x + 1 + rng.randrange(20), 9 + rng.randrange(40))
    canvas.disc("#f3eccf", x + 15, 20, 5)
    canvas.rect("#d9cfa8", x + 12, 19, 2, 2)
    canvas.dot("#d9cfa8", x + 16, 22)
    canvas.rect("#3b3654", x + 10, 7, 2, 50)
    canvas.rect("#3b3654", x, 30, 22, 2)
    _floor(canvas, "#3b3550", "#2b2740", "#443d5c")
    canvas.glow(x + 11, 66, 46, "#6f7bb5", 0.33)


def _shelf(canvas: Canvas, rng: random.Random, x: int, width: int = 28) -> None:
    colours = ("#5d3345", "#34506b", "#3e6048", "#7a5a34", "#54447c", "#2f4b5c", "#6b3d2e")
    canvas.rect("#3a2618", x, 8, width, 52)
    canvas.rect("#523722", x, 8, width, 2)
    canvas.rect("#523722", x, 8, 1, 52)
    canvas.rect("#24170f", x + width - 1, 8, 1, 52)
    for y in range(11, 58, 12):
        canvas.rect("#150f12", x + 2, y, width - 4, 10)
        canvas.rect("#5c3f27", x + 1, y + 10, width - 2, 2)
        p = x + 3
        while p < x + width - 5:
            book, height, colour = 1 + rng.randrange(3), 5 + rng.randrange(4), rng.choice(colours)
            if rng.random() < 0.86:
                canvas.rect(colour, p, y + 10 - height, book, height)
                canvas.rect("#ffffff", p, y + 10 - height, 1, height, 0.13)
                if book > 2 and rng.random() < 0.6:
                    canvas.rect("#c79a4a", p, y + 12 - height, book, 1)
            p += book + (2 if rng.random() < 0.12 else 0)


def _foundry(canvas: Canvas, rng: random.Random) -> None:
    canvas.rect("#24181a", 0, 0, canvas.width, HEIGHT)
    for j in range(0, 60, 5):
        for i in range((j // 5 & 1) * 5 - 5, canvas.width, 10):
            if rng.random() < 0.75:
                canvas.rect(rng.choice(("#2d1e1e", "#2a1b1d", "#332120")), i + 1, j + 1, 9, 4)
    middle = canvas.width // 2
    for cx, cy, radius, colour in (
        (-64, 22, 14, "#4a3530"),
        (-42, 35, 9, "#5a4036"),
        (66, 20, 12, "#4a3530"),
        (48, 32, 7, "#5a4036"),
        (-150, 24, 12, "#4a3530"),
        (-132, 38, 8, "#5a4036"),
        (150, 26, 14, "#4a3530"),
        (128, 36, 8, "#5a4036"),
    ):
        _cog(canvas, middle + cx, cy, radius, colour)
    canvas.rect("#3b2a28", middle - 20, 16, 40, 44)  # the furnace
    canvas.rect("#4c3630", middle - 20, 16, 40, 3)
    canvas.rect("#120a0a", middle - 13, 28, 26, 32)
    canvas.disc("#120a0a", middle, 28, 13, upper=True)
    canvas.rect("#c2481f", middle - 11, 50, 22, 10)
    canvas.rect("#f08a3a", middle - 8, 53, 16, 7)
    canvas.rect("#ffd27a", middle - 4, 56, 8, 4)
    canvas.rect("#5d4a3c", 0, 8, canvas.width, 3)
    canvas.rect("#7a624e", 0, 8, canvas.width, 1)
    for x in range(10, canvas.width, 26):
        canvas.rect("#3e3028", x, 6, 4, 7)
    _floor(canvas, "#463432", "#382827", "#513d39")
    canvas.glow(middle, 60, 52, "#d9622c", 0.42)


def _cog(canvas: Canvas, cx: int, cy: int, radius: int, colour: str) -> None:
    for tooth in range(10):
        angle = tooth / 10 * math.tau
        canvas.rect(colour, round(cx + math.cos(angle) * radius) - 1, round(cy + math.sin(angle) * radius) - 1, 4, 4)
    canvas.disc(colour, cx, cy, radius)
    canvas.disc("#241819", cx, cy, radius * 0.45)


def _ring(canvas: Canvas, rng: random.Random) -> None:
    canvas.rect("#1a2340", 0, 0, canvas.width, 40)
    for _ in range(int(canvas.width * 0.4)):
        canvas.dot("#8fa0cf", rng.randrange(canvas.width), rng.randrange(26))
    for x in range(0, canvas.width, 6):
        height = 24 + rng.randrange(4)
        canvas.rect("#4a3420", x, 54 - height, 5, height + 8)
        canvas.rect("#5f442a", x, 54 - height, 1, height + 8)
        canvas.rect("#5f442a", x + 1, 52 - height, 3, 2)
    canvas.rect("#34240f", 0, 40, canvas.width, 2)
    for x in range(14, canvas.width, 44):
        canvas.rect("#2b1d12", x, 12, 2, 36)
        canvas.rect("#a8433a", x + 2, 14, 10, 14)
        canvas.rect("#c9574a", x + 2, 14, 10, 2)
        canvas.rect("#e8c46a", x + 5, 18, 4, 4)
        canvas.rect("#a8433a", x + 2, 28, 4, 3)
        canvas.rect("#a8433a", x + 8, 28, 4, 3)
    _floor(canvas, "#7a5f3f", "#6b5236", "#876b49")
    canvas.glow(canvas.width / 2, 62, 60, "#e0a85a", 0.25)


def _glade(canvas: Canvas, rng: random.Random) -> None:
    for i, colour in enumerate(("#1c2b46", "#24395a", "#33506b", "#5a6f74", "#8d8468")):
        canvas.rect(colour, 0, i * 11, canvas.width, 12)
    for _ in range(int(canvas.width * 0.15)):
        canvas.dot("#cfe0f0", rng.randrange(canvas.width), rng.randrange(18))
    for x in range(canvas.width):
        far = 18 + math.sin((x + 40) / 23) * 7 + math.sin(x / 7) * 2
        canvas.rect("#2b4150", x, 58 - far, 1, far + 3)
    for x in range(canvas.width):
        near = 9 + math.sin(x / 13 + 2) * 4 + math.sin(x / 3) * 1.2
        canvas.rect("#223a38", x, 60 - near, 1, near + 2)
    x = 4.0
    while x < canvas.width:
        tall = 20 + rng.randrange(14)
        canvas.rect("#241a16", x, 60 - tall * 0.5, 2, tall * 0.5 + 1)
        for k in range(int(tall * 0.8)):
            half = max(1, int(k % 5 + k * 0.28))
            canvas.rect("#2c5242" if k % 5 < 2 else "#20402f", int(x) + 1 - half, 60 - tall + k, half * 2, 1)
        x += 16 + rng.random() * 14
    _floor(canvas, "#36543a", "#2c4731", "#416247")


def _night(canvas: Canvas, rng: random.Random) -> None:
    for i, colour in enumerate(("#0e1428", "#121b36", "#182445", "#203055")):
        canvas.rect(colour, 0, i * 14, canvas.width, 20)
    for _ in range(canvas.width // 2):
        colour = "#f5ecd0" if rng.random() < 0.3 else "#7f90bd"
        canvas.dot(colour, rng.randrange(canvas.width), rng.randrange(44))
    moon = canvas.width * 0.6
    canvas.disc("#f3eccf", moon, 18, 8)
    canvas.disc("#121b36", moon + 4, 16, 7)
    x = 0
    while x < canvas.width:
        width, height = 8 + rng.randrange(12), 12 + rng.randrange(16)
        canvas.rect("#0c1120", x, 60 - height, width, height)
        for k in range(width // 2):
            canvas.rect("#0c1120", x + k, 60 - height - k / 1.5, width - 2 * k, 1)
        for _ in range(3):
            if rng.random() < 0.6:
                canvas.rect(
                    "#e8a94a", x + 2 + rng.randrange(max(1, width - 4)), 62 - height + rng.randrange(height - 6), 1, 2
                )
        x += width + 1
    _floor(canvas, "#232b3f", "#1c2334", "#2b3550")


def encode_png(grid: Grid) -> bytes:
    """Return an indexed PNG (or a true-colour one past 256 colours) of an opaque picture."""
    colours = sorted({colour or "#000000" for row in grid for colour in row})
    indexed = len(colours) <= 256
    index = {colour: number for number, colour in enumerate(colours)}
    lines = bytearray()
    for row in grid:
        lines.append(0)
        for colour in row:
            colour = colour or "#000000"
            lines += bytes([index[colour]]) if indexed else bytes.fromhex(colour[1:])
    header = struct.pack(">IIBBBBB", len(grid[0]), len(grid), 8, 3 if indexed else 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    if indexed:
        chunks.append(_chunk(b"PLTE", b"".join(bytes.fromhex(colour[1:]) for colour in colours)))
    chunks += [_chunk(b"IDAT", zlib.compress(bytes(lines), 9)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def same_picture(one: bytes, other: bytes) -> bool:
    """Tell whether two PNGs hold the same pixels, whichever zlib packed them."""
    return _unpacked(one) == _unpacked(other)


def _unpacked(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        found.append((kind, zlib.decompress(body) if kind == b"IDAT" else body))
        at += 12 + length
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _blend(base: str, over: str, alpha: float) -> str:
    pairs = zip(bytes.fromhex(base[1:]), bytes.fromhex(over[1:]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * alpha):02x}" for a, b in pairs)
