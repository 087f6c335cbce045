"""Files that arrive through the web, on their way to the inbox (`arena.intake.Upload`), and what became of each.

Order, so that a crash at any point loses nothing that was acknowledged: stream into a file that the intake does not
look at, sync, rename into the inbox, write the upload's record, answer. A request that is repeated with its idempotency
key finds the record; one that crashed before it is repeated whole, and the intake recognises content that it has
already. Nothing that came from outside becomes a path but one plain file name.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

from arena.intake import Upload
from realm.errors import CorruptFileError, NotFoundError, RealmError, RefusedError
from realm.files import durable_write_json, read_json
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
    """A file that is safe in the inbox. `name` is what its job will be called."""

    id: str
    name: str
    size: int
    sha256: str
    at: float


class UploadDesk:
    """Takes files in, at most MAX_AT_ONCE at a time."""

    def __init__(self, paths: RealmPaths, *, limit_bytes: int, floor_bytes: int) -> None:
        self._paths = paths
        self._limit = limit_bytes
        self._floor = floor_bytes
        self._open = 0

    async def take(
        self,
        chunks: AsyncIterator[bytes],
        name: str,
        priority: str,
        upload_id: str | None = None,
        *,
        job_name: str | None = None,
    ) -> Received:
        """Receive a file. `job_name` is set where the file itself names its job. Raises RefusedError, DiskFullError."""
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
        try:
            return await self._receive(chunks, name, priority, upload_id, job_name)
        finally:
            self._open -= 1

    async def _receive(
        self, chunks: AsyncIterator[bytes], name: str, priority: str, upload_id: str, job_name: str | None
    ) -> Received:
        chosen = None if priority == "normal" else priority
        limits = {"limit_bytes": self._limit, "disk_floor_bytes": self._floor}
        digest = hashlib.sha256()
        size = 0
        upload = await asyncio.to_thread(Upload, self._paths, name, priority=chosen, **limits)
        try:
            async for piece in _gathered(chunks):
                size += len(piece)
                digest.update(piece)
                await asyncio.to_thread(upload.write, piece)
            if size == 0:
                raise RefusedError("The file is empty.", code="empty_file")
            path = await asyncio.to_thread(upload.commit)
        finally:
            await asyncio.to_thread(upload.abort)
        received = Received(upload_id, job_name or path.name, size, digest.hexdigest(), time.time())
        await asyncio.to_thread(self._remember, received)
        return received

    def find(self, upload_id: str) -> Received | None:
        """Return an upload by id, or None."""
        try:
            return Received(**read_json(self._paths.control / "uploads" / f"{_checked(upload_id)}.json"))
        except (NotFoundError, CorruptFileError, TypeError):
            return None

    def _remember(self, received: Received) -> None:
        record = self._paths.control / "uploads" / f"{_checked(received.id)}.json"
        record.parent.mkdir(exist_ok=True, mode=0o700)
        durable_write_json(record, asdict(received))


def job_of(vault: Vault, received: Received) -> Job | None:
    """Return the newest job that was made of an upload, among the last few hundred: by its content, else its name."""
    jobs: list[Job] = vault.jobs.list(limit=LOOK_BACK).items
    for job in jobs:
        if any(file.get("sha256") == received.sha256 for file in job.data):
            return job
    for job in jobs:
        if job.name == received.name and job.created_at >= received.at - 1.0:
            return job
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
    if len(name.encode("utf-8", "replace")) > 150 or "\N{REPLACEMENT CHARACTER}" in name:
        raise RefusedError("That name is too long or not readable.", code="bad_name")
    return name


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces of about a mebibyte: each one costs a switch to a thread."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        if len(buffer) >= CHUNK:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def _checked(upload_id: str) -> str:
    if not is_id(upload_id):
        raise NotFoundError("There is no such upload.", code="upload_not_found")
    return upload_id
