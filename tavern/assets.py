"""Static files under an address that changes with their content, so that browsers may keep them for ever.

`/assets/<build>/js/live.js`: the build is a hash over all files of `tavern/static`, computed once at the start; what
such a file imports by a relative address carries the same build. Only files that were there at the start are served,
by exact name. Sprite sizes are read from the baked sheet, so that templates need not repeat them.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import FileResponse

from realm.errors import NotFoundError

STATIC = Path(__file__).resolve().parent / "static"
KEPT = "public, max-age=31536000, immutable"
_HIDDEN = ("art/", "readme.png")
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2"}
_SYMBOL = re.compile(r'<symbol id="([\w-]+)" viewBox="0 0 (\d+) (\d+)"')


@dataclass(frozen=True)
class Assets:
    """The static files of this build."""

    build: str
    files: dict[str, Path]
    sprites: dict[str, tuple[int, int]]

    @classmethod
    def load(cls, folder: Path = STATIC) -> Assets:
        digest, files = hashlib.sha256(), {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not name.startswith(_HIDDEN):
                files[name] = path
                digest.update(name.encode() + b"\0" + path.read_bytes())
        sheet = (folder / "sprites.svg").read_text(encoding="utf-8")
        sizes = {name: (int(width), int(height)) for name, width, height in _SYMBOL.findall(sheet)}
        return cls(digest.hexdigest()[:12], files, sizes)

    def url(self, name: str) -> str:
        """Return a file's address. Raises KeyError for a file that does not exist."""
        if name not in self.files:
            raise KeyError(f"no static file {name}")
        return f"/assets/{self.build}/{name}"

    def response(self, build: str, name: str) -> FileResponse:
        """Return a file; one of another build is sent, but not to be kept. Raises NotFoundError."""
        path = self.files.get(name)
        if path is None:
            raise NotFoundError("There is no such file.")
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        caching = KEPT if build == self.build else "no-cache"
        return FileResponse(path, media_type=kind, headers={"Cache-Control": caching})
