"""Every error that a person may meet has a stable code, a status, an exit code, and says what to do."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import realm.errors
from realm.errors import RealmError

ROOT = Path(__file__).parents[2]
PACKAGES = ("realm", "tavern", "vault", "arena", "guild")
CODE = re.compile(r"[a-z][a-z0-9_]{2,40}")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def subclasses(kind: type[RealmError]) -> set[type[RealmError]]:
    """Every kind that is made like the others; the gate's own refusals carry their status with them."""
    below = {deeper for kind_below in kind.__subclasses__() for deeper in subclasses(kind_below)}
    return below | ({kind} if kind.__init__ is RealmError.__init__ else set())


@pytest.mark.parametrize("kind", sorted(subclasses(RealmError), key=lambda kind: kind.__name__))
def test_each_kind_of_error_is_complete(kind: type[RealmError]) -> None:
    error = kind("It happened.", hint="Do this.", where="here")
    assert CODE.fullmatch(error.code)
    assert 400 <= error.status < 600
    assert error.exit_code in (1, 2, 3)
    assert str(error) == "It happened. Do this."
    assert error.data == {"where": "here"}


def test_kinds_that_people_tell_apart_have_codes_of_their_own() -> None:
    own = [kind for kind in vars(realm.errors).values() if isinstance(kind, type) and issubclass(kind, RealmError)]
    assert len({kind.code for kind in own}) == len(own)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_codes_in_the_source_are_stable_words(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if (
                    keyword.arg == "code"
                    and isinstance(keyword.value, ast.Constant)
                    and isinstance(keyword.value.value, str)
                ):
                    assert CODE.fullmatch(keyword.value.value), f"line {node.lineno}: {keyword.value.value!r}"
