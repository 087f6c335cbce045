"""Files that arrive through the web, on their way to the inbox.

Order, so that a crash at any point loses nothing that was acknowledged: stream into the staging folder under a name of
our own, sync, rename into the inbox without ever replacing a file, write the upload's record, answer. A request that is
repeated with its idempotency key finds the record; one that crashed before it is repeated whole, and the intake
recognises content that it has already. Nothing that came from outside becomes a path but one plain file name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm.errors import CorruptFileError, DiskFullError, NotFoundError, RealmError, RefusedError
from realm.files import durable_write_json, free_bytes, fsync_dir, read_json, rename_noreplace
from realm.ids import is_id, new_id
from realm.paths import RealmPaths
from vault.records import Job
from vault.store import Vault

CHUNK = 1 << 20
LOOK_BACK = 200
MAX_AT_ONCE = 8
_BANNED = set('/\\:*?"<>|')


class BusyError(RealmError):
    """More uploads at once than the disk should bear."""

    code = "too_many_uploads"
    status = 503


@dataclass(frozen=True)
class Received:
    """A file that is safe in the inbox."""

    id: str
    name: str
    size: int
    sha256: str


class UploadDesk:
    """Takes files in, at most MAX_AT_ONCE at a time."""

    def __init__(self, paths: RealmPaths, floor_bytes: int) -> None:
        self._paths = paths
        self._floor = floor_bytes
        self._open = 0

    async def take(self, chunks: AsyncIterator[bytes], name: str, priority: str, upload_id: str | None) -> Received:
        """Receive a file. Raises RefusedError, DiskFullError, BusyError."""
        name = plain_name(name)
        upload_id = upload_id or new_id("upload")
        known = await asyncio.to_thread(self.find, upload_id)
        if known is not None:
            async for _ in chunks:
                pass
            return known
        if self._open >= MAX_AT_ONCE:
            raise BusyError("Too many files are being received already.", hint="Try again in a moment.")
        self._open += 1
        part = self._paths.staging / f".{new_id('upload')}.part"
        try:
            size, sha256 = await self._write(part, chunks)
            return await asyncio.to_thread(self._place, part, Received(upload_id, name, size, sha256), priority)
        finally:
            self._open -= 1
            await asyncio.to_thread(part.unlink, missing_ok=True)

    def find(self, upload_id: str) -> Received | None:
        """Return an upload by id, or None."""
        try:
            value = read_json(self._record(upload_id))
            return Received(upload_id, str(value["name"]), int(value["size"]), str(value["sha256"]))
        except (NotFoundError, CorruptFileError, KeyError, TypeError, ValueError):
            return None

    async def _write(self, part: Path, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        digest = hashlib.sha256()
        size = 0
        buffer = bytearray()
        with await asyncio.to_thread(_create, part) as file:
            async for chunk in chunks:
                buffer += chunk
                if len(buffer) >= CHUNK:
                    size += len(buffer)
                    await asyncio.to_thread(self._append, file, bytes(buffer), digest)
                    buffer.clear()
            size += len(buffer)
            await asyncio.to_thread(self._append, file, bytes(buffer), digest)
            await asyncio.to_thread(os.fsync, file.fileno())
        if size == 0:
            raise RefusedError("The file is empty.", code="empty_file")
        return size, digest.hexdigest()

    def _append(self, file: Any, data: bytes, digest: Any) -> None:
        free = free_bytes(self._paths.home)
        if free - len(data) < self._floor:
            raise DiskFullError("There is no room for this file.", needed=self._floor + len(data), free=free)
        digest.update(data)
        file.write(data)
        file.flush()

    def _place(self, part: Path, received: Received, priority: str) -> Received:
        folder = self._paths.inbox if priority == "normal" else self._paths.inbox / priority
        folder.mkdir(exist_ok=True, mode=0o700)
        stem, suffix = os.path.splitext(received.name)
        for number in range(1, 1000):
            try:
                rename_noreplace(part, folder / (received.name if number == 1 else f"{stem}-{number}{suffix}"))
                break
            except FileExistsError:
                continue
        else:
            raise RefusedError("The inbox is full of files of that name.", code="name_taken")
        fsync_dir(folder)
        record = self._record(received.id)
        record.parent.mkdir(exist_ok=True, mode=0o700)
        durable_write_json(record, {"name": received.name, "size": received.size, "sha256": received.sha256})
        return received

    def _record(self, upload_id: str) -> Path:
        if not is_id(upload_id):
            raise NotFoundError("There is no such upload.", code="upload_not_found")
        return self._paths.control / "uploads" / f"{upload_id}.json"


def job_of(vault: Vault, sha256: str) -> Job | None:
    """Return the newest job that was made of a file with this content, among the last few hundred."""
    for job in vault.jobs.list(limit=LOOK_BACK).items:
        if any(file.get("sha256") == sha256 for file in job.data):
            found: Job = job
            return found
    return None


def plain_name(name: str) -> str:
    """Return a name that is one visible path component of at most 150 bytes. Raises RefusedError."""
    bad = any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 or letter in _BANNED for letter in name)
    if bad or not name or name != name.strip() or name[0] in ".-~" or name.endswith((".part", ".tmp", "~")):
        raise RefusedError(
            "That cannot be the name of a file here.",
            hint="Use a plain name such as words.jsonl: no slashes, no leading dot or dash.",
            code="bad_name",
        )
    if len(name.encode("utf-8", "replace")) > 150 or "�" in name:
        raise RefusedError("That name is too long or not readable.", code="bad_name")
    return name


def _create(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
