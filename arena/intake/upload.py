"""Uploads: a stream from the web or a program becomes a file in the inbox, and goes the way of every other file.

It is written under a name that the intake does not look at, synced, and only then renamed; a reader never meets half
of it. Memory stays constant, size and free space are watched.
"""

from __future__ import annotations

import os
import re
import secrets
import time
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from arena.intake.files import UPLOAD, check_room, is_full
from realm.errors import DiskFullError, RefusedError
from realm.files import fsync_dir, rename_noreplace
from realm.paths import PRIORITIES, RealmPaths

MAX_NAME_BYTES = 180
_CHECK_EVERY = 16 << 20
_SETTLED_S = 60.0
"""How far the time of a finished upload is set back: it need not prove again that nobody writes to it."""


def safe_name(name: str) -> str:
    """Return a file name that is one visible component, is not ignored by the intake, and is short enough."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    name = "".join("_" if unicodedata.category(c)[0] in "CZ" and c != " " else c for c in name).strip(" ").lstrip(".")
    name = name.strip() or "upload"
    if name.endswith((".part", ".tmp", "~")):
        name += "_"
    stem, ending = _split(name)
    return stem.encode()[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore") + ending


def _split(name: str) -> tuple[str, str]:
    """Return a name without and with its ending, `.gz` included."""
    found = re.search(r"(?<=.)\.[A-Za-z0-9_]{1,16}(?:\.gz)?$", name)
    return (name[: found.start()], found[0]) if found else (name, "")


class Upload:
    """A file on its way into the inbox: `write` its bytes, then `commit`; leaving the block otherwise removes it.

    Raises RefusedError when it grows beyond the limit, DiskFullError when the disk would.
    """

    def __init__(
        self,
        paths: RealmPaths,
        name: str,
        *,
        limit_bytes: int,
        disk_floor_bytes: int = 0,
        priority: str | None = None,
    ) -> None:
        if priority is not None and priority not in PRIORITIES:
            raise RefusedError(f"There is no priority {priority!r:.40}.", hint=f"Use one of {', '.join(PRIORITIES)}.")
        self._folder = paths.inbox / priority if priority else paths.inbox
        self._folder.mkdir(exist_ok=True, mode=0o700)
        self._name = safe_name(name)
        self._limit = limit_bytes
        self._floor = disk_floor_bytes
        self._part = self._folder / f"{UPLOAD}{secrets.token_hex(8)}.part"
        self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._size = self._checked = 0
        self._open = True

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._size += len(data)
        if self._size > self._limit:
            raise RefusedError(
                f"{self._name} is larger than the {self._limit >> 20:,} MiB that may be uploaded.",
                hint="Copy it into the inbox folder instead, or raise tavern.upload_limit_mib.",
                code="upload_too_large",
            )
        if self._size >= self._checked:
            check_room(self._folder, len(data), self._floor)
            self._checked = self._size + _CHECK_EVERY
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            if is_full(error):
                raise DiskFullError("The disk is full.", hint="Make room and upload again.") from error
            raise

    def commit(self) -> Path:
        """Put the file into the inbox under a free name and return its path; durable when this returns."""
        now = time.time_ns()
        os.utime(self._descriptor, ns=(now, now - int(_SETTLED_S * 1e9)))
        os.fsync(self._descriptor)
        self._close()
        target = self._folder / self._name
        for number in range(2, 10_000):
            try:
                rename_noreplace(self._part, target)
                break
            except FileExistsError:
                stem, ending = _split(self._name)
                target = self._folder / f"{stem}-{number}{ending}"
        else:
            raise RefusedError(f"Too many files are called {self._name}.", code="name_taken")
        fsync_dir(self._folder)
        return target

    def abort(self) -> None:
        """Throw away what was not committed; harmless afterwards."""
        if self._open:
            self._close()
        self._part.unlink(missing_ok=True)

    def _close(self) -> None:
        self._open = False
        os.close(self._descriptor)


def accept_upload(
    paths: RealmPaths,
    stream: BinaryIO | Iterable[bytes],
    name: str,
    *,
    limit_bytes: int,
    disk_floor_bytes: int = 0,
    priority: str | None = None,
) -> Path:
    """Put a stream into the inbox as one file and return its path. Raises RefusedError, DiskFullError."""
    chunks = iter(lambda: stream.read(1 << 18), b"") if hasattr(stream, "read") else iter(stream)
    with Upload(paths, name, limit_bytes=limit_bytes, disk_floor_bytes=disk_floor_bytes, priority=priority) as upload:
        for chunk in chunks:
            upload.write(chunk)
        return upload.commit()
