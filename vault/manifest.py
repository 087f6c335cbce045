"""Checkpoint manifests: the `.ledger.json` inside a checkpoint folder.

It is written last, lists every file with its size and SHA-256 and carries the identity card (step, losses, parent,
data hashes, versions). A folder whose manifest verifies is a checkpoint; any other is not. The same content becomes
the ledger row, so that files alone can rebuild the ledger.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from realm.errors import CorruptFileError
from realm.files import durable_write, sha256_file

NAME = ".ledger.json"
SCHEMA = 1
_CANONICAL = re.compile(r"checkpoint-(\d{1,15})-(\d{8})-(\d{4})(?:-(\d{1,3}))?")


@dataclass(frozen=True)
class ManifestFile:
    """One file of a checkpoint: name relative to the folder, bytes, hexadecimal SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint folder holds and what it is.

    `card` is the identity card: run, hero, step (of the hero), run_step, canonical_name, created_at, train_loss,
    val_loss, learning_rate, parent, config_hash, data, code and package versions, seed, fingerprint, fence, …
    """

    card: dict[str, Any]
    files: tuple[ManifestFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON (sorted keys): the same manifest is always the same bytes."""
        files = [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in self.files]
        value = {"schema": SCHEMA, "card": self.card, "files": files}
        return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def sha256(self) -> str:
        """Return the hash that names this checkpoint's content."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def canonical_name(step: int, at: float, attempt: int = 0) -> str:
    """Return `checkpoint-{step}-{YYYYMMDD}-{HHMM}` in UTC; `attempt` > 0 adds a suffix when the name is taken."""
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%d-%H%M")
    return f"checkpoint-{step}-{stamp}" + (f"-{attempt + 1}" if attempt else "")


def parse_name(name: str) -> tuple[int, datetime] | None:
    """Return (step, minute in UTC) of a canonical name, or None."""
    match = _CANONICAL.fullmatch(name)
    if match is None:
        return None
    try:
        minute = datetime.strptime(match[2] + match[3], "%Y%m%d%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(match[1]), minute


def list_files(folder: Path) -> list[str]:
    """Return the relative names of all regular files of a checkpoint, the manifest itself left out, sorted."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(name for name in names if name != NAME)


def write_manifest(folder: Path, card: dict[str, Any], hashes: dict[str, str] | None = None) -> Manifest:
    """Hash every file of `folder` (or take a known hash from `hashes`) and write the manifest durably.

    The caller has synced the files; this is the last write before the rename that commits the checkpoint.
    """
    known = hashes or {}
    files = [
        ManifestFile(name, (folder / name).stat().st_size, known.get(name) or sha256_file(folder / name))
        for name in list_files(folder)
    ]
    manifest = Manifest(card, tuple(files))
    durable_write(folder / NAME, manifest.to_bytes())
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest without checking the files. Raises CorruptFileError."""
    try:
        value = json.loads((folder / NAME).read_bytes())
        files = tuple(ManifestFile(str(f["name"]), int(f["size"]), str(f["sha256"])) for f in value["files"])
        return Manifest(dict(value["card"]), files)
    except FileNotFoundError:
        raise CorruptFileError(f"{folder.name} has no {NAME}: it was never finished.", folder=str(folder)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{folder.name}: its {NAME} cannot be read.", folder=str(folder)) from error


def verify(folder: Path, *, deep: bool = True) -> Manifest:
    """Check that every file is there with its size and, if `deep`, its hash. Raises CorruptFileError."""
    manifest = read_manifest(folder)
    for file in manifest.files:
        if file.name.startswith("/") or ".." in file.name.split("/"):
            raise CorruptFileError(f"{folder.name}: its manifest names a file outside it.", folder=str(folder))
        path = folder / file.name
        if not path.is_file() or path.is_symlink():
            raise CorruptFileError(f"{folder.name}: {file.name} is missing.", folder=str(folder), file=file.name)
        if path.stat().st_size != file.size:
            raise CorruptFileError(
                f"{folder.name}: {file.name} has the wrong size.", folder=str(folder), file=file.name
            )
        if deep and sha256_file(path) != file.sha256:
            raise CorruptFileError(
                f"{folder.name}: the content of {file.name} has changed.", folder=str(folder), file=file.name
            )
    return manifest
