"""Checkpoints of one run: written so that a crash at any instruction leaves the older ones whole and usable.

Protocol of a save: enough room? -> write into `.tmp-<step>-<fence>` -> sync and hash each file -> manifest
`.ledger.json` last -> sync the folder -> is our fence still the newest? -> rename to
`checkpoint-{step}-{YYYYMMDD}-{HHMM}`, never over an existing name -> sync the parent. **The rename is the commit
point.** Rotation comes after the new checkpoint has been read back and verified.

Recovery: `.tmp-*` is removed; what does not verify is renamed to `.quarantine-*` and never deleted; the newest that
verifies is used. Tests call `fault` at named points to die there (tests/arena/test_checkpoints.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm.errors import ConflictError, CorruptFileError, DiskFullError
from realm.files import free_bytes, fsync_dir, is_disk_full, remove_tree, rename_noreplace
from vault import manifest as manifests
from vault.manifest import Manifest

PIN_NAME = ".pin"
"""A file of this name in a checkpoint's folder keeps rotation away from it."""
IN_USE_PREFIX = ".in-use"
"""So does a file whose name begins with this, for as long as it is there."""
_DEEP_VERIFY_BYTES = 256 * 1024 * 1024


def no_fault(point: str) -> None:
    """Do nothing; tests pass a function that kills the process at a point."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint. `step` is the hero's."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def step(self) -> int:
        return int(self.manifest.card["step"])

    @property
    def run_step(self) -> int:
        return int(self.manifest.card["run_step"])


class FenceLostError(ConflictError):
    """Another attempt at this run has begun; this one must not commit anything."""

    code = "fence_lost"


class CheckpointStore:
    """Saves, finds and rotates the checkpoints in one run directory."""

    def __init__(
        self,
        run_dir: Path,
        *,
        fence: int = 0,
        holds_fence: Callable[[], bool] = lambda: True,
        keep: int = 2,
        floor_bytes: int = 0,
        clock: Callable[[], float] = time.time,
        free: Callable[[Path], int] = free_bytes,
        fault: Callable[[str], None] = no_fault,
    ) -> None:
        self.run_dir = run_dir
        self.fence = fence
        self.keep = max(2, keep)
        self.floor_bytes = floor_bytes
        self.last_size = 0
        """Bytes of the newest checkpoint known."""
        self._holds_fence = holds_fence
        self._clock = clock
        self._free = free
        self._fault = fault
        self._verified: dict[str, str] = {}
        """Name -> manifest hash of what this process has verified."""

    # Saving

    def room_needed(self, expected_bytes: int = 0) -> int:
        """Return the free bytes that a save asks for: twice the last size, and the floor stays untouched."""
        return 2 * max(self.last_size, expected_bytes) + self.floor_bytes

    def check_room(self, expected_bytes: int = 0) -> None:
        """Raise DiskFullError when a save would not fit."""
        needed, free = self.room_needed(expected_bytes), self._free(self.run_dir)
        if free < needed:
            raise DiskFullError(
                f"A checkpoint needs {needed:,} free bytes, {self.run_dir} has {free:,}.",
                hint="Free some space; training goes on by itself.",
                needed=needed,
                free=free,
            )

    def save(self, card: dict[str, Any], write: Callable[[Path], None], *, expected_bytes: int = 0) -> Checkpoint:
        """Commit a checkpoint: `write(folder)` puts the files there, `card` becomes the manifest's card.

        Raises DiskFullError (nothing left behind), FenceLostError, or what `write` raised.
        """
        self.check_room(expected_bytes)
        step = int(card["step"])
        folder = self.run_dir / f".tmp-{step}-{self.fence}"
        if folder.exists():
            remove_tree(folder)
        try:
            self._fault("before_files")
            folder.mkdir(mode=0o700)
            write(folder)
            self._fault("after_files")
            hashes = {name: _sync_and_hash(folder / name) for name in manifests.list_files(folder)}
            self._fault("before_manifest")
            made_at = self._clock()
            target = self._free_name(step, made_at)
            card = {**card, "canonical_name": target.name, "created_at": made_at, "fence": self.fence}
            manifest = manifests.write_manifest(folder, card, hashes)
            fsync_dir(folder)
            self._fault("after_manifest")
            if not self._holds_fence():
                raise FenceLostError(
                    f"Attempt {self.fence} of {self.run_dir.name} was replaced by a newer one.",
                    hint="Nothing is wrong: the newer attempt carries on.",
                )
            self._fault("before_rename")
            rename_noreplace(folder, target)
        except BaseException as error:
            _remove_quietly(folder)
            if is_disk_full(error):
                needed = self.room_needed(expected_bytes)
                raise DiskFullError(
                    f"The disk of {self.run_dir} is full: the checkpoint of step {step} was abandoned.",
                    hint="Free some space; training goes on by itself.",
                    needed=needed,
                    free=self._free(self.run_dir),
                ) from error
            raise
        self._fault("after_rename")
        fsync_dir(self.run_dir)
        self._fault("after_commit")
        self.last_size = manifest.size
        return Checkpoint(target, manifest)

    def _free_name(self, step: int, at: float) -> Path:
        """Return the canonical path of a checkpoint, with a suffix when the name is taken."""
        attempt = 0
        while os.path.lexists(path := self.run_dir / manifests.canonical_name(step, at, attempt)):
            attempt += 1
        return path

    # Finding

    def clean(self) -> list[str]:
        """Remove what unfinished saves and unfinished deletions of earlier attempts left; return their names."""
        names = sorted(path.name for path in self.run_dir.glob(".tmp-*"))
        for name in names:
            _remove_quietly(self.run_dir / name)
        return names

    def newest_verified(self, before_step: int | None = None) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that verifies, and the names of those newer ones that were quarantined.

        Newest is by step, then by name. All bytes of what is returned have been read and hashed. With `before_step`
        checkpoints of that run step and later are set aside as well: they hold what a roll-back is to undo.
        """
        quarantined = []
        for path in self._by_age():
            try:
                checkpoint = self.verify(path, deep=True)
            except CorruptFileError:
                quarantined.append(self.quarantine(path))
                continue
            if before_step is not None and checkpoint.run_step >= before_step:
                quarantined.append(self.quarantine(path))
                continue
            self.last_size = checkpoint.manifest.size
            return checkpoint, quarantined
        return None, quarantined

    def verify(self, path: Path, *, deep: bool) -> Checkpoint:
        """Read a checkpoint's manifest and check its files. Raises CorruptFileError."""
        manifest = manifests.verify(path, deep=deep)
        if not {"step", "run_step"} <= manifest.card.keys():
            raise CorruptFileError(f"{path.name}: its manifest names no step.", folder=str(path))
        self._verified[path.name] = manifest.sha256()
        return Checkpoint(path, manifest)

    def quarantine(self, path: Path) -> str:
        """Set a checkpoint aside under a name that nothing uses; return the name."""
        for attempt in range(1000):
            name = f".quarantine-{path.name}" + (f"-{attempt + 1}" if attempt else "")
            try:
                rename_noreplace(path, self.run_dir / name)
            except FileExistsError:
                continue
            fsync_dir(self.run_dir)
            return name
        raise CorruptFileError(f"{path.name} cannot be set aside.", folder=str(path))

    # Rotation

    def rotate(self, new: Checkpoint, *, best: str | None = None) -> list[str]:
        """Delete old checkpoints of this run and return their names.

        Kept: the newest `keep` that verify, `best`, those pinned or in use. Nothing is deleted before `new` has been
        read back. A folder is renamed out of sight before its files go, so that no half-deleted one is ever found.
        """
        self.verify(new.path, deep=new.manifest.size <= _DEEP_VERIFY_BYTES)
        kept = 0
        removed = []
        for path in self._by_age():
            if kept < self.keep:
                kept += self._is_verified(path)
                continue
            if path.name in (new.name, best) or _is_held(path):
                continue
            hidden = self.run_dir / f".tmp-delete-{path.name}"
            self._fault("before_delete")
            rename_noreplace(path, hidden)
            self._fault("after_delete")
            _remove_quietly(hidden)
            removed.append(path.name)
        return removed

    def _is_verified(self, path: Path) -> bool:
        if path.name in self._verified:
            return True
        try:
            self.verify(path, deep=True)
        except CorruptFileError:
            return False
        return True

    def _by_age(self) -> list[Path]:
        """Return the checkpoint folders, newest first: by step, then by minute, then by suffix."""
        found = []
        for path in self.run_dir.glob("checkpoint-*"):
            parsed = manifests.parse_name(path.name)
            if parsed is not None and path.is_dir() and not path.is_symlink():
                suffix = path.name.split("-")[4:]
                found.append((parsed[0], parsed[1], int(suffix[0]) if suffix else 1, path))
        return [path for *_, path in sorted(found, reverse=True)]


def _sync_and_hash(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _is_held(path: Path) -> bool:
    return any(name == PIN_NAME or name.startswith(IN_USE_PREFIX) for name in os.listdir(path))


def _remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):  # the next start tries again
        remove_tree(path)
