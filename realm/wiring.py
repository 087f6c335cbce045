"""The roof: builds every part from settings, and the one table of trainers.

`Realm` opens parts when they are first asked for and imports neither torch nor a web framework by itself. Policy of
the guild meets mechanism of the arena only here, as callables.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm.errors import ConfigError, NotFoundError
from realm.hosts import HostRegistry
from realm.paths import RealmPaths
from realm.services import Service, identity_file, read_services
from realm.settings import Settings, load_settings

if TYPE_CHECKING:
    from arena.daemon import Daemon
    from arena.formats import Row
    from arena.formats.quests import GeneratorSpec, QuestSpec
    from arena.gatekeepers import Policy
    from arena.intake import Arrival, Intake, RefusedArrival
    from arena.machine import Machine
    from arena.prepare import EvaluationRows
    from guild.heroes import HeroRecipe, Variant
    from guild.skills.contract import SkillGenerator
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

        return Intake(
            self.paths,
            self.settings.arena,
            self._accept,
            hero=self.settings.hero,
            refused=self._refuse,
            policy=self._policy,
            generate=self._generate,
        )

    def _accept(self, arrival: Arrival) -> Job:
        """Enter a file that was let in as a job: the commit point of its arrival. Raises ConfigError."""
        from vault.records import NewJob

        hero = self.ensure_hero(arrival.hero)
        spec = arrival.spec
        trainer = spec.trainer if spec is not None else hero.trainer
        overrides = dict(spec.config) if spec is not None else {}
        data = {"sha256": arrival.object_sha256, "canonical_sha256": arrival.canonical_sha256, "rows": arrival.rows}
        data |= {"format": arrival.format, "name": arrival.name, "size": arrival.size}
        new = NewJob(
            hero_id=hero.id,
            trainer=trainer,
            name=arrival.name,
            idem_key=arrival.idem_key,
            source=arrival.source,
            priority=arrival.priority,
            data=[data],
            config=overrides,
            report=arrival.report.to_dict(),
            skill=arrival.skill,
            level=arrival.level,
            rows=arrival.rows,
            planned_steps=self._planned_steps(trainer, {**hero.config, **overrides}, arrival.rows),
        )
        return self.vault.jobs.submit(new)[0]

    def _refuse(self, refusal: RefusedArrival) -> Job:
        """Enter a file that was turned down, with its report, so that people find it on the board."""
        from vault.records import NewJob

        hero = self.ensure_hero()
        new = NewJob(
            hero_id=hero.id,
            trainer=hero.trainer,
            name=refusal.name,
            idem_key=refusal.idem_key,
            source=refusal.source,
            priority=refusal.priority,
            report=refusal.report.to_dict() if refusal.report else None,
            skill=refusal.skill,
            level=refusal.level,
        )
        reason = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint}
        return self.vault.jobs.submit(new, state="refused", reason=reason)[0]

    def _planned_steps(self, trainer: str, config: dict[str, Any], rows: int) -> int | None:
        """Return how many steps a job will take where that is known before it runs. Raises ConfigError."""
        if trainer not in self.trainers:
            known = ", ".join(sorted(self.trainers))
            raise ConfigError(f"There is no trainer {trainer!r}.", hint=f"Known trainers: {known}.", key="trainer")
        if trainer != "sft":
            return None
        from arena.trainers.sft.config import parse_config

        recipe = parse_config(config)
        if recipe.max_steps is not None:
            return recipe.max_steps
        if recipe.batch_tokens is not None:
            return None
        trained = rows - round(rows * recipe.validation_fraction)
        return max(1, round(recipe.epochs * -(-trained // recipe.batch_size)))

    def _policy(self, spec: QuestSpec | None) -> Policy:
        """Return how strictly a file is looked at: the settings' depth, and every skill's held-out problems."""
        return replace(self.intake.default_policy(spec), row_checks=(self._held_out,))

    def _held_out(self, row: Row) -> str | None:
        """Return why a row must not be trained on: it is, or equals, a problem that evaluations use."""
        for generator in self._skill_generators:
            for message in row.get("messages", ()):
                if generator.is_held_out(str(message.get("content", ""))):
                    return "it is an evaluation problem or its equal"
        return None

    @cached_property
    def _skill_generators(self) -> list[SkillGenerator]:
        from guild.skills import get_trainer, list_skills

        return [get_trainer(skill.id) for skill in list_skills()]

    def _generate(self, wish: GeneratorSpec) -> list[dict[str, Any]]:
        """Make the rows that a quest file asks a skill for, in the shares of tags and levels that suit the hero."""
        from guild.quests import make_quest_rows

        seed = wish.seed if wish.seed is not None else secrets.randbits(32)
        plan = self.hero_variant()[1].quest
        return list(make_quest_rows(wish.skill, plan.level_shares(wish.level), wish.count, seed, mix=plan.mix))

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


class ModelForge:
    """Sees to it that a hero's base model is there: a squire is built in a process of its own."""

    RETRY_S = 30.0

    def __init__(self, realm: Realm, hero: Hero) -> None:
        self._folder = realm.paths.home / hero.model_dir
        self._log = realm.paths.logs / "forge.log"
        self._realm = realm
        self._hero = hero
        self._child: subprocess.Popen[bytes] | None = None
        self._retry_at = 0.0

    def ready(self) -> bool:
        """Tell whether the model is there; start building it when it is not. Returns at once."""
        if (self._folder / "config.json").is_file():
            return True
        if self._child is not None and self._child.poll() is None:
            return False
        if time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + self.RETRY_S
            self._start()
        return False

    def _start(self) -> None:
        _, variant = self._realm.hero_variant(self._hero.id)
        if variant.model.kind != "squire" or variant.model.name != self._hero.model:
            story = {"hero": self._hero.id, "model": self._hero.model, "folder": str(self._hero.model_dir)}
            self._realm.vault.events.record("model_missing", self._hero.id, story)
            return
        command = [sys.executable, "-P", "-m", "realm.forge", str(self._folder)]
        command += ["--size", variant.model.size, "--seed", str(variant.model.seed)]
        with open(self._log, "ab") as log:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


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
