"""The gatekeepers' report: everything that was found in a file, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from arena.formats.kinds import REASONS

SHOWN_REJECTIONS = 50
SHOWN_EXAMPLES = 3


@dataclass(frozen=True)
class RejectedRow:
    """One row that was turned down."""

    line: int
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a file was refused as a whole."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """What was found. Counts are rows unless they say otherwise; `None` means that it was not looked at."""

    name: str
    format: str
    """Container and kinds, for example `jsonl/messages`."""
    depth: str
    accepted: bool
    refusal: Refusal | None
    size: int
    rows_read: int = 0
    rows_accepted: int = 0
    rows_rejected: int = 0
    rows_withheld: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    rejected: tuple[RejectedRow, ...] = ()
    """The first fifty; the quarantine file has all of them."""
    duplicates: int | None = None
    duplicates_dropped: bool = False
    near_duplicates: int | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)
    characters: int = 0
    longest_characters: int = 0
    tokens: int | None = None
    tokens_exact: bool = False
    longest_tokens: int | None = None
    rows_too_long: int | None = None
    supervised_share: float | None = None
    supervised_by: str = "characters"
    """Whether the share counts tokens or, without a tokenizer, characters of content."""
    skill: str | None = None
    level: int | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    memory: Mapping[str, Any] | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def render(report: Report) -> str:
    """Return the report as short text for people."""
    lines = [f"{report.name}: {'accepted' if report.accepted else 'refused'}"]
    if report.refusal:
        lines += [f"  {report.refusal.message}", *([f"  {report.refusal.hint}"] if report.refusal.hint else [])]
    lines.append(f"  {report.format}, {report.size:,} bytes, looked at {report.depth}")
    lines.append(f"  {report.rows_read:,} rows read, {report.rows_accepted:,} usable, {report.rows_rejected:,} bad")
    if report.rows_withheld:
        lines.append(f"  {report.rows_withheld:,} withheld: {REASONS['withheld']}")
    for reason, count in sorted(report.reasons.items(), key=lambda item: -item[1]):
        lines.append(f"  {count:,} bad because {REASONS.get(reason, reason)}")
    if report.duplicates:
        lines.append(f"  {report.duplicates:,} duplicates, {'left out' if report.duplicates_dropped else 'kept'}")
    if report.near_duplicates:
        lines.append(f"  {report.near_duplicates:,} differ from another row in case, spacing or the closing mark only")
    if report.tokens is not None:
        about = "" if report.tokens_exact else "about "
        lines.append(f"  {about}{report.tokens:,} tokens, the longest row {about}{report.longest_tokens:,}")
    if report.supervised_share is not None:
        lines.append(f"  {report.supervised_share:.0%} of the {report.supervised_by} are trained on")
    if report.skill:
        lines.append(f"  skill {report.skill}" + (f", level {report.level}" if report.level is not None else ""))
    lines += [f"  warning: {warning}" for warning in report.warnings]
    if report.rejected:
        lines.append("  first rows turned down:")
        for row in report.rejected:
            detail = f" ({row.detail})" if row.detail else ""
            lines.append(f"    line {row.line}: {REASONS.get(row.reason, row.reason)}{detail}")
    return "\n".join(lines) + "\n"
