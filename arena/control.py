"""Control by files and by command line, both a thin front to the command rows of the vault.

A file named `pause`, `resume`, `stop`, `skip` or `save` (a leading dot is allowed) in `control/` is a command: the
daemon turns it into a row and removes it. `python -m arena.control VERB` writes such a row directly.
"""

from __future__ import annotations

import sys
import time

from realm.errors import RealmError
from realm.paths import RealmPaths
from realm.settings import load_settings
from vault.commands import VERBS
from vault.records import Command
from vault.store import Vault


def take_control_files(paths: RealmPaths, vault: Vault) -> list[Command]:
    """Turn control files into commands and remove them; a crash in between repeats the command, not loses it."""
    taken = []
    for verb in VERBS:
        for name in (verb, f".{verb}"):
            file = paths.control / name
            try:
                stamp = file.lstat().st_mtime_ns
            except FileNotFoundError:
                continue
            taken.append(vault.commands.request(verb, by="a control file", command_id=f"cmd_file_{verb}_{stamp}"))
            file.unlink(missing_ok=True)
    return taken


def wait_for(vault: Vault, command: Command, timeout_s: float) -> Command:
    """Return the command as it stands once it is settled, or after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while command.state in ("pending", "sent") and time.monotonic() < end:
        time.sleep(0.05)
        command = vault.commands.get(command.id)
    return command


def main(arguments: list[str]) -> int:
    """`python -m arena.control status|pause|resume|stop|skip|save`."""
    if len(arguments) != 1 or arguments[0] not in ("status", *VERBS):
        print(f"usage: python -m arena.control status|{'|'.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        paths = load_settings().paths
        if not paths.vault_db.exists():
            print(f"There is no realm at {paths.home}. Start one with `realm up`.", file=sys.stderr)
            return 1
        vault = Vault.in_files(paths.vault_db, paths.metrics_db)
        if arguments[0] == "status":
            held, working = vault.jobs.held(), vault.jobs.processing()
            print(f"held by {held['by']}: {held['reason']}" if held else "open")
            for job in working:
                print(f"{job.name}: {vault.ledger.run(job.run_id).phase if job.run_id else 'preparing'}")
            return 0
        command = wait_for(vault, vault.commands.request(arguments[0], by="the command line"), 30.0)
    except RealmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{command.verb}: {command.state}; {(command.effect or {}).get('effect', 'waiting for the arena')}")
    return 0 if command.state == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
