"""The host registry: which machines there are, what each is for, and where its services answer.

Read from one YAML file (`configs/hosts.yaml` by default). Adding a host is adding an entry; nothing else changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from realm.errors import ConfigError, NotFoundError
from realm.paths import project_root
from realm.settings import Config

DEFAULT_PORTS = {
    "tavern": 8888,
    "vaultkeeper": 8767,
    "oracle": 8765,
    "scheduler": 8766,
    "branch_officer": 8768,
    "skill_sy": 8080,
    "skill_bin": 8090,
}


class Host(Config):
    """One machine."""

    id: str = Field(pattern="^[a-z0-9_-]{1,40}$")
    """Name by which commands and pages call it."""
    name: str
    """What people see."""
    kind: Literal["local", "remote", "modal"] = "local"
    """Whether it is this machine, another of ours, or rented."""
    address: str = "127.0.0.1"
    """Host name or address of its services."""
    roles: list[Literal["trainer", "inference", "storage", "compute"]] = ["trainer", "inference", "storage"]
    """What it may be used for."""
    services: dict[str, int] = {}
    """Ports that differ from the defaults, by service."""


class HostRegistry(Config):
    """All hosts; the first local one is this machine."""

    hosts: list[Host]

    @classmethod
    def load(cls, path: Path | None = None) -> HostRegistry:
        """Read a registry. Raises ConfigError naming the file and the key."""
        import yaml

        file = path or project_root() / "configs" / "hosts.yaml"
        try:
            registry = cls.model_validate(yaml.safe_load(file.read_text()))
        except OSError as error:
            raise ConfigError(f"The host registry {file} cannot be read: {error.strerror}.", file=str(file)) from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is not valid YAML: {error}.", file=str(file)) from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{file}: {key}: {first['msg']}.", file=str(file), key=key) from error
        ids = [host.id for host in registry.hosts]
        twice = {name for name in ids if ids.count(name) > 1}
        if twice:
            raise ConfigError(f"{file}: host {twice.pop()!r} is named twice.", file=str(file), key="hosts")
        return registry

    def get(self, host_id: str) -> Host:
        """Return the host `host_id`. Raises NotFoundError listing those that exist."""
        for host in self.hosts:
            if host.id == host_id:
                return host
        known = ", ".join(host.id for host in self.hosts)
        raise NotFoundError(f"No host {host_id!r}.", hint=f"Known hosts: {known}.", host=host_id)

    def local(self) -> Host:
        """Return this machine's entry. Raises NotFoundError."""
        for host in self.hosts:
            if host.kind == "local":
                return host
        raise NotFoundError("The host registry has no local host.", hint="Add one with kind: local.")


def get_host(host_id: str, registry: HostRegistry | None = None) -> Host:
    """Return a host by id. Raises NotFoundError."""
    return (registry or HostRegistry.load()).get(host_id)


def get_service_url(service: str, host_id: str | None = None, registry: HostRegistry | None = None) -> str:
    """Return `http://address:port` of a service on a host (this machine by default). Raises NotFoundError."""
    registry = registry or HostRegistry.load()
    host = registry.get(host_id) if host_id else registry.local()
    if service not in DEFAULT_PORTS and service not in host.services:
        known = ", ".join(sorted({*DEFAULT_PORTS, *host.services}))
        raise NotFoundError(f"No service {service!r}.", hint=f"Known services: {known}.", service=service)
    return f"http://{host.address}:{host.services.get(service, DEFAULT_PORTS.get(service))}"


def is_trainer_local(registry: HostRegistry | None = None) -> bool:
    """Tell whether this machine itself is registered as a trainer."""
    registry = registry or HostRegistry.load()
    return any(host.kind == "local" and "trainer" in host.roles for host in registry.hosts)
