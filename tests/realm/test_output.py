"""Lines that cannot be written are lost; nothing raises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import faulthandler, logging, sys, traceback
from realm.output import never_fail
never_fail()
logging.basicConfig(handlers=[logging.StreamHandler(sys.stderr)])
print("out")
print("err \\udcff", file=sys.stderr, flush=True)
logging.warning("logged")
try:
    raise ValueError("told")
except ValueError:
    traceback.print_exc()
faulthandler.enable()
sys.exit(7)
"""


def test_a_full_log_does_not_raise() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=full, stderr=full, check=False)
    assert done.returncode == 7


def test_what_can_be_written_is_written(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as log:
        done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=log, stderr=log, check=False)
    assert done.returncode == 7
    text = (tmp_path / "log").read_text()
    assert all(word in text for word in ("out\n", "err \\udcff\n", "WARNING:root:logged", "ValueError: told"))
