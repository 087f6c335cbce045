"""The file side of the intake: what lies in the inbox, whether it is complete, copying it, taking it out.

Content is known by (inode, size, time of change): the same three before and after mean that nobody wrote in between.
Inode numbers are used again and times of change are copied along, so one drop is told from the next by the time at
which its name came to be here as well.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from realm.errors import DiskFullError
from realm.files import free_bytes, rename_noreplace
from realm.paths import PRIORITIES
from vault.records import Priority

TAKEN = ".taken-"
UPLOAD = ".upload-"
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ChangedError(Exception):
    """A file was written to, replaced or removed while it was being taken."""


@dataclass(frozen=True)
class Identity:
    """One content of a file. Device numbers are left out: they change with the order of booting."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def token(self) -> str:
        return f"{self.inode:x}-{self.size:x}-{self.mtime_ns:x}"


@dataclass(frozen=True)
class Entry:
    """A regular file in the inbox."""

    folder: Path
    name: str
    priority: Priority
    source: str
    identity: Identity
    ctime_ns: int

    @property
    def drop(self) -> str:
        """Names this drop: the same after a crash, another when the same file is dropped again."""
        return f"{self.identity.token}-{self.ctime_ns:x}"

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def is_quest(self) -> bool:
        return self.name.lower().endswith((".yaml", ".yml"))


@dataclass(frozen=True)
class Oddity:
    """Something in the inbox that is not taken."""

    path: Path
    inode: int
    reason: str


@dataclass(frozen=True)
class Staged:
    """A private copy of a file."""

    path: Path
    sha256: str
    size: int


def list_inbox(inbox: Path) -> tuple[list[Entry], list[Oddity]]:
    """Return the files of the inbox and of its priority folders, and what else lies there."""
    entries, oddities, folders = _list(inbox, "normal", "inbox")
    for name in sorted(folders):
        if name in PRIORITIES:
            below, odd, deeper = _list(inbox / name, cast(Priority, name), f"inbox/{name}")
            entries += below
            oddities += odd
            oddities += [_folder(inbox / name / deep, inode) for deep, inode in deeper.items()]
        else:
            oddities.append(_folder(inbox / name, folders[name]))
    return entries, oddities


def _folder(path: Path, inode: int) -> Oddity:
    return Oddity(path, inode, "it is a folder; only files are taken")


def _list(folder: Path, priority: Priority, source: str) -> tuple[list[Entry], list[Oddity], dict[str, int]]:
    entries: list[Entry] = []
    oddities: list[Oddity] = []
    folders: dict[str, int] = {}
    with os.scandir(folder) as listing:
        for item in listing:
            name = item.name
            if name.startswith(".") or name.endswith((".part", ".tmp", "~")):
                continue
            try:
                status = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                entries.append(Entry(folder, name, priority, source, Identity.of(status), status.st_ctime_ns))
            elif stat.S_ISDIR(status.st_mode):
                folders[name] = status.st_ino
            elif stat.S_ISLNK(status.st_mode):
                oddities.append(Oddity(folder / name, status.st_ino, "it is a link; copy the file itself here"))
            else:
                oddities.append(Oddity(folder / name, status.st_ino, "it is not a regular file"))
    return entries, oddities, folders


def open_entry(entry: Entry) -> int:
    """Open a file of the inbox as it was listed. Raises ChangedError when it is another one by now."""
    try:
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise ChangedError(entry.name) from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or Identity.of(status) != entry.identity:
        os.close(descriptor)
        raise ChangedError(entry.name)
    return descriptor


def has_writer(descriptor: int) -> bool | None:
    """Tell whether any process has this file open for writing; None where the file system cannot say.

    A read lease is granted only when there is no writer. It is given back at once.
    """
    try:
        take_lease(descriptor)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    release_lease(descriptor)
    return False


