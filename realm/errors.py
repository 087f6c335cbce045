"""The error tree of the realm.

Every error that a person may meet is a `RealmError`: its message says what happened and where, its `hint` says
what to do, its `code` is stable for programs, its `data` is what a handler needs. The web turns it into problem
details (RFC 9457), the CLI into one line and an exit code.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RealmError(Exception):
    """Base of all errors meant for people. `status` is the HTTP status, `exit_code` the CLI's."""

    code: str = "realm_error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", code: str | None = None, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data = data
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(RealmError):
    """A setting, recipe or command line that cannot be obeyed."""

    code = "bad_config"
    status = 422
    exit_code = 2


class NotFoundError(RealmError):
    """Something named does not exist."""

    code = "not_found"
    status = 404


class ConflictError(RealmError):
    """The present state does not allow what was asked."""

    code = "conflict"
    status = 409


class RefusedError(RealmError):
    """Input that was looked at and turned down, with the reason and, where there is one, the report."""

    code = "refused"
    status = 422


class CorruptFileError(RealmError):
    """A file or checkpoint whose content does not match its manifest or its format."""

    code = "corrupt_file"
    status = 409


class DiskFullError(RealmError):
    """Not enough room. `data` holds `needed` and `free`, both in bytes."""

    code = "disk_full"
    status = 507


class HostUnavailableError(RealmError):
    """A service or host that does not answer."""

    code = "host_unavailable"
    status = 503
    exit_code = 3
