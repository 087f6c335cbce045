"""Starting, finding and ending one service's process.

A service holds the flock on `control/services/NAME.lock` itself: the Weaver takes it, hands the descriptor down at the
start and lets go of its own copy. As long as the service lives nobody can start a second one, also when the Weaver
was killed between the start and writing the identity down; then the holder is found by its open descriptor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from realm.files import durable_write_json
from realm.paths import RealmPaths, project_root
from realm.processes import ProcessIdentity
from realm.services import Service, identity_file, lock_file, read_identity
from realm.settings import subprocess_environment

LOG_LIMIT_BYTES = 8 << 20
LOGS_KEPT = 3


def log_file(paths: RealmPaths, name: str) -> Path:
    return paths.logs / f"{name}.log"


def spawn(service: Service, paths: RealmPaths, extra: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """Start a service in a session of its own. Returns None when one is running already. Raises OSError."""
    lock_file(paths, service.name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(lock_file(paths, service.name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        with open_log(paths, service.name) as log:
            process = subprocess.Popen(
                [sys.executable, *service.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
                cwd=project_root(),
                env=subprocess_environment(paths.home, PYTHONUNBUFFERED="1", **extra),
            )
    finally:
        os.close(lock)
    identity = ProcessIdentity.of(process.pid)
    if identity is not None:
        note_identity(service, paths, identity)
    return process


def note_identity(service: Service, paths: RealmPaths, identity: ProcessIdentity) -> bool:
    """Write down which process a service is, unless it says so already; False when the disk has no room for it.

    Nothing depends on it: whoever holds the service's lock can be found without.
    """
    if read_identity(paths, service.name) == identity:
        return True
    value = {"identity": identity.to_dict(), "argv": list(service.argv), "started_at": time.time()}
    try:
        durable_write_json(identity_file(paths, service.name), value)
    except OSError:
        return False
    return True


def find_running(service: Service, paths: RealmPaths) -> ProcessIdentity | None:
    """Return the service's process if one lives: by its identity file, else by who holds its lock."""
    known = read_identity(paths, service.name)
    if known is not None:
        return known
    holder = _holder(lock_file(paths, service.name))
    if holder is not None:
        note_identity(service, paths, holder)
    return holder


def end(identity: ProcessIdentity, number: int, *, group: bool = False) -> None:
    """Signal a service, or all of its session's first group, if it is still this very process."""
    if not group:
        identity.signal(number)
    elif identity.is_alive():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(identity.pid, number)


def kill(identity: ProcessIdentity) -> None:
    """End a service that did not listen, with its process group."""
    end(identity, signal.SIGKILL, group=True)


def open_log(paths: RealmPaths, name: str) -> IO[bytes]:
    """Open a service's log for appending, readable by its owner alone."""
    paths.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    return open(log_file(paths, name), "ab", opener=lambda p, flags: os.open(p, flags, 0o600))


def rotate_log(paths: RealmPaths, name: str, limit: int = LOG_LIMIT_BYTES) -> bool:
    """Move a log that outgrew `limit` to NAME.log.1; the writer goes on in the emptied file (it appends)."""
    path = log_file(paths, name)
    try:
        if path.stat().st_size < limit:
            return False
    except FileNotFoundError:
        return False
    copy = path.with_name(f".{path.name}.copy")
    try:
        shutil.copyfile(path, copy)
    except OSError:  # no room for a copy: the log goes on growing until there is
        copy.unlink(missing_ok=True)
        return False
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    copy.replace(path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
    return True


def last_lines(paths: RealmPaths, name: str, since_offset: int = 0, lines: int = 3) -> str:
    """Return the last lines that a service wrote after `since_offset`, for people."""
    try:
        with open(log_file(paths, name), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0 if size < since_offset else since_offset, size - 8192)
            file.seek(start)
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    kept = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(kept[-lines:])[-600:]


def _holder(lock: Path) -> ProcessIdentity | None:
    """Return the oldest other process that has `lock` open and locked."""
    try:
        wanted = lock.stat()
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None  # free: whoever has it open does not hold it
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            held = any(_same(Path(link.path), wanted) for link in os.scandir(f"/proc/{entry.name}/fd"))
        except OSError:
            continue
        identity = ProcessIdentity.of(int(entry.name)) if held else None
        if identity is not None:
            found.append(identity)
    return min(found, key=lambda identity: identity.start_ticks, default=None)


def _same(link: Path, wanted: os.stat_result) -> bool:
    try:
        status = os.stat(link)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino)
