"""What may not stand in the repository: paths of somebody's machine, unfinished work, oversized files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACHINE = re.compile(r"(^|[^A-Za-z0-9_.])/(root|home/\w+|Users/\w+)/", re.M)
TEXT = {".py", ".md", ".sh", ".toml", ".yaml", ".yml", ".txt", ".json", ".html", ".css", ".js", ""}


def files() -> list[Path]:
    """Return the files that belong to the project."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_path_of_a_machine_stands_in_the_project() -> None:
    found = []
    for path in files():
        made_up = {"vendor", "tests"} & set(path.parts[len(ROOT.parts) :])
        if path.suffix in TEXT and not made_up:
            for match in MACHINE.finditer(path.read_text(errors="replace")):
                found.append(f"{path.relative_to(ROOT)}: {match[0]}")
    assert found == []


def test_nothing_is_left_unfinished() -> None:
    mark = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    found = [
        str(path.relative_to(ROOT))
        for path in files()
        if path.suffix in (".py", ".sh", ".md") and mark.search(path.read_text(errors="replace"))
    ]
    assert found == []


def test_every_script_is_executable_and_stops_at_the_first_error() -> None:
    for path in sorted((ROOT / "scripts").glob("*.sh")):
        assert path.stat().st_mode & 0o111, path.name
        assert re.search(r"^set -eu", path.read_text(), re.M), path.name