def take_lease(descriptor: int) -> None:
    """Take a read lease. Should a writer come, the kernel's signal is SIGURG, which does nothing by default.

    The default for leases, SIGIO, would end the process. Giving a lease back forgets the choice of signal.
    """
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def release_lease(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def copy_entry(entry: Entry, descriptor: int, target: Path, tick: Callable[[], None]) -> Staged:
    """Copy an open file to `target` while hashing it. Raises ChangedError when it changed meanwhile."""
    total = hashlib.sha256()
    size = 0
    with open(target, "xb", opener=lambda path, flags: os.open(path, flags, 0o600), buffering=0) as out:
        while chunk := os.read(descriptor, _CHUNK):
            total.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[out.write(view) or 0 :]
            size += len(chunk)
            tick()
    if size != entry.identity.size or Identity.of(os.fstat(descriptor)) != entry.identity:
        raise ChangedError(entry.name)
    return Staged(target, total.hexdigest(), size)


def read_entry(entry: Entry, descriptor: int, limit: int) -> bytes:
    """Read a small file whole, at most one byte beyond `limit`. Raises ChangedError."""
    parts = []
    left = limit + 1
    while left > 0 and (chunk := os.read(descriptor, min(left, _CHUNK))):
        parts.append(chunk)
        left -= len(chunk)
    if Identity.of(os.fstat(descriptor)) != entry.identity:
        raise ChangedError(entry.name)
    return b"".join(parts)


def promote(staged: Path, target: Path) -> None:
    """Give a synced copy its final, immutable name. An object of that name and size is kept, a damaged one replaced."""
    os.chmod(staged, 0o400)
    try:
        rename_noreplace(staged, target)
    except FileExistsError:
        if os.lstat(target).st_size == os.lstat(staged).st_size:
            os.unlink(staged)
        else:
            os.replace(staged, target)


def take_out(entry: Entry) -> bool:
    """Remove an accepted file from the inbox; return False, leaving what is there, when it is another one by now.

    The name is renamed away first and looked at after, so that a file that was put in its place is never removed.
    """
    taken = entry.folder / f"{TAKEN}{entry.identity.token}"
    try:
        os.rename(entry.path, taken)
    except FileNotFoundError:
        return True
    if Identity.of(os.lstat(taken)) == entry.identity:
        os.unlink(taken)
        return True
    _put_back(taken, entry.path)
    return False


def settle_taken(folder: Path) -> None:
    """Finish what a crash left between renaming away and removing."""
    for name in os.listdir(folder):
        if name.startswith(TAKEN):
            path = folder / name
            if Identity.of(os.lstat(path)).token == name.removeprefix(TAKEN):
                path.unlink()
            else:
                _put_back(path, folder / f"recovered-{secrets.token_hex(4)}")


def _put_back(taken: Path, original: Path) -> None:
    target = original
    while True:
        try:
            rename_noreplace(taken, target)
            return
        except FileExistsError:
            target = original.with_name(f"{original.stem[:80]}-{secrets.token_hex(4)}{original.suffix[:40]}")


def move_away(entry: Entry, target: Path) -> None:
    """Move a refused file out of the inbox to a free name. Raises ChangedError when it is another one by now."""
    try:
        rename_noreplace(entry.path, target)
    except FileNotFoundError as error:
        raise ChangedError(entry.name) from error
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
        shutil.copyfile(entry.path, temporary, follow_symlinks=False)
        rename_noreplace(temporary, target)
        take_out(entry)
        return
    if Identity.of(os.lstat(target)) != entry.identity:
        _put_back(target, entry.path)
        raise ChangedError(entry.name)


def check_room(folder: Path, needed: int, floor: int) -> None:
    """Raise DiskFullError when writing `needed` bytes would leave less than `floor`."""
    free = free_bytes(folder)
    if free - needed < floor:
        raise DiskFullError(
            f"The disk has {free >> 20:,} MiB left; taking this file would eat into the floor of {floor >> 20:,} MiB.",
            hint="Make room; the file stays where it is and is taken then.",
            needed=needed,
            free=free,
        )


def is_full(error: OSError) -> bool:
    return error.errno in _FULL
