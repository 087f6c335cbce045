"""`python -m tavern`: serve the realm whose home the environment names, until told to end.

`python -m tavern launch` prints an address that lets a browser in, once and within a minute, where the Tavern cannot
tell who owns a connection.
"""

from __future__ import annotations

import sys

from realm import Realm
from realm.errors import ConfigError, RealmError
from realm.services import EXIT_BAD_CONFIG
from tavern.logs import log_to_stderr
from tavern.server import launch_address, serve


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["launch"]):
        print("usage: python -m tavern [launch]", file=sys.stderr)
        return 2
    log_to_stderr()
    try:
        realm = Realm()
        return launch(realm) if arguments else serve(realm)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_CONFIG
    except RealmError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def launch(realm: Realm) -> int:
    address = launch_address(realm.paths)
    if address is None:
        print("The Tavern is not open. Start it with `realm up`.", file=sys.stderr)
        return 3
    print(address)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
