"""A Weaver over the services described by a JSON file, for tests: `toy_weaver.py HOME SERVICES.json [SILENT_S]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from realm.services import Service
from realm.settings import load_settings
from realm.weaver.supervisor import Weaver


class FileTeller:
    """Writes events to a file instead of a ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tell(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps({"kind": kind, "subject": subject, "data": data}) + "\n")

    def flush(self) -> None:
        """Every event is written at once."""


def main() -> None:
    settings = load_settings(sys.argv[1])
    services = [
        Service(**(entry | {"argv": tuple(entry["argv"])})) for entry in json.loads(Path(sys.argv[2]).read_text())
    ]
    silent_s = float(sys.argv[3]) if len(sys.argv) > 3 else 120.0
    weaver = Weaver(settings, services, teller=FileTeller(settings.home / "events.jsonl"), silent_s=silent_s)
    if not weaver.take_over():
        sys.exit(9)
    weaver.run()


if __name__ == "__main__":
    main()
