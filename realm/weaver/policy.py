"""When a service that died is started again. Pure functions of (record, now): no clock, no process, no file.

A death after a healthy life is answered at once. Deaths in a row wait 0.5 s, doubled each time, with jitter, up to a
minute. Too many starts in a short window make a service *broken*: that is shown to people, and it is still tried
again for ever, slowly. A service that says its configuration is bad (exit 78) is not tried before that changes.

Invariants, checked in tests/realm/test_weaver_policy.py: at most 12 starts in the first ten minutes of a crash loop,
and never a last one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from realm.services import EXIT_BAD_CONFIG
from realm.settings import WeaverSettings

BROKEN_RETRY_MAX_S = 300.0
JITTER = 0.2
Phase = Literal["idle", "running", "waiting", "broken", "bad_config"]


@dataclass(frozen=True)
class Record:
    """What the policy remembers of one service. Times are monotonic seconds of one boot."""

    phase: Phase = "idle"
    starts: tuple[float, ...] = ()
    """Starts that still count towards breaking."""
    deaths: int = 0
    """Deaths in a row without a healthy life between them."""
    broken_retries: int = 0
    next_start: float = 0.0
    config_mark: str = ""
    """Fingerprint of the configuration that was refused."""
    restarts: int = 0
    """Restarts ever, for people."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """Read back what `to_dict` wrote; anything unusable gives a fresh record."""
        try:
            return cls(**(data | {"starts": tuple(float(start) for start in data["starts"])}))
        except (KeyError, TypeError, ValueError):
            return cls()


@dataclass(frozen=True)
class RestartPolicy:
    """The numbers; see `WeaverSettings` for what each means."""

    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    broken_starts: int = 5
    broken_window_s: float = 120.0
    broken_retry_s: float = 60.0
    healthy_s: float = 60.0

    @classmethod
    def from_settings(cls, settings: WeaverSettings) -> RestartPolicy:
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})

    def due(self, record: Record, now: float, config_mark: str) -> bool:
        """Tell whether the service should be started now."""
        if record.phase == "bad_config":
            return config_mark != record.config_mark
        return record.phase in ("idle", "waiting", "broken") and now >= record.next_start

    def started(self, record: Record, now: float) -> Record:
        """A process was started."""
        recent = tuple(start for start in record.starts if now - start < self.broken_window_s)
        again = 0 if record.phase == "idle" else 1
        return replace(record, phase="running", starts=(*recent, now), restarts=record.restarts + again)

    def lived(self, record: Record, now: float) -> Record:
        """It is still alive: a long enough life wipes the slate."""
        healthy = record.starts and now - record.starts[-1] >= self.healthy_s
        if healthy and (record.deaths or record.broken_retries or len(record.starts) > 1):
            return replace(record, starts=record.starts[-1:], deaths=0, broken_retries=0)
        return record

    def died(self, record: Record, now: float, code: int | None, config_mark: str, jitter: float = 0.0) -> Record:
        """It ended with `code` (None when that is not known). `jitter` in [-1, 1] shakes the wait by a fifth."""
        record = self.lived(record, now)
        if code == EXIT_BAD_CONFIG:
            return replace(record, phase="bad_config", config_mark=config_mark)
        healthy = bool(record.starts) and now - record.starts[-1] >= self.healthy_s
        if healthy:
            return replace(record, phase="waiting", starts=(), deaths=0, next_start=now)
        deaths = record.deaths + 1
        recent = [start for start in record.starts if now - start < self.broken_window_s]
        if len(recent) >= self.broken_starts or record.broken_retries:
            wait = min(self.broken_retry_s * 2**record.broken_retries, max(BROKEN_RETRY_MAX_S, self.broken_retry_s))
            retries = min(record.broken_retries + 1, 16)
            due = now + _shaken(wait, jitter)
            return replace(record, phase="broken", deaths=deaths, broken_retries=retries, next_start=due)
        wait = min(self.backoff_s * 2 ** min(deaths - 1, 16), self.backoff_max_s)
        return replace(record, phase="waiting", deaths=deaths, next_start=now + _shaken(wait, jitter))


def _shaken(wait: float, jitter: float) -> float:
    return wait * (1 + JITTER * jitter)
