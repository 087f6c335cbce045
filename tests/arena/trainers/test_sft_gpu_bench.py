"""The GPU check runs at toy size on a CPU, so that it works on the day when somebody has a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benches import gpu


def test_the_gpu_check_runs_at_toy_size(tmp_path: Path, capsys: Any) -> None:
    report = tmp_path / "report.md"
    assert gpu.main(["--device", "cpu", "--shape", "toy", "--steps", "2", "--report", str(report)]) == 0
    text = report.read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert text.count("| whole") == 3
    assert "All checks passed." in text
