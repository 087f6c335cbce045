"""Forging a hero's first model: `python -m realm.forge OUT --size S --seed N`.

Runs in a process of its own, because it loads torch and whoever asks for it must not. The model is written beside and
renamed into place, so a forge that was killed leaves nothing that looks like a model.
"""

from __future__ import annotations

import argparse
from pathlib import Path


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
