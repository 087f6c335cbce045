"""Who may do what: the one table of all addresses that the Tavern answers, and the scope that each asks for.

An address without an entry is denied, whatever routes exist (tests/tavern/test_access.py walks them all). Pages are the
only exception to writing a line here: `AccessTable.with_pages` enters the GET routes of the pages' router as `read`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Scope = Literal["open", "read", "operate", "admin"]
Body = Literal["json", "upload"]
GRANTS: dict[str, frozenset[str]] = {
    "read": frozenset({"read"}),
    "operate": frozenset({"read", "operate"}),
    "admin": frozenset({"read", "operate", "admin"}),
    "zone": frozenset({"zone"}),
}
EFFECTS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
UPLOAD_TYPES = frozenset({"application/octet-stream", "application/x-ndjson"})


@dataclass(frozen=True)
class Rule:
    """One method of one address. `{name}` stands for a path segment, `{name:path}` for the rest."""

    method: str
    path: str
    scope: Scope
    body: Body = "json"
    """What a request with an effect may carry."""


RULES: tuple[Rule, ...] = (
    # For everybody
    Rule("GET", "/healthz", "open"),
    Rule("GET", "/login", "open"),
    Rule("POST", "/login", "open"),
    Rule("GET", "/login.css", "open"),
    Rule("GET", "/login.js", "open"),
    # Looking
    Rule("GET", "/readyz", "read"),
    Rule("GET", "/metrics", "read"),
    Rule("GET", "/openapi.json", "read"),
    Rule("GET", "/api/v1/status", "read"),
    Rule("GET", "/api/v1/session", "read"),
    Rule("GET", "/api/v1/jobs", "read"),
    Rule("GET", "/api/v1/jobs/{job_id}", "read"),
    Rule("GET", "/api/v1/jobs/{job_id}/report", "read"),
    Rule("GET", "/api/v1/jobs/{job_id}/preview", "read"),
    Rule("GET", "/api/v1/uploads/{upload_id}", "read"),
    Rule("GET", "/api/v1/commands/{command_id}", "read"),
    Rule("GET", "/api/v1/runs", "read"),
    Rule("GET", "/api/v1/runs/{run_id}", "read"),
    Rule("GET", "/api/v1/runs/{run_id}/metrics", "read"),
    Rule("GET", "/api/v1/heroes", "read"),
    Rule("GET", "/api/v1/heroes/{hero_id}", "read"),
    Rule("GET", "/api/v1/checkpoints", "read"),
    Rule("GET", "/api/v1/checkpoints/{checkpoint_id}", "read"),
    Rule("GET", "/api/v1/evaluations", "read"),
    Rule("GET", "/api/v1/log", "read"),
    Rule("GET", "/api/v1/events", "read"),
    # Doing
    Rule("POST", "/api/v1/jobs", "operate", "upload"),
    Rule("PATCH", "/api/v1/jobs/{job_id}", "operate"),
    Rule("POST", "/api/v1/jobs/{job_id}/cancel", "operate"),
    Rule("POST", "/api/v1/jobs/{job_id}/retry", "operate"),
    Rule("POST", "/api/v1/commands", "operate"),
    Rule("POST", "/api/v1/checkpoints/{checkpoint_id}/promote", "operate"),
    # One's own session
    Rule("DELETE", "/api/v1/session", "read"),
    # Keys
    Rule("GET", "/api/v1/tokens", "admin"),
    Rule("POST", "/api/v1/tokens", "admin"),
    Rule("DELETE", "/api/v1/tokens/{token_id}", "admin"),
)


class AccessTable:
    """The rules, ready for matching."""

    def __init__(self, rules: Iterable[Rule] = RULES) -> None:
        self._exact: dict[str, dict[str, Rule]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Rule]]] = []
        by_path: dict[str, dict[str, Rule]] = {}
        for rule in rules:
            by_path.setdefault(rule.path, {})[rule.method] = rule
        for path, methods in by_path.items():
            if "{" in path:
                self._patterns.append((_compile(path), methods))
            else:
                self._exact[path] = methods

    @classmethod
    def with_pages(cls, pages: Iterable[tuple[str, Iterable[str]]]) -> AccessTable:
        """Return the table with the pages' routes, given as (path, methods). Raises ValueError for one with effects."""
        rules = list(RULES)
        for path, methods in pages:
            if set(methods) - {"GET", "HEAD"}:
                raise ValueError(f"the page {path} must only be read: effects belong under /api/v1")
            rules.append(Rule("GET", path, "read"))
        return cls(rules)

    def find(self, path: str) -> dict[str, Rule] | None:
        """Return the rules of an address by method, or None when there is no such address."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        for pattern, methods in self._patterns:
            if pattern.fullmatch(path):
                return methods
        return None


def _compile(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{\w+(:path)?\}", path)
    # re.split with one group gives text, group, text, group, …, text
    built = re.escape(parts[0])
    for kind, text in zip(parts[1::2], parts[2::2], strict=True):
        built += (r"[A-Za-z0-9_./@-]+" if kind else r"[A-Za-z0-9_.@-]+") + re.escape(text or "")
    return re.compile(built)
