"""Standard output of processes that must outlive their log.

A service writes its log to a file on the same disk as everything else. Once that disk is full, every `print` and every
traceback would raise in the middle of the handler that was to survive the full disk. `never_fail` makes such lines get
lost in place of raising; the log goes on when there is room (tests/realm/test_output.py).
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class _Lossy(io.RawIOBase):
    """A descriptor to which writing always succeeds; what cannot be written is dropped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        left = view
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError:
                break
        return view.nbytes


def never_fail() -> None:
    """Replace this process's standard output and error by streams to which writing never raises."""
    sys.stdout = _stream(1)
    sys.stderr = _stream(2)


def _stream(descriptor: int) -> TextIO:
    buffered = io.BufferedWriter(_Lossy(descriptor))
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", write_through=True)
