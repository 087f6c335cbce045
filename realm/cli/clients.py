"""What commands ask of a realm, whether it is the ledger on this disk or a Tavern somewhere else.

Both implementations answer with the same plain values as the HTTP API (`tests/realm/test_cli_clients.py` compares).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Client(Protocol):
    """One realm."""

    def status(self) -> dict[str, Any]: ...

    # Jobs

    def jobs(self, states: Sequence[str], limit: int) -> list[dict[str, Any]]: ...

    def job(self, job_id: str) -> dict[str, Any]: ...

    def report(self, job_id: str) -> dict[str, Any]:
        """Return what the gatekeepers found. Raises NotFoundError when there is nothing."""
        ...

    def submit(self, path: Path, name: str, priority: str) -> dict[str, Any]:
        """Put a file into the inbox; returns the upload ({id, name, size, sha256})."""
        ...

    def job_of(self, sha256: str) -> dict[str, Any] | None:
        """Return the newest job made of a file with this content, once the gatekeepers have seen it."""
        ...

    def move(self, job_id: str, priority: str | None, before: str | None) -> dict[str, Any]: ...

    def cancel(self, job_id: str) -> dict[str, Any]: ...

    def retry(self, job_id: str) -> dict[str, Any]: ...

    # Commands

    def command(self, verb: str) -> dict[str, Any]: ...

    def command_state(self, command_id: str) -> dict[str, Any]: ...

    # Ledger

    def runs(self, limit: int) -> list[dict[str, Any]]: ...

    def run(self, run_id: str) -> dict[str, Any]: ...

    def metrics(self, run_id: str, name: str, max_points: int) -> list[Sequence[float]]: ...

    def checkpoints(self, hero: str | None, limit: int) -> list[dict[str, Any]]: ...

    def checkpoint(self, checkpoint_id: str) -> dict[str, Any]: ...

    def evaluations(self, hero: str | None, limit: int) -> list[dict[str, Any]]: ...

    def events(self, *, after: int | None, limit: int) -> list[dict[str, Any]]:
        """Return events, oldest first: those after `after`, or the newest when it is None."""
        ...

    # Tokens

    def tokens(self) -> list[dict[str, Any]]: ...

    def create_token(self, name: str, scopes: Sequence[str], ttl_s: int | None) -> dict[str, Any]: ...

    def revoke_token(self, token_id: str) -> dict[str, Any]: ...
