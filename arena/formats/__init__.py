"""Training files to rows: what a dropped file is, and its content as a stream of rows with their line numbers.

Containers: JSONL, JSON (an array, or an object that holds one), Parquet, CSV and TSV, plain text and Markdown, each of
them (but Parquet) also gzipped; and quest files in YAML. Row shapes: chat messages, prompt and completion, question and
answer, instruction, ShareGPT conversations, plain text. Nothing is registered by hand: content decides, the name only
helps where content cannot tell.

Invariant: whatever the bytes are, reading ends, takes constant memory and raises nothing but RefusedError; every row
of the file comes out either as a value or with the reason why not (tests/arena/test_formats.py).
"""

from arena.formats.kinds import BadRowError, Canonicaliser, Row
from arena.formats.quests import GeneratorSpec, QuestSpec, read_quest
from arena.formats.rows import RowStream, open_rows, rows_from_values
from arena.formats.sniff import Format, sniff
from arena.formats.source import DEFAULT_LIMITS, Limits, RawRow

__all__ = [
    "DEFAULT_LIMITS",
    "BadRowError",
    "Canonicaliser",
    "Format",
    "GeneratorSpec",
    "Limits",
    "QuestSpec",
    "RawRow",
    "Row",
    "RowStream",
    "open_rows",
    "read_quest",
    "rows_from_values",
    "sniff",
]
