"""The vault as a whole: its databases opened, upgraded and handed out as stores."""

from __future__ import annotations

from pathlib import Path

from vault.commands import CommandStore
from vault.database import Database
from vault.events import EventLog
from vault.jobs import JobStore
from vault.ledger import Ledger
from vault.metrics import MetricStore
from vault.migrate import upgrade
from vault.tokens import TokenStore


class Vault:
    """Opens the ledger and the metric points; creates or upgrades them when `prepare` is set.

    Exactly one process per realm, the daemon, is the `checkpointer` of the SQLite log.
    """

    def __init__(self, url: str, metrics_url: str, *, checkpointer: bool = False, prepare: bool = True) -> None:
        self.database = Database(url, checkpointer=checkpointer)
        same = metrics_url == url
        self.metrics_database = self.database if same else Database(metrics_url, durable=False, checkpointer=True)
        if prepare:
            upgrade(self.database, self.metrics_database)
        self.jobs = JobStore(self.database)
        self.ledger = Ledger(self.database)
        self.events = EventLog(self.database)
        self.metrics = MetricStore(self.metrics_database)
        self.commands = CommandStore(self.database)
        self.tokens = TokenStore(self.database)

    @classmethod
    def in_files(cls, ledger: Path, metrics: Path, *, checkpointer: bool = False) -> Vault:
        """Open the embedded databases in two files of one folder."""
        return cls(f"sqlite:///{ledger}", f"sqlite:///{metrics}", checkpointer=checkpointer)

    def close(self) -> None:
        self.database.close()
        self.metrics_database.close()
