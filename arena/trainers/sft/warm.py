"""What stays loaded between the runs of one process: tokenizers always, the hero's model while it is unchanged.

`WARM` is the one piece of state that outlives a run. A model is kept only if it is bit for bit what the last committed
checkpoint holds, under the hash of that checkpoint's manifest; the next run takes it only when its parent has the
same hash and its adapters have the same shape. Taking it empties the slot, so no model is ever shared by two runs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arena.trainers.sft.chat import TOKENIZER_FILES, ChatTokenizer
from arena.trainers.sft.config import SftConfig
from arena.trainers.sft.model import LanguageModel
from vault import manifest as manifests


@dataclass
class WarmModel:
    """A model and its optimizer averages, as a checkpoint holds them."""

    manifest_sha256: str
    model: LanguageModel
    optimizer_state: dict[Any, dict[str, Any]]
    """AdamW's state by parameter object."""
    device: str


@dataclass
class WarmCache:
    """At most one model; every tokenizer met, by the content of its files."""

    model: WarmModel | None = None
    tokenizers: dict[str, ChatTokenizer] = field(default_factory=dict)

    def tokenizer(self, folder: Path) -> ChatTokenizer:
        """Return the tokenizer of a folder. Its files are read and hashed each time, parsed once."""
        digest = hashlib.sha256()
        for name in TOKENIZER_FILES:
            path = folder / name
            if path.is_file():
                digest.update(name.encode() + b"\0" + path.read_bytes())
        key = digest.hexdigest()
        if key not in self.tokenizers:
            self.tokenizers[key] = ChatTokenizer(folder)
        return self.tokenizers[key]

    def take(self, parent: Path | None, config: SftConfig, device: str) -> WarmModel | None:
        """Return the kept model if it is what `parent` holds and what `config` asks for; empties the slot."""
        kept, self.model = self.model, None
        if kept is None or parent is None or kept.device != device or kept.model.lora != config.lora:
            return None
        try:
            wanted = manifests.read_manifest(parent).sha256()
        except Exception:  # an unreadable parent is reported by the ordinary way of loading
            return None
        return kept if wanted == kept.manifest_sha256 else None

    def keep(self, model: WarmModel) -> None:
        self.model = model

    def clear(self) -> None:
        """Forget everything; the next run loads from files."""
        self.model = None
        self.tokenizers.clear()


WARM = WarmCache()
