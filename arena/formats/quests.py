"""Quest files: a request to train, written by hand in YAML.

```yaml
trainer: sft
data: train.jsonl            # a file beside this one; or a list of rows; or {skill: bin, level: 2, count: 2000}
config: {learning_rate: 3.0e-4}
priority: high
```

YAML is read safely and within limits: 1 MiB, 20 levels, no aliases, no key twice. An error names the file and the key.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, field_validator

from arena.formats.kinds import KIND_NAMES
from realm.errors import RefusedError
from realm.settings import Config

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
_NAME = r"^[a-z][a-z0-9_]{0,63}$"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class GeneratorSpec(Config):
    """Rows made by a skill's generator."""

    skill: str = Field(pattern=_NAME)
    level: int = Field(ge=1, le=1000)
    count: int = Field(ge=1, le=10_000_000)
    """Rows to make."""
    seed: int | None = Field(default=None, ge=0, lt=2**53)
    """The same seed makes the same rows; null lets the generator choose a fresh one."""


def _kind_of_data(value: Any) -> str:
    if isinstance(value, str):
        return "file"
    return "rows" if isinstance(value, list) else "generator"


class QuestSpec(Config):
    """What a quest file asks for."""

    name: str | None = Field(default=None, min_length=1, max_length=200)
    """What people call it; by default the name of the quest file."""
    hero: str | None = Field(default=None, pattern=_NAME)
    """Which hero is trained; by default the realm's."""
    trainer: str = Field(default="sft", pattern=_NAME)
    """Which trainer runs it."""
    data: Annotated[
        Annotated[str, Tag("file")]
        | Annotated[list[dict[str, Any]], Tag("rows")]
        | Annotated[GeneratorSpec, Tag("generator")],
        Discriminator(_kind_of_data),
    ]
    """The name of a file beside this one, or rows, or what a generator shall make."""
    config: dict[str, Any] = {}
    """Overrides of the trainer's configuration."""
    executor: str = Field(default="local", pattern=_NAME)
    """Where it runs."""
    priority: Literal["high", "normal", "low"] | None = None
    """By default that of the folder in which it lies."""
    skill: str | None = Field(default=None, pattern=_NAME)
    """Which skill it trains; by default read from the rows."""
    level: int | None = Field(default=None, ge=0, le=1000)
    """At which level; by default read from the rows."""
    kind: str | None = None
    """The only kind of row that is let in; by default every known kind."""
    again: bool = False
    """Train even when the very same quest was taken before."""

    @field_validator("data")
    @classmethod
    def _plain_name(cls, data: Any) -> Any:
        if isinstance(data, str) and not is_plain_name(data):
            raise ValueError("it must be the name of a file beside the quest file, without a path")
        if isinstance(data, list) and not data:
            raise ValueError("there are no rows")
        return data

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str | None) -> str | None:
        if kind is not None and kind not in KIND_NAMES:
            raise ValueError(f"known kinds are {', '.join(KIND_NAMES)}")
        return kind

    @field_validator("config", "data")
    @classmethod
    def _json_only(cls, value: Any) -> Any:
        found = _not_json(value) if isinstance(value, dict | list) else None
        if found:
            raise ValueError(f"{found} is not a JSON value; put it in quotes")
        return value


def is_plain_name(name: str) -> bool:
    """Tell whether `name` is a visible file's name and nothing of a path."""
    forbidden = "/" in name or "\0" in name or name.startswith(".") or "\n" in name
    return bool(name) and not forbidden and len(name.encode("utf-8", "surrogatepass")) <= 255


def read_quest(raw: bytes, name: str) -> QuestSpec:
    """Return the request in a quest file. Raises RefusedError naming file and key; `data` has `data_name` if known."""
    tree = load_yaml(raw, name)
    if not isinstance(tree, dict):
        raise RefusedError(f"{name}: a quest file holds keys and values.", code="bad_quest")
    try:
        return QuestSpec.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{_key(problem['loc'])}: {problem['msg']}" for problem in error.errors()[:5])
        named = tree.get("data")
        raise RefusedError(
            f"{name}: {problems}.",
            hint=f"Known keys: {', '.join(QuestSpec.model_fields)}.",
            code="bad_quest",
            data_name=named if isinstance(named, str) and is_plain_name(named) else None,
        ) from None


def load_yaml(raw: bytes, name: str) -> Any:
    """Return the value of a small YAML document. Raises RefusedError."""
    if len(raw) > MAX_BYTES:
        raise RefusedError(f"{name}: a quest file is at most 1 MiB.", code="bad_quest")
    try:
        _check_outline(raw, name)
        return yaml.load(raw, Loader=_UniqueLoader)
    except RefusedError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RefusedError(f"{name}{where}: {why}.", code="bad_quest") from None
    except Exception as error:  # the YAML library lets its helpers' errors through (dates, integers, unhashable keys)
        raise RefusedError(f"{name}: {type(error).__name__}: {error!s:.200}.", code="bad_quest") from error


def _check_outline(raw: bytes, name: str) -> None:
    depth = 0
    for event in yaml.parse(raw, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise RefusedError(f"{name}, line {line}: aliases are not taken.", code="bad_quest")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise RefusedError(f"{name}: nests deeper than {MAX_DEPTH} levels.", code="bad_quest")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _UniqueLoader(_Loader):  # type: ignore[misc]
    """The safe loader, but a key given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r:.80} is given twice", key_node.start_mark
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "keys"


def _not_json(value: Any) -> str | None:
    """Return what in a tree is not JSON, or None."""
    if value is None or isinstance(value, str | bool | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return next((found for item in value if (found := _not_json(item))), None)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"the key {key!r:.80}"
            if found := _not_json(item):
                return found
        return None
    return f"{value!r:.80}"
