"""Fetch the front-end files that the Tavern serves but did not write, and check that they are what they claim.

`python scripts/vendor.py` packs the exact versions named in `tavern/static/vendor/VENDOR.json` through npm, copies the
named files with their licence texts and writes the SHA-256 of each. `--check` needs no network: it fails when a file
differs from its hash, is missing, or is not listed. `--check --online` compares with a fresh copy from npm as well.
Nothing is executed: `npm pack` runs no scripts of a package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).resolve().parent.parent / "tavern" / "static" / "vendor"
MANIFEST = VENDOR / "VENDOR.json"


def pack(package: dict[str, Any]) -> dict[str, bytes]:
    """Return the named files of a package at its exact version, by the name under which they are kept."""
    with tempfile.TemporaryDirectory() as folder:
        spec = f"{package['name']}@{package['version']}"
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", folder, spec]
        subprocess.run(command, check=True, cwd=folder, timeout=180, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            found = {}
            for file in package["files"]:
                member = tar.extractfile(f"package/{file['from']}")
                if member is None:
                    raise FileNotFoundError(f"{spec} holds no {file['from']}")
                found[file["path"]] = member.read()
            return found


def fetch(manifest: dict[str, Any]) -> None:
    for package in manifest["packages"]:
        contents = pack(package)
        for file in package["files"]:
            target = VENDOR / file["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents[file["path"]])
            file["sha256"] = hashlib.sha256(contents[file["path"]]).hexdigest()
        print(f"{package['name']} {package['version']}: {len(contents)} files")
    MANIFEST.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def problems(manifest: dict[str, Any], *, online: bool = False) -> list[str]:
    """Return what is wrong with the vendored files, empty when all is well."""
    found, listed = [], {MANIFEST.name}
    for package in manifest["packages"]:
        fresh = pack(package) if online else {}
        for file in package["files"]:
            listed.add(file["path"])
            path = VENDOR / file["path"]
            if not path.is_file():
                found.append(f"{file['path']} is missing")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
                found.append(f"{file['path']} differs from its hash")
            elif online and fresh[file["path"]] != path.read_bytes():
                found.append(f"{file['path']} differs from {package['name']} {package['version']}")
    present = {str(path.relative_to(VENDOR)) for path in VENDOR.rglob("*") if path.is_file()}
    return found + [f"{name} is not listed" for name in sorted(present - listed)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; verify the committed files")
    parser.add_argument("--online", action="store_true", help="with --check: compare with npm as well")
    arguments = parser.parse_args()
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
    if not arguments.check:
        fetch(manifest)
        return 0
    wrong = problems(manifest, online=arguments.online)
    for problem in wrong:
        print(problem, file=sys.stderr)
    print(f"{len(wrong)} problem(s)." if wrong else "Vendored files are as listed.")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
