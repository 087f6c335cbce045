"""The Tavern's log: plain lines on standard error, with every secret taken out whatever wrote it."""

from __future__ import annotations

import logging
import re
import sys

_SECRETS = re.compile(r"realm_[A-Za-z0-9_-]{43}|(?i:(?<=bearer )|(?<=login#))[A-Za-z0-9._~+/-]{16,}=*")


class PlainFormatter(logging.Formatter):
    """`2027-01-31 22:10:04 WARNING tavern: …`, tracebacks included, secrets replaced."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def redact(text: str) -> str:
    """Return `text` without tokens, session secrets and launch codes."""
    return _SECRETS.sub("[secret]", text)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the whole process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("alembic", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
