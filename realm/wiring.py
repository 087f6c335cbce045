"""The roof: builds every part from settings, and the one table of trainers.

`Realm` opens parts when they are first asked for and imports neither torch nor a web framework by itself. Policy of
the guild meets mechanism of the arena only here, as callables.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm.errors import NotFoundError
from realm.hosts import HostRegistry
from realm.paths import RealmPaths
from realm.services import Service, identity_file, read_services
from realm.settings import Settings, load_settings

if TYPE_CHECKING:
    from arena.daemon import Daemon
    from arena.intake import Intake
    from arena.machine import Machine
    from arena.prepare import EvaluationRows
    from guild.heroes import HeroRecipe, Variant
    from realm.sentinels import Sentinels
    from realm.watchtower import Watchtower
    from vault.records import Hero, Job
    from vault.store import Vault

TRAINERS = {"sft": "arena.trainers.sft:SftTrainer"}
"""Trainer name to `module:Class`; packages add theirs by the entry-point group `realm.trainers`."""

SERVICES = (
    Service("tavern", ("-m", "realm", "tavern"), kind="http", ready="/healthz"),
    Service("arena", ("-m", "realm", "arena"), kind="heartbeat", ready="control/services/arena.beat", stop_s=20.0),
)
"""What the Weaver keeps alive, in the order in which it is started."""


class Realm:
    """One realm: its settings and, opened on first use, everything in it."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self.paths: RealmPaths = self.settings.paths

    @cached_property
    def vault(self) -> Vault:
        from vault.store import Vault

        self.paths.ensure()
        url = self.settings.vault.url or f"sqlite:///{self.paths.vault_db}"
        shared = self.settings.vault.url if self.settings.vault.url else f"sqlite:///{self.paths.metrics_db}"
        return Vault(url, self.settings.vault.metrics_url or shared)

    @cached_property
    def hosts(self) -> HostRegistry:
        return HostRegistry.load(self.settings.hosts_file)

    @cached_property
    def machine(self) -> Machine:
        from arena.machine import Machine

        return Machine()

    @cached_property
    def watchtower(self) -> Watchtower:
        from realm.watchtower import Watchtower

        return Watchtower(self.vault, self.settings)

    @cached_property
    def sentinels(self) -> Sentinels:
        from realm.sentinels import Sentinels

        return Sentinels(self.vault, self.settings)

    def status(self) -> dict[str, Any]:
        """Return how everything stands (see arena/status.py)."""
        from arena.status import build_status

        services = [status.to_dict() for status in read_services(self.paths)]
        return build_status(self.vault, self.settings, services=services, machine=self.machine)

    # Heroes

    def hero_variant(self, hero_id: str | None = None) -> tuple[HeroRecipe, Variant]:
        """Return a hero's recipe and the variant that this machine can train. Raises NotFoundError, ConfigError."""
        from guild.heroes import choose_variant, load_hero

        recipe = load_hero(hero_id or self.settings.hero)
        return recipe, choose_variant(recipe, cuda=bool(self.machine.gpus()), models=self._models())

    def ensure_hero(self, hero_id: str | None = None) -> Hero:
        """Enter the hero in the ledger if it is not there; what it trains is chosen once, from what is there now."""
        hero_id = hero_id or self.settings.hero
        try:
            return self.vault.ledger.hero(hero_id)
        except NotFoundError:
            recipe, variant = self.hero_variant(hero_id)
        folder = self._models().get(variant.model.name, self.paths.models / variant.model.name)
        model_dir = str(folder.relative_to(self.paths.home)) if folder.is_relative_to(self.paths.home) else str(folder)
        return self.vault.ledger.ensure_hero(
            hero_id,
            name=recipe.name,
            trainer=variant.trainer,
            model=variant.model.name,
            model_dir=model_dir,
            config=variant.config,
        )

    def _models(self) -> dict[str, Path]:
        """Return the base models at hand: folders with a `config.json`, by name."""
        found: dict[str, Path] = {}
        for root in (self.paths.models, *self.settings.model_dirs):
            if root.is_dir():
                found |= {path.name: path for path in sorted(root.iterdir()) if (path / "config.json").is_file()}
        return found

    # The arena

    @cached_property
    def intake(self) -> Intake:
        from arena.intake import Intake
        from realm.reception import Reception

        rules = Reception(self)
        return Intake(
            self.paths,
            self.settings.arena,
            rules.accept,
            hero=self.settings.hero,
            refused=rules.refuse,
            policy=rules.policy,
            generate=rules.generate,
        )

    def evaluation_sets(self, job: Job) -> list[EvaluationRows]:
        """Return the problems on which a job's run is measured; none for a job without a skill."""
        from arena.prepare import EvaluationRows
        from guild.quests import evaluation_sets_for

        if job.skill is None or job.level is None:
            return []
        try:
            sets = evaluation_sets_for(job.skill, job.level)
        except NotFoundError:
            return []
        return [EvaluationRows(s.name, s.skill, s.level, s.split, list(s.rows), s.space) for s in sets]

    def daemon(self) -> Daemon:
        """Build the arena's daemon on this realm's single writer of the log."""
        from arena.daemon import Daemon
        from arena.executors.local import LocalExecutor
        from arena.prepare import Preparation
        from realm.forge import ModelForge

        hero = self.ensure_hero()
        executor = LocalExecutor(self.paths.control / "workers" / "local-0", self.paths.home, self.settings.arena)
        preparation = Preparation(self.paths, self.vault, self.settings.arena, self.evaluation_sets)
        forge = ModelForge(self, hero)
        return Daemon(
            self.settings, self.vault, executor, preparation=preparation, intake=self.intake, ready=forge.ready
        )

    @cached_property
    def trainers(self) -> dict[str, str]:
        """Return the table of trainers, third parties' included."""
        from importlib.metadata import entry_points

        return TRAINERS | {point.name: point.value for point in entry_points(group="realm.trainers")}

    def close(self) -> None:
        if "vault" in self.__dict__:
            self.vault.close()


def build_realm(settings: Settings | None = None) -> Realm:
    """Return the realm of `settings` (loaded from home and environment when None)."""
    return Realm(settings)


def serve_arena(settings: Settings) -> int:
    """Be the arena's process until told to end."""
    from arena.daemon import serve

    realm = Realm(settings)
    try:
        return serve(realm.daemon(), identity_file(realm.paths, "arena"))
    finally:
        realm.close()
