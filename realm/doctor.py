"""`realm doctor`: is this machine fit for a realm, and is this realm well?

Each check answers ok, warn or fail with what to do about it, and none changes anything but a probe file that it
removes again. The checks of the realm itself are the sentinels'. `realm.killtest` is the proof by force.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from realm.errors import RealmError
from realm.sentinels import Finding, Level
from realm.settings import Settings

MINIMUM_PYTHON = (3, 11)
GIB = 1 << 30
COMFORTABLE_BYTES = 3 * GIB
SHM_BYTES = 64 << 20
DESCRIPTORS = 1024
FSYNC_PROBES = 15
NETWORK_KINDS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p"}


def examine(settings: Settings) -> list[Finding]:
    """Run every check. A check that cannot be carried out is a warning, never an exception."""
    checks: list[Callable[[Settings], Finding]] = [
        check_python,
        check_sqlite,
        check_torch,
        check_gpu,
        check_home,
        check_disk,
        check_fsync,
        check_memory_files,
        check_descriptors,
        check_port,
    ]
    findings = []
    for check in checks:
        try:
            findings.append(check(settings))
        except Exception as error:
            name = check.__name__.removeprefix("check_")
            findings.append(Finding(name, "warn", f"It could not be checked: {type(error).__name__}: {error}."))
    return [*findings, *patrol(settings)]


def worst(findings: list[Finding]) -> Level:
    """Return the gravest level among findings."""
    levels = {finding.level for finding in findings}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"


def check_python(_: Settings) -> Finding:
    words = f"Python {platform.python_version()} at {sys.executable}."
    if sys.version_info < MINIMUM_PYTHON:
        return Finding("python", "fail", words, "Use Python 3.11 or newer.")
    return Finding("python", "ok", words)


def check_sqlite(_: Settings) -> Finding:
    from vault.database import sqlite_module

    try:
        module = sqlite_module()
    except RealmError as error:
        return Finding("sqlite", "fail", error.message, error.hint)
    return Finding("sqlite", "ok", f"SQLite {module.sqlite_version} by {module.__name__}.")


def check_torch(_: Settings) -> Finding:
    if find_spec("torch") is None:
        return Finding("torch", "warn", "torch is not installed here.", "Install it: scripts/start_all.sh does.")
    from importlib.metadata import version

    missing = [name for name in ("transformers", "peft", "safetensors", "tokenizers") if find_spec(name) is None]
    if missing:
        return Finding("torch", "warn", f"Missing: {', '.join(missing)}.", "Install the extra [train].")
    return Finding("torch", "ok", f"torch {version('torch')}, transformers {version('transformers')}.")


def check_gpu(_: Settings) -> Finding:
    from arena.machine import Machine

    machine = Machine()
    gpus = machine.gpus()
    if not gpus:
        note = f" ({machine.gpu_note})" if machine.gpu_note else ""
        return Finding("gpu", "ok", f"No GPU{note}: the squire is trained on the processor.")
    named = ", ".join(f"{gpu.name} with {gpu.memory_total / GIB:.0f} GiB" for gpu in gpus)
    return Finding("gpu", "ok", named)


def check_home(settings: Settings) -> Finding:
    from vault.database import _file_system_of as file_system_of

    folder = _existing(settings.home)
    kind = file_system_of(folder)
    if kind in NETWORK_KINDS:
        advice = "Keep the home on a local disk; models and backups may lie elsewhere."
        return Finding("home", "fail", f"{settings.home} lies on a network file system ({kind}).", advice)
    if not os.access(folder, os.W_OK):
        return Finding("home", "fail", f"{folder} is not writable.", "Choose another folder with --home.")
    return Finding("home", "ok", f"{settings.home} on {kind or 'an unknown file system'}.")


def check_disk(settings: Settings) -> Finding:
    usage = shutil.disk_usage(_existing(settings.home))
    floor = settings.arena.disk_floor_mib << 20
    words = f"{usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB are free."
    if usage.free < floor:
        return Finding("disk", "fail", words, f"At least {floor >> 20} MiB are kept free; saves wait until they are.")
    if usage.free < COMFORTABLE_BYTES:
        return Finding("disk", "warn", words, "A few quests of the small hero need about 3 GiB.")
    return Finding("disk", "ok", words)


def check_fsync(settings: Settings) -> Finding:
    """Measure what a durable write costs. One that costs nothing is one that does not happen."""
    folder = _existing(settings.home)
    probe = folder / f".realm-doctor-{os.getpid()}"
    spans = []
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(FSYNC_PROBES):
            os.pwrite(descriptor, os.urandom(4096), 0)
            began = time.perf_counter()
            os.fsync(descriptor)
            spans.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)
    median = statistics.median(spans)
    words = f"A synced write takes {median * 1000:.2f} ms (median of {FSYNC_PROBES})."
    if median < 20e-6:
        return Finding("fsync", "warn", words, "That is too fast for a disk: a power cut may lose what was confirmed.")
    if median > 0.1:
        return Finding("fsync", "warn", words, "That is slow: saves and quests will wait for this disk.")
    return Finding("fsync", "ok", words)


def check_memory_files(_: Settings) -> Finding:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return Finding("shared memory", "warn", "There is no /dev/shm.", "Several workers a trainer will not work.")
    free = shutil.disk_usage(shm).free
    words = f"/dev/shm has {free / GIB:.2f} GiB free."
    if free < SHM_BYTES:
        return Finding("shared memory", "warn", words, "In a container give it more: --shm-size=1g.")
    return Finding("shared memory", "ok", words)


def check_descriptors(_: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    words = f"{soft} open files allowed (at most {hard})."
    if soft < DESCRIPTORS:
        return Finding("open files", "warn", words, f"Raise it: ulimit -n {DESCRIPTORS}.")
    return Finding("open files", "ok", words)


def check_port(settings: Settings) -> Finding:
    from realm.errors import ConflictError
    from realm.services import read_identity
    from realm.weaver.address import tavern_address
    from realm.weaver.control import check_port as check

    if read_identity(settings.paths, "tavern") is not None:
        return Finding("port", "ok", f"The Tavern answers at {tavern_address(settings)}")
    try:
        check(settings)
    except ConflictError as error:
        return Finding("port", "warn", error.message, error.hint)
    return Finding("port", "ok", f"Port {settings.tavern.port} is free.")


def patrol(settings: Settings) -> list[Finding]:
    """Let the sentinels look at the realm, if there is one."""
    if not settings.paths.vault_db.exists() and settings.vault.url is None:
        return [Finding("realm", "ok", f"There is no realm at {settings.home} yet.", "Start one with `realm up`.")]
    from realm.wiring import Realm

    realm = Realm(settings)
    try:
        found = realm.sentinels.inspector.full_patrol().findings
        return [finding for finding in found if finding.name != "disk"]  # looked at above
    except RealmError as error:
        return [Finding("realm", "fail", error.message, error.hint)]
    finally:
        realm.close()


def _existing(path: Path) -> Path:
    """Return the nearest folder at or above `path` that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
