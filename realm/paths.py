"""Where things lie: the folders of a realm's home, and how a home is found.

All state lives under one folder, so that it can be moved, backed up and deleted as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRIORITIES = ("high", "normal", "low")
HOME_NAME = "realm-home"


@dataclass(frozen=True)
class RealmPaths:
    """The layout below `home`. Nothing is created before `ensure()`."""

    home: Path

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    def queue(self, priority: str) -> Path:
        return self.home / "queue" / priority

    @property
    def processing(self) -> Path:
        return self.home / "processing"

    @property
    def recently_completed(self) -> Path:
        return self.home / "recently_completed"

    @property
    def failed(self) -> Path:
        return self.home / "failed"

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def heroes(self) -> Path:
        return self.home / "heroes"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def objects(self) -> Path:
        """Immutable accepted files, named by their SHA-256."""
        return self.data / "objects"

    @property
    def staging(self) -> Path:
        """Files on their way into `objects`."""
        return self.data / "staging"

    @property
    def backups(self) -> Path:
        return self.home / "backups"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def control(self) -> Path:
        return self.home / "control"

    @property
    def vault_db(self) -> Path:
        return self.home / "vault.db"

    @property
    def metrics_db(self) -> Path:
        return self.home / "metrics.db"

    @property
    def config_yaml(self) -> Path:
        return self.home / "config.yaml"

    def ensure(self) -> RealmPaths:
        """Create every folder, readable by its owner alone; safe to repeat."""
        queues = [self.queue(priority) for priority in PRIORITIES]
        folders = [self.inbox, *queues, self.processing, self.recently_completed, self.failed, self.runs]
        folders += [self.heroes, self.models, self.objects, self.staging, self.backups, self.logs, self.control]
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self


def find_home(start: Path) -> Path:
    """Return the nearest `realm-home` at or above `start`, or `start/realm-home` when there is none yet."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if folder.name == HOME_NAME and (folder / "inbox").is_dir():
            return folder
        if (folder / HOME_NAME / "inbox").is_dir():
            return folder / HOME_NAME
    return start / HOME_NAME


def project_root() -> Path:
    """Return the folder that holds `configs/`, beside the packages."""
    return Path(__file__).resolve().parent.parent
