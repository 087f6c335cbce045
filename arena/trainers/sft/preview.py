"""What will be trained and what is masked, shown before a run: `python -m arena.trainers.sft.preview < request.json`.

The request is {"model_dir", "rows": [canonical rows], "profile", "max_length"}; the answer, on stdout, is
{"rows": [{"tokens": [[text, trained], …], "tokens_total", "tokens_trained"}], "masked_share"} or {"error": {code,
message, hint}} with exit code 1. It runs in a process of its own, because a tokenizer file comes from outside; it
imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arena.trainers.sft.chat import ChatTokenizer
from arena.trainers.sft.profiles import get_profile
from realm.errors import RealmError


def preview(row: dict[str, Any], tokenizer: ChatTokenizer, *, profile: str = "plain_sft") -> list[tuple[str, bool]]:
    """Return (token text, trained) for every token of one canonical row."""
    return tokenizer.preview(get_profile(profile).dress(row))


def preview_rows(model_dir: Path, rows: Sequence[dict[str, Any]], *, profile: str = "plain_sft") -> dict[str, Any]:
    """Return the previews of some rows with their totals. Raises RealmError as a run would."""
    tokenizer = ChatTokenizer(model_dir)
    shown = []
    total = trained = 0
    for row in rows:
        tokens = preview(row, tokenizer, profile=profile)
        count = sum(flag for _, flag in tokens)
        shown.append({"tokens": tokens, "tokens_total": len(tokens), "tokens_trained": count})
        total += len(tokens)
        trained += count
    return {"rows": shown, "masked_share": 1 - trained / total if total else None}


def main() -> int:
    """Answer one request from stdin."""
    try:
        request = json.load(sys.stdin)
        answer = preview_rows(Path(request["model_dir"]), request["rows"], profile=request.get("profile", "plain_sft"))
    except RealmError as error:
        answer = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    except (KeyError, TypeError, ValueError) as error:
        answer = {"error": {"code": "bad_request", "message": f"{type(error).__name__}: {error}", "hint": ""}}
    json.dump(answer, sys.stdout, ensure_ascii=False)
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    raise SystemExit(main())
