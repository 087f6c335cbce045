"""Realm of Training: train, watch, evaluate, keep and talk to models on your own machines.

`from realm import Realm` builds the whole system from settings; nothing is imported before it is asked for,
because this package is both the ground of the layers (settings, paths, errors) and their roof (commands).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realm.wiring import Realm

__version__ = "0.1.0"
__all__ = ["Realm", "__version__"]


def __getattr__(name: str) -> Any:
    """Load `Realm` on first use (PEP 562). Raises AttributeError for any other name."""
    if name == "Realm":
        from realm.wiring import Realm

        return Realm
    raise AttributeError(f"module 'realm' has no attribute {name!r}")
