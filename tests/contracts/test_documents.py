"""The documents tell the truth: what they name exists, and the blocks marked `runnable` run."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from realm.cli import build_app, context
from realm.settings import load_settings, load_with_sources
from realm.weaver import control
from realm.wiring import SERVICES

ROOT = Path(__file__).parents[2]
NAMES = ["README", "QUICKSTART", "TROUBLESHOOTING", "DEVELOPMENT", "REMOTE_INFERENCE", "ARCHITECTURE"]
ENTRY_POINTS = {"realm.trainers"}
BLOCK = re.compile(r"^```bash( runnable)?\n(.*?)^```$", re.M | re.S)
OUR_NAME = re.compile(r"`((?:realm|vault|arena|guild|tavern)(?:\.[A-Za-z_]\w*)+)`")
OUR_FILE = re.compile(r"`((?:realm|vault|arena|guild|tavern|tests|scripts|configs)/[\w./-]+)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
INLINE = re.compile(r"`(realm [^`…]+)`")


def text(name: str) -> str:
    return (ROOT / f"{name}.md").read_text()


def command_lines(name: str) -> list[str]:
    """Return every command line of ours in a document, in blocks and in the flow of the text."""
    found = [line.strip() for block in BLOCK.finditer(text(name)) for line in block[2].splitlines()]
    found += INLINE.findall(text(name))
    return [line for line in found if line.startswith("realm ")]


@pytest.fixture(scope="module")
def tree() -> Any:
    return typer.main.get_command(build_app())


@pytest.mark.parametrize("name", NAMES)
def test_every_documented_command_exists(name: str, tree: Any) -> None:
    for line in command_lines(name):
        node = tree
        for word in context.take_globals(shlex.split(line, comments=True)[1:]):
            if word.startswith("-"):
                options = {option for parameter in node.params for option in parameter.opts} | {"--help"}
                assert word in options, f"{line!r}: no option {word}"
            elif word in getattr(node, "commands", {}):
                node = node.commands[word]
            else:
                assert node is not tree, f"{line!r}: no command {word}"
                nouns = getattr(node, "commands", None)
                assert not nouns, f"{line!r}: no verb {word}"
    context.take_globals([])


@pytest.mark.parametrize("name", NAMES)
def test_every_script_and_target_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in BLOCK.finditer(text(name)):
        for line in block[2].splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0].startswith("scripts/"):
                assert os.access(ROOT / words[0], os.X_OK), line
            if words and words[0] == "make":
                assert words[1] in targets, line


@pytest.mark.parametrize("name", NAMES)
def test_every_file_and_link_exists(name: str) -> None:
    for found in (*OUR_FILE.findall(text(name)), *LINK.findall(text(name))):
        assert (ROOT / found).exists(), found


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_our_code_exists(name: str) -> None:
    for dotted in OUR_NAME.findall(text(name)):
        assert dotted.startswith("vault.db") or resolves(dotted), dotted  # a file, not a module


def resolves(dotted: str) -> bool:
    """Tell whether a dotted name is a setting, a module of ours, or something in one."""
    if dotted in ENTRY_POINTS or dotted in {value.key for value in load_with_sources(ROOT, environment={})[1]}:
        return True
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for attribute in parts[cut:]:
            if attribute in getattr(value, "model_fields", {}):
                return attribute == parts[-1]
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def test_a_name_that_does_not_exist_is_found() -> None:
    assert resolves("vault.jobs.JobStore.claim")
    assert not resolves("vault.jobs.JobStore.conjure")
    assert not resolves("vault.conjuring")


@pytest.mark.timeout(400)
def test_the_runnable_blocks_run(tmp_path: Path) -> None:
    """In order, in one home, as a reader would type them."""
    home = tmp_path / "realm-home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REALM_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = kept | {"REALM_HOME": str(home), "PATH": path}
    blocks = [block[2] for name in NAMES for block in BLOCK.finditer(text(name)) if block[1]]
    assert blocks
    try:
        for block in blocks:
            argv = ["bash", "-euo", "pipefail", "-c", block]
            done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    finally:
        control.stop(load_settings(home).paths, SERVICES, lambda words: None)
