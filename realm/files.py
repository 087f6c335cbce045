"""Files that are complete or absent.

`durable_write` writes beside, syncs, renames and syncs the folder; after it returns, a power cut cannot undo it.
`rename_noreplace` never overwrites. `open_beneath` is the one way from a name that came from outside to an open
file: it follows no links and cannot leave its root. A failed fsync is never retried: the error is raised and the
temporary file removed (PostgreSQL's lesson of 2018).

Linux: renameat2(2) and openat2(2) through libc, with component-wise fallbacks where the kernel has none.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any

from realm.errors import CorruptFileError, DiskFullError, NotFoundError, RefusedError

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def durable_write(path: Path, data: bytes, *, replace: bool = True, mode: int = 0o600) -> None:
    """Write `data` to `path` so that it is whole on disk or not there at all.

    Raises FileExistsError when `replace` is false and the name is taken; OSError (EIO, ENOSPC) with nothing left
    behind.
    """
    temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb", opener=lambda p, flags: os.open(p, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            rename_noreplace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def durable_write_json(path: Path, value: Any, *, replace: bool = True) -> None:
    """`durable_write` of `value` as indented UTF-8 JSON with sorted keys."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    durable_write(path, text.encode(), replace=replace)


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`. Raises NotFoundError, CorruptFileError."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist.", path=str(path)) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorruptFileError(f"{path} is not valid JSON: {error}.", path=str(path)) from error


def fsync_dir(path: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the content of a file that something else wrote durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_noreplace(source: Path, target: Path) -> None:
    """Rename `source` to `target`; raises FileExistsError when the name is taken. Works on files and folders."""
    if hasattr(_libc, "renameat2"):
        done = _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
        if done == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number), str(source), None, str(target))
    if source.is_dir():
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.rename(source, target)
    else:
        os.link(source, target)
        os.unlink(source)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(path: Path) -> int:
    """Return the bytes that an ordinary user may still write on the file system of `path`."""
    return shutil.disk_usage(path).free


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error means that there was no room on the disk; safetensors says so in words, not by number."""
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _NO_ROOM):
        return True
    return isinstance(error, Exception) and "No space left on device" in str(error)


def remove_tree(path: Path) -> None:
    """Delete a folder and all in it; links in it are removed, never followed."""
    shutil.rmtree(path, ignore_errors=False)


def open_beneath(root: Path, relative: str) -> int:
    """Open a regular file below `root` for reading and return its descriptor.

    No component may be a link, `..`, absolute, empty or hold a NUL. Raises RefusedError, NotFoundError.
    """
    parts = relative.split("/")
    if not relative or "\0" in relative or "\\" in relative or any(p in ("", ".", "..") for p in parts):
        raise RefusedError("That is not a plain relative name.", code="bad_name")
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError:
        raise NotFoundError("There is no such file.", relative=relative) from None
    except OSError as error:
        raise RefusedError("That name leads through a link or is not a file.", code="bad_name") from error
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedError("That is not a regular file.", code="bad_name")
    return descriptor
