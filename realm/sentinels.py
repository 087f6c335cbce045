"""The sentinels: health checks over the vault and the arena, read-only.

`Realm().sentinels.inspector.full_patrol().is_all_clear` is the call that users know. A patrol asks whether what is
written down is true: the databases are sound, every verified checkpoint of the ledger lies on disk with the right
manifest, every run that is being fought has somebody fighting it, and the services are up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from realm.errors import CorruptFileError
from realm.files import free_bytes
from realm.services import read_services
from realm.settings import Settings

if TYPE_CHECKING:
    from vault.records import Checkpoint
    from vault.store import Vault

Level = Literal["ok", "warn", "fail"]
NEWEST = 20
"""Checkpoints whose folders a patrol looks at; the files' content is read only by a deep one."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    words: str
    advice: str = ""


@dataclass(frozen=True)
class Patrol:
    """What a patrol found."""

    findings: tuple[Finding, ...]

    @property
    def is_all_clear(self) -> bool:
        """Whether nothing has failed. Warnings do not count."""
        return all(finding.level != "fail" for finding in self.findings)

    @property
    def troubles(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level != "ok")


class Inspector:
    """Walks the rounds."""

    def __init__(self, vault: Vault, settings: Settings) -> None:
        self._vault = vault
        self._settings = settings

    def full_patrol(self, *, deep: bool = False) -> Patrol:
        """Check everything. `deep` reads every byte of the newest checkpoints and compares hashes."""
        findings = [self._ledger(), self._metrics(), self._checkpoints(deep=deep), self._battle(), self._disk()]
        return Patrol((*findings, *self._services()))

    def _ledger(self) -> Finding:
        wrong = self._vault.database.check()
        if wrong:
            return Finding("ledger", "fail", f"The ledger is damaged: {wrong[0]}", "Restore a file of backups/.")
        return Finding("ledger", "ok", "The ledger is sound.")

    def _metrics(self) -> Finding:
        wrong = self._vault.metrics_database.check()
        if wrong:
            advice = "Stop the realm and delete metrics.db: it is filled again from the runs' records."
            return Finding("metrics", "warn", f"The metric points are damaged: {wrong[0]}", advice)
        return Finding("metrics", "ok", "The metric points are sound.")

    def _checkpoints(self, *, deep: bool) -> Finding:
        from vault.manifest import verify

        found: list[Checkpoint] = self._vault.ledger.checkpoints(limit=NEWEST).items
        lost = []
        for checkpoint in found:
            folder = self._settings.paths.runs / checkpoint.run_id / checkpoint.name
            try:
                manifest = verify(folder, deep=deep)
            except CorruptFileError as error:
                lost.append(error.message)
                continue
            if manifest.sha256() != checkpoint.manifest_sha256:
                lost.append(f"{checkpoint.name}: its manifest is not the one in the ledger.")
        if lost:
            advice = "They are set aside at the next start; the newest sound one is used."
            return Finding("checkpoints", "fail", f"{len(lost)} of {len(found)} do not verify: {lost[0]}", advice)
        return Finding("checkpoints", "ok", f"The newest {len(found)} verify." if found else "There are none yet.")

    def _battle(self) -> Finding:
        processing = self._vault.jobs.processing()
        if not processing:
            return Finding("battle", "ok", "No battle is being fought.")
        states = {service.name: service.state for service in read_services(self._settings.paths)}
        name = processing[0].name
        if states.get("arena") != "up":
            advice = "Start the realm with `realm up`: it goes on from its last checkpoint."
            return Finding("battle", "warn", f"{name} is under way, but the arena is not up.", advice)
        return Finding("battle", "ok", f"{name} is being fought.")

    def _disk(self) -> Finding:
        home: Path = self._settings.home
        free, floor = free_bytes(home), self._settings.arena.disk_floor_mib << 20
        if free < floor:
            return Finding("disk", "fail", f"Only {free >> 20} MiB are free.", "Free some space; saves wait for it.")
        return Finding("disk", "ok", f"{free >> 30} GiB are free.")

    def _services(self) -> list[Finding]:
        findings = []
        for service in read_services(self._settings.paths):
            name = f"service {service.name}"
            if service.state in ("up", "starting", "stopped"):
                findings.append(Finding(name, "ok", f"It is {service.state}."))
            else:
                level: Level = "fail" if service.state == "broken" else "warn"
                words = f"It is {service.state}. {service.detail}".strip()
                findings.append(Finding(name, level, words, f"See logs/{service.name}.log."))
        return findings


class Sentinels:
    """Watches one realm's health."""

    def __init__(self, vault: Vault, settings: Settings) -> None:
        self.inspector = Inspector(vault, settings)
