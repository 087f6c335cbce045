"""`python -m tavern`: serve the realm whose home the environment names, until told to end."""

from __future__ import annotations

import sys

from realm import Realm
from realm.errors import ConfigError, RealmError
from realm.services import EXIT_BAD_CONFIG
from tavern.logs import log_to_stderr
from tavern.server import serve


def main() -> int:
    log_to_stderr()
    try:
        return serve(Realm())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_CONFIG
    except RealmError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
