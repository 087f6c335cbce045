"""`python -m realm.weaver --status | --mend | --daemon`: show the services, look after them once, or for ever."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from realm.errors import RealmError
from realm.output import never_fail
from realm.services import read_services, weaver_identity
from realm.settings import Settings, load_settings


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m realm.weaver", description="Watch over the realm's services.")
    parser.add_argument("--home", help="folder of the realm")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for the services")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="show the services (the default)")
    what.add_argument("--mend", action="store_true", help="one pass: start what is down, then end")
    what.add_argument("--daemon", action="store_true", help="watch until told to stop")
    what.add_argument("--record", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    flags = dict(entry.split("=", 1) for entry in arguments.set)
    try:
        settings = load_settings(arguments.home, _typed(flags))
        if arguments.record:
            return _record(settings)
        if arguments.daemon or arguments.mend:
            return _watch(settings, flags, once=arguments.mend)
        return _status(settings)
    except RealmError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _watch(settings: Settings, flags: dict[str, Any], *, once: bool) -> int:
    from realm.weaver.supervisor import Weaver
    from realm.wiring import SERVICES

    if not once:
        never_fail()
    weaver = Weaver(settings, SERVICES, flags=flags)
    if not weaver.take_over():
        print("Another Weaver watches over this home already.", file=sys.stderr)
        return 0 if once else 1
    if once:
        weaver.tick()
        return _status(settings)
    weaver.run()
    return 0


def _status(settings: Settings) -> int:
    """Print one line a service; the exit code tells whether all are up."""
    services = read_services(settings.paths)
    weaver = weaver_identity(settings.paths)
    print(f"weaver  {'up, pid ' + str(weaver.pid) if weaver else 'down'}")
    for service in services:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(service.since)) if service.since else "-"
        last = service.detail.splitlines()[-1] if service.detail else ""
        print(f"{service.name}  {service.state}  pid {service.pid or '-'}  since {since}  {last}".rstrip())
    return 0 if weaver and services and all(service.state == "up" for service in services) else 1


def _record(settings: Settings) -> int:
    """Write events, one JSON object a line of standard input, into the ledger."""
    from realm.wiring import Realm

    realm = Realm(settings)
    for line in sys.stdin.read().splitlines():
        event = json.loads(line)
        realm.vault.events.record(event["kind"], event["subject"], event["data"])
    realm.close()
    return 0


def _typed(flags: dict[str, str]) -> dict[str, Any]:
    import yaml

    return {key: yaml.safe_load(value) for key, value in flags.items()}


if __name__ == "__main__":
    sys.exit(main())
