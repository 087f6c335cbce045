"""One pass over a file: read, check, quarantine, write the canonical rows, report.

Every row that is read ends in exactly one place: the canonical file or the quarantine file, with its line number. The
canonical file is hashed while it is written, so that nothing is read twice. An inspection never raises because of what
a file holds: a file that cannot be taken comes back as a verdict with a refusal in its report.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from arena.formats import BadRowError, Canonicaliser, RawRow, Row, open_rows
from arena.formats.kinds import REASONS
from arena.gatekeepers.content import DigestSet, NearHeldOut, check_turns, loose_digest
from arena.gatekeepers.policy import Depth, Lengths, Policy
from arena.gatekeepers.preview import TokenCounter
from arena.gatekeepers.report import SHOWN_EXAMPLES, SHOWN_REJECTIONS, Refusal, RejectedRow, Report
from realm.errors import RealmError, RefusedError

QUICK_ROWS = 200
SAMPLED_ROWS = 1024
"""Rows whose tokens STANDARD counts; the rest is estimated from them."""
_BATCH = 256
_BATCH_BYTES = 8 << 20
_EXCERPT_BYTES = 16 << 10
_EXAMPLE_CHARACTERS = 600
_MAX_GUESSES = 1000


@dataclass(frozen=True)
class Verdict:
    """The report of an inspection, and the canonical file that it wrote."""

    report: Report
    rows: int
    canonical_sha256: str
    canonical_size: int

    @property
    def accepted(self) -> bool:
        return self.report.accepted


def inspect_file(
    path: Path,
    name: str,
    canonical: Path,
    quarantine: Path,
    policy: Policy | None = None,
    *,
    tick: Callable[[int], None] = lambda rows: None,
) -> Verdict:
    """Inspect a training file.

    Writes `canonical` (new, not synced) and, if rows are turned down, `quarantine`. `tick` is called now and then with
    the rows read so far; what it raises ends the inspection.
    """
    size = path.stat().st_size
    inspection = _Inspection(name, size, policy or Policy(), tick)
    try:
        stream = open_rows(path, name, inspection.policy.limits)
    except RefusedError as error:
        return inspection.refused(error)
    inspection.format = stream.format.name
    return inspection.run(stream.rows, canonical, quarantine, stream.notes)


def inspect_rows(
    rows: Iterable[RawRow],
    name: str,
    canonical: Path,
    quarantine: Path,
    policy: Policy | None = None,
    *,
    format: str = "rows",
    tick: Callable[[int], None] = lambda rows: None,
) -> Verdict:
    """Inspect rows that come from somewhere else than a file."""
    inspection = _Inspection(name, 0, policy or Policy(), tick)
    inspection.format = format
    return inspection.run(iter(rows), canonical, quarantine, [])


class _Good(NamedTuple):
    """A row that passed so far, waiting for its batch."""

    raw: RawRow
    row: Row
    line: bytes
    kind: str


class _Inspection:
    """The state of one pass."""

    def __init__(self, name: str, size: int, policy: Policy, tick: Callable[[int], None]) -> None:
        self.name = name
        self.size = size
        self.policy = policy
        self.format = "unknown"
        self._tick = tick
        self._started = time.monotonic()
        self._shapes = Canonicaliser(policy.limits.messages)
        self._reasons: Counter[str] = Counter()
        self._rejected: list[RejectedRow] = []
        self._warnings: list[str] = []
        self._seen = DigestSet()
        self._near = DigestSet()
        self._near_held_out: NearHeldOut | None = None
        self._tokenizer: TokenCounter | None = None
        self._read = self._accepted = self._withheld = self._duplicates = self._near_duplicates = 0
        self._characters = self._trained_characters = self._longest = 0
        self._counted = self._tokens = self._trained_tokens = self._longest_tokens = self._too_long = 0
        self._counted_characters = 0
        self._kinds: Counter[str] = Counter()
        self._guesses: Counter[tuple[str, int | None]] = Counter()
        self._examples: list[Row] = []

    def run(self, rows: Iterator[RawRow], canonical: Path, quarantine: Path, notes: list[str]) -> Verdict:
        """Read all rows and return the verdict."""
        self._prepare()
        digest = hashlib.sha256()
        refusal: RefusedError | None = None
        size = 0
        with open(canonical, "xb") as out, _Quarantine(quarantine) as bad:
            pending: list[_Good] = []
            pending_bytes = 0
            try:
                for raw in rows:
                    self._read += 1
                    good = self._take(raw, bad)
                    if good is not None:
                        pending.append(good)
                        pending_bytes += len(good.line)
                    if len(pending) >= _BATCH or pending_bytes > _BATCH_BYTES or self._read % 4096 == 0:
                        size += self._flush(pending, out, digest, bad)
                        pending_bytes = 0
            except RefusedError as error:
                refusal = error
            size += self._flush(pending, out, digest, bad)
        refusal = refusal or self._judge()
        self._warn(notes)
        return Verdict(self._report(refusal), self._accepted, digest.hexdigest(), size)

    def refused(self, error: RefusedError) -> Verdict:
        """Return the verdict on a file that could not be opened as rows."""
        return Verdict(self._report(error), 0, hashlib.sha256().hexdigest(), 0)

    def _prepare(self) -> None:
        policy = self.policy
        if policy.depth == Depth.DEEP and policy.held_out_texts is not None:
            self._near_held_out = NearHeldOut(policy.held_out_texts())
        if policy.tokenizer_dir is not None:
            try:
                self._tokenizer = TokenCounter(policy.tokenizer_dir, policy.profile)
            except RealmError as error:
                self._warnings.append(f"Tokens were not counted. {error}")

    # A row

    def _take(self, raw: RawRow, bad: _Quarantine) -> _Good | None:
        """Return a row with its canonical line, or None after turning it down."""
        if raw.reason is not None:
            self._turn_down(raw, raw.reason, raw.detail, bad)
            return None
        try:
            row, kind = self._shapes.row(raw.value)
            if self.policy.kinds is not None and kind not in self.policy.kinds:
                raise BadRowError("unexpected_kind", kind)
            if self.policy.depth > Depth.QUICK or self._read <= QUICK_ROWS:
                check_turns(row)
            line = _encode(row)
            if len(line) > self.policy.limits.line_bytes:
                raise BadRowError("row_too_long", f"{len(line)} bytes")
            if self.policy.depth > Depth.QUICK:
                self._check_repetition(row, line)
        except BadRowError as error:
            self._turn_down(raw, error.reason, error.detail, bad)
            return None
        for check in self.policy.row_checks:
            if why := check(row):
                self._withhold(raw, why, bad)
                return None
        if self._near_held_out is not None and (why := self._near_held_out.check(row)):
            self._withhold(raw, why, bad)
            return None
        return _Good(raw, row, line, kind)

    def _check_repetition(self, row: Row, line: bytes) -> None:
        content = line if "metadata" not in row else _encode({k: v for k, v in row.items() if k != "metadata"})
        if self._seen.add(hash(content)):
            self._duplicates += 1
            if self.policy.drop_duplicates:
                raise BadRowError("duplicate")
        elif self.policy.depth == Depth.DEEP and self._near.add(loose_digest(row)):
            self._near_duplicates += 1

    def _turn_down(self, raw: RawRow, reason: str, detail: str, bad: _Quarantine) -> None:
        self._reasons[reason] += 1
        self._note_rejection(raw, reason, detail, bad)

    def _withhold(self, raw: RawRow, why: str, bad: _Quarantine) -> None:
        self._withheld += 1
        self._note_rejection(raw, "withheld", why, bad)

    def _note_rejection(self, raw: RawRow, reason: str, detail: str, bad: _Quarantine) -> None:
        if len(self._rejected) < SHOWN_REJECTIONS:
            self._rejected.append(RejectedRow(raw.line, reason, _clean(detail)[:300]))
        bad.add(raw, reason, detail)

    # A batch of good rows

    def _flush(self, pending: list[_Good], out: BinaryIO, digest: Any, bad: _Quarantine) -> int:
        """Count tokens, write the canonical lines and return their bytes; empties `pending`."""
        self._tick(self._read)
        kept = self._count_tokens(pending, bad)
        for good in kept:
            self._count(good.row)
            self._kinds[good.kind] += 1
        data = b"".join(good.line for good in kept)
        digest.update(data)
        out.write(data)
        self._accepted += len(kept)
        pending.clear()
        return len(data)

    def _count_tokens(self, pending: list[_Good], bad: _Quarantine) -> list[_Good]:
        deep = self.policy.depth == Depth.DEEP
        wanted = SAMPLED_ROWS if self.policy.depth > Depth.QUICK else QUICK_ROWS
        if self._tokenizer is None or not pending or (self._counted >= wanted and not deep):
            return pending
        kept = []
        for good, counts in zip(pending, self._tokenizer.count([good.row for good in pending]), strict=True):
            if isinstance(counts, str):
                self._turn_down(good.raw, "tokenizer", counts, bad)
                continue
            tokens, trained = counts
            too_long = self.policy.max_tokens is not None and tokens > self.policy.max_tokens and "messages" in good.row
            self._too_long += too_long
            if too_long and deep:
                self._turn_down(good.raw, "too_long", f"{tokens} tokens", bad)
                continue
            self._counted += 1
            self._tokens += tokens
            self._trained_tokens += trained
            self._longest_tokens = max(self._longest_tokens, tokens)
            self._counted_characters += _characters(good.row)
            kept.append(good)
        return kept

    def _count(self, row: Row) -> None:
        characters = trained = 0
        if "text" in row:
            characters = trained = len(row["text"])
        else:
            for message in row["messages"]:
                length = len(message["content"])
                characters += length
                if message["role"] == "assistant":
                    trained += length
        self._characters += characters
        self._trained_characters += trained
        self._longest = max(self._longest, characters)
        metadata = row.get("metadata")
        if metadata:
            self._guess(metadata)
        if len(self._examples) < SHOWN_EXAMPLES:
            self._examples.append(_shortened(row))

    def _guess(self, metadata: Mapping[str, Any]) -> None:
        skill, level = metadata.get("skill"), metadata.get("level")
        if type(skill) is str and 0 < len(skill) <= 64 and len(self._guesses) < _MAX_GUESSES:
            self._guesses[skill, level if type(level) is int and 0 <= level <= 1000 else None] += 1

    # The end

    def _judge(self) -> RefusedError | None:
        """Return why the file is refused, or None."""
        bad = sum(self._reasons.values()) - self._reasons["duplicate"]
        if self._read == 0:
            return RefusedError("The file has no rows.", code="no_rows")
        if bad > self.policy.max_bad_rows * self._read:
            reason, count = self._reasons.most_common(1)[0]
            first = next((r for r in self._rejected if r.reason == reason), None)
            where = f", first in line {first.line}" if first else ""
            detail = f" ({first.detail})" if first and first.detail else ""
            return RefusedError(
                f"{bad:,} of {self._read:,} rows cannot be used ({bad / self._read:.0%}); at most "
                f"{self.policy.max_bad_rows:.0%} may be bad. {count:,} because {REASONS[reason]}{where}{detail}.",
                hint="Mend the rows that the report names and drop the file again.",
                code="too_many_bad_rows",
            )
        if self._accepted == 0:
            why = "all of them are withheld" if self._withheld else "none of them can be used"
            return RefusedError(f"The file has {self._read:,} rows and {why}.", code="no_usable_rows")
        return None

    def _warn(self, notes: list[str]) -> None:
        warnings = self._warnings
        warnings += notes
        if self._withheld:
            warnings.append(f"{self._withheld:,} rows are problems of an evaluation and are not trained on.")
        if self._duplicates:
            done = "left out" if self.policy.drop_duplicates else "trained on as often as they occur"
            warnings.append(f"{self._duplicates:,} rows are duplicates; they are {done}.")
        if self._near_duplicates > self._accepted // 10:
            warnings.append(f"{self._near_duplicates:,} rows are near duplicates of others.")
        if self._seen.is_full:
            warnings.append("Duplicates were looked for among the first eight million different rows only.")
        if self._shapes.unused:
            warnings.append(f"Fields of no use were left out: {', '.join(_clean(f) for f in self._shapes.unused)}.")
        if self._too_long:
            few = "" if self.policy.depth == Depth.DEEP else " of those counted"
            warnings.append(f"{self._too_long:,} rows{few} are longer than {self.policy.max_tokens} tokens.")
        share = self._share()
        if share is not None and set(self._kinds) != {"text"}:
            if share > 0.75:
                warnings.append(
                    f"{share:.0%} of the content is trained on: the prompts are short, or lie in the answers."
                )
            elif share < 0.15:
                warnings.append(f"Only {share:.0%} of the content is trained on.")

    def _share(self) -> float | None:
        if self._tokens:
            return self._trained_tokens / self._tokens
        return self._trained_characters / self._characters if self._characters else None

    def _report(self, refusal: RefusedError | None) -> Report:
        depth = self.policy.depth
        kinds = dict(self._kinds)
        exact = self._counted == self._accepted
        tokens: int | None = None
        if self._counted_characters:
            tokens = self._tokens if exact else round(self._tokens * self._characters / self._counted_characters)
        share = self._share()
        skill, level = self._guesses.most_common(1)[0][0] if self._guesses else (None, None)
        lengths = Lengths(self._accepted, self._longest_tokens, (tokens or 0) / max(1, self._accepted), exact)
        memory = None
        if refusal is None and self.policy.estimate_memory is not None and tokens is not None:
            memory = dict(self.policy.estimate_memory(lengths))
        return Report(
            name=self.name,
            format=f"{self.format}/{'+'.join(kinds)}" if kinds else self.format,
            depth=depth.name.lower(),
            accepted=refusal is None,
            refusal=Refusal(refusal.code, refusal.message, refusal.hint) if refusal else None,
            size=self.size,
            rows_read=self._read,
            rows_accepted=self._accepted,
            rows_rejected=sum(self._reasons.values()),
            rows_withheld=self._withheld,
            reasons=dict(self._reasons),
            rejected=tuple(self._rejected),
            duplicates=self._duplicates if depth > Depth.QUICK else None,
            duplicates_dropped=self.policy.drop_duplicates,
            near_duplicates=self._near_duplicates if depth == Depth.DEEP else None,
            kinds=kinds,
            characters=self._characters,
            longest_characters=self._longest,
            tokens=tokens,
            tokens_exact=tokens is not None and exact,
            longest_tokens=self._longest_tokens if tokens is not None else None,
            rows_too_long=self._too_long if tokens is not None and self.policy.max_tokens is not None else None,
            supervised_share=None if share is None else round(share, 4),
            supervised_by="tokens" if self._tokens else "characters",
            skill=skill,
            level=level,
            examples=tuple(self._examples),
            warnings=tuple(self._warnings),
            memory=memory,
            seconds=round(time.monotonic() - self._started, 3),
        )


class _Quarantine:
    """The rows that were turned down, one JSON object a line; the file exists only if there are any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> _Quarantine:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, raw: RawRow, reason: str, detail: str) -> None:
        if self._file is None:
            self._file = open(self._path, "xb")  # noqa: SIM115 - closed by __exit__
        source = raw.source.decode("utf-8", "backslashreplace") if raw.source else _dump(raw.value)
        entry = {"line": raw.line, "reason": reason, "detail": detail[:1000], "row": source[:_EXCERPT_BYTES]}
        self._file.write(json.dumps(entry).encode() + b"\n")


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def _encode(row: Row) -> bytes:
    """Return the canonical line of a row. Raises BadRowError where it cannot be written as JSON in UTF-8."""
    try:
        return _ENCODER.encode(row).encode() + b"\n"
    except UnicodeEncodeError:
        raise BadRowError("bad_character", "half a surrogate pair") from None
    except ValueError:
        raise BadRowError("not_a_number") from None
    except (TypeError, RecursionError) as error:
        raise BadRowError("bad_field", f"{error!s:.120}") from None


def _dump(value: Any) -> str:
    if value is None:
        return ""
    try:
        return json.dumps(value, default=repr)
    except (ValueError, RecursionError, TypeError):
        return repr(type(value))


def _characters(row: Row) -> int:
    return len(row["text"]) if "text" in row else sum(len(message["content"]) for message in row["messages"])


def _shortened(row: Row) -> Row:
    if "text" in row:
        return {"text": _cut(row["text"])}
    return {"messages": [{"role": m["role"], "content": _cut(m["content"])} for m in row["messages"][:8]]}


def _cut(text: str) -> str:
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS] + "…"


def _clean(text: str) -> str:
    """Return text that any terminal or page can show."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
