"""Forging a hero's first model: `python -m realm.forge OUT --size S --seed N`, and seeing to it that it is done.

Forging runs in a process of its own, because it loads torch and whoever asks for it must not. The model is written
beside and renamed into place, so a forge that was killed leaves nothing that looks like a model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from realm.wiring import Realm
    from vault.records import Hero


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


def main() -> int:
    """Build the squire: a tokenizer trained here and a small Qwen3 with random weights."""
    parser = argparse.ArgumentParser(prog="python -m realm.forge", description=main.__doc__)
    parser.add_argument("out", type=Path, help="folder of the model, made by this command")
    parser.add_argument("--size", default="squire")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from arena.squire import build_squire
    from guild.corpus import squire_corpus

    built = build_squire(arguments.out, squire_corpus(), size=arguments.size, seed=arguments.seed)
    print(f"forged {built}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
