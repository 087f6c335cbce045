"""Settings: typed, merged from defaults, `config.yaml`, environment and flags, each value with its source.

Later sources win: default < `HOME/config.yaml` < `REALM_SECTION__KEY` < flag. An unknown key is an error that names
its file, line and key. Nothing outside this module reads the environment.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realm.errors import ConfigError
from realm.paths import RealmPaths, find_home

ENVIRONMENT_PREFIX = "REALM_"


class Config(BaseModel):
    """Base of every configuration tree: frozen, unknown keys refused. Attribute docstrings describe the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TavernSettings(Config):
    """The web server."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback makes a token necessary for everybody."""
    port: int = Field(default=8888, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    allowed_hosts: list[str] = []
    """Names under which the Tavern may be called, beside the loopback names (guards against DNS rebinding)."""
    upload_limit_mib: int = Field(default=4096, ge=1)
    """Largest file that may be dropped through the browser, in MiB."""


class ArenaSettings(Config):
    """Intake, queue, daemon and workers."""

    inbox_stable_s: float = Field(default=0.4, ge=0.05)
    """How long a dropped file's size and time must stand still before it is read, in seconds."""
    rescan_s: float = Field(default=5.0, ge=0.1)
    """How often the inbox and the queue folders are read even when no file event arrives, in seconds."""
    validation_depth: str = Field(default="standard", pattern="^(quick|standard|deep)$")
    """How much of a file the gatekeepers read: quick, standard or deep."""
    max_bad_rows: float = Field(default=0.05, ge=0, le=1)
    """Share of unusable rows above which a file is refused as a whole."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts without progress before a run is given up."""
    retry_delay_s: float = Field(default=5.0, ge=0)
    """Wait before the second attempt, in seconds; four times longer before each later one."""
    lease_s: float = Field(default=30.0, ge=1)
    """How long a claim stands without renewal, in seconds."""
    hang_s: float = Field(default=180.0, ge=1)
    """A run without any record for this long is killed and tried again, in seconds."""
    stop_s: float = Field(default=30.0, ge=0.1)
    """Time a worker has to save and end when told to, in seconds."""
    worker_idle_s: float = Field(default=900.0, ge=0)
    """A warm worker with nothing to do ends after this long and frees its memory, in seconds."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads of a trainer; by default 1 on up to four cores, else half of them."""
    disk_floor_mib: int = Field(default=512, ge=0)
    """Free space that no save and no intake may eat into, in MiB."""


class VaultSettings(Config):
    """Databases."""

    url: str | None = None
    """SQLAlchemy URL of the ledger; by default SQLite in the home. PostgreSQL: postgresql+psycopg://…"""
    metrics_url: str | None = None
    """SQLAlchemy URL of the metric points; by default SQLite in the home, or `url` if that is PostgreSQL."""


class WeaverSettings(Config):
    """Supervision of the services."""

    check_s: float = Field(default=1.0, ge=0.05)
    """How often services are looked at, in seconds."""
    backoff_s: float = Field(default=0.5, gt=0)
    """Wait before the first restart, in seconds; doubled each time, with 20 % jitter."""
    backoff_max_s: float = Field(default=60.0, gt=0)
    """Longest wait between restarts before a service counts as broken, in seconds."""
    broken_starts: int = Field(default=5, ge=2)
    """Starts within `broken_window_s` that make a service broken."""
    broken_window_s: float = Field(default=120.0, gt=0)
    """Window in which starts are counted, in seconds."""
    broken_retry_s: float = Field(default=60.0, gt=0)
    """Wait between retries of a broken service, in seconds; doubled up to 300."""
    healthy_s: float = Field(default=60.0, gt=0)
    """A service that ran this long starts again with a clean record, in seconds."""


class Settings(Config):
    """All settings of one realm."""

    home: Path
    """Folder of all state."""
    hero: str = "dio"
    """Hero that a dropped file trains."""
    hosts_file: Path | None = None
    """Host registry; by default `configs/hosts.yaml` of the project."""
    offline: bool = True
    """Never ask a model hub; models are taken from `HOME/models` and known folders."""
    model_dirs: list[Path] = []
    """Further folders in which base models are looked for (a Hugging Face layout in each)."""
    tavern: TavernSettings = TavernSettings()
    arena: ArenaSettings = ArenaSettings()
    vault: VaultSettings = VaultSettings()
    weaver: WeaverSettings = WeaverSettings()

    @property
    def paths(self) -> RealmPaths:
        return RealmPaths(self.home)


@dataclass(frozen=True)
class SettingValue:
    """One effective value: its dotted key, the value and where it came from."""

    key: str
    value: Any
    source: str


def load_settings(
    home: Path | str | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Return the merged settings. `flags` are dotted keys. Raises ConfigError naming source and key."""
    return load_with_sources(home, flags, environment, cwd)[0]


def load_with_sources(
    home: Path | str | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[Settings, list[SettingValue]]:
    """Return the settings and, for each leaf, its value and source (for `realm config show`)."""
    environment = os.environ if environment is None else environment
    home_dir, home_source = _choose_home(home, environment, cwd or Path.cwd())
    layers: dict[str, tuple[Any, str]] = {"home": (home_dir, home_source)}
    layers |= _from_yaml(RealmPaths(home_dir).config_yaml)
    layers |= _from_environment(environment)
    layers |= {key: (value, f"flag {key}") for key, value in (flags or {}).items() if value is not None}
    settings = _validate(layers)
    leaves = _leaves(settings)
    return settings, [SettingValue(k, v, layers[k][1] if k in layers else "default") for k, v in leaves.items()]


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of `config.yaml`, for editors; descriptions come from the attribute docstrings."""
    return documented_schema(Settings)


def documented_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema with its attribute docstrings.

    They are read from the source here, where they are wanted, and not at import, where that took a third of the time
    of every command.
    """
    schema = model.model_json_schema()
    trees = {model.__name__: model} | {part.__name__: part for part in _submodels(model)}
    for name, part in trees.items():
        told = schema if part is model else schema["$defs"][name]
        for key, text in _attribute_docstrings(part).items():
            if key in told["properties"]:
                told["properties"][key]["description"] = text
    return schema


def _submodels(model: type[BaseModel]) -> list[type[BaseModel]]:
    kinds = [field.annotation for field in model.model_fields.values()]
    found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return found + [deeper for kind in found for deeper in _submodels(kind)]


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    import ast
    import inspect
    import textwrap

    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = inspect.cleandoc(text)
    return found


def subprocess_environment(home: Path, **extra: str) -> dict[str, str]:
    """Return the environment for a child process: ours without secrets, with the home and `extra` set."""
    kept = {k: v for k, v in os.environ.items() if not _is_secret(k) and not k.startswith(ENVIRONMENT_PREFIX)}
    own = {k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT_PREFIX)}
    return kept | own | {"REALM_HOME": str(home)} | extra


def _is_secret(name: str) -> bool:
    return any(mark in name.upper() for mark in ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "CREDENTIAL"))


def _choose_home(home: Path | str | None, environment: Mapping[str, str], cwd: Path) -> tuple[Path, str]:
    if home is not None:
        return Path(home).expanduser().resolve(), "flag --home"
    if environment.get("REALM_HOME"):
        return Path(environment["REALM_HOME"]).expanduser().resolve(), "env REALM_HOME"
    return find_home(cwd), "found from the current folder"


def _from_yaml(path: Path) -> dict[str, tuple[Any, str]]:
    """Flatten a YAML file to dotted keys, remembering the line of each."""
    import yaml

    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.", file=str(path)) from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} must hold keys and values.", file=str(path))
    found: dict[str, tuple[Any, str]] = {}

    def walk(node: yaml.MappingNode, prefix: str) -> None:
        for key_node, value_node in node.value:
            key = f"{prefix}{key_node.value}"
            if isinstance(value_node, yaml.MappingNode):
                walk(value_node, f"{key}.")
            else:
                value = yaml.load(yaml.serialize(value_node), Loader=yaml.SafeLoader)
                found[key] = (value, f"{path}, line {key_node.start_mark.line + 1}")

    walk(root, "")
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    import yaml

    known = {key.upper().replace(".", "__"): key for key in _leaf_keys(Settings)}
    found: dict[str, tuple[Any, str]] = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name == "REALM_HOME":
            continue
        key = known.get(name.removeprefix(ENVIRONMENT_PREFIX), name.removeprefix(ENVIRONMENT_PREFIX).lower())
        found[key.replace("__", ".")] = (yaml.safe_load(text), f"env {name}")
    return found


def _validate(layers: Mapping[str, tuple[Any, str]]) -> Settings:
    known = _leaf_keys(Settings)
    tree: dict[str, Any] = {}
    for key, (value, source) in layers.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else "See `realm config schema`."
            raise ConfigError(f"{source}: unknown setting {key!r}.", hint=hint, key=key, source=source)
        branch = tree
        *sections, leaf = key.split(".")
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        source = layers[key][1] if key in layers else "settings"
        raise ConfigError(f"{source}: {key}: {first['msg']}.", key=key, source=source) from error


def _leaf_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _leaf_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _leaves(model: BaseModel, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            found |= _leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
