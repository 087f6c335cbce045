"""The Weaver's loop: look at every service, note who died, start what is due, tell people.

Services outlive the Weaver: they run in sessions of their own and are adopted again by (pid, start time, boot) when a
new Weaver comes. Its account is `control/services.json`, written on every change; its memory of deaths is kept there
too, so that killing the Weaver does not make a broken service look new.

Invariants (tests/realm/test_weaver.py): killing the Weaver restarts no service and doubles none; a crash loop ends as
`broken` and is still tried; exit 78 waits for a change of the configuration.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from realm.errors import ConfigError, CorruptFileError, NotFoundError
from realm.files import durable_write_json, read_json
from realm.paths import project_root
from realm.processes import FileLock, ProcessIdentity, boot_id
from realm.services import Service, ServiceState, ServiceStatus, services_file
from realm.settings import Settings, load_settings
from realm.weaver import launch
from realm.weaver.policy import Record, RestartPolicy
from realm.weaver.ready import is_ready

PROBE_S = 5.0
SILENT_S = 120.0
"""A service that was ready and has not answered for this long is killed and started again."""
START_S = 600.0
"""A service that was never ready is given this long: a recovery may have much to verify."""


class Teller(Protocol):
    """Where the Weaver's events go."""

    def tell(self, kind: str, subject: str, data: dict[str, Any]) -> None: ...

    def flush(self) -> None: ...


@dataclass
class Watched:
    """One service and what the Weaver knows of it now."""

    service: Service
    record: Record = field(default_factory=Record)
    process: subprocess.Popen[bytes] | None = None
    identity: ProcessIdentity | None = None
    state: ServiceState = "down"
    since: float = 0.0
    detail: str = ""
    started_at: float = 0.0
    log_offset: int = 0
    last_probe: float = 0.0
    last_answer: float = 0.0


class Weaver:
    """Supervises a table of services. `tick` is one look; `run` looks until told to end."""

    def __init__(
        self,
        settings: Settings,
        services: Sequence[Service],
        *,
        flags: Mapping[str, Any] | None = None,
        teller: Teller | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] | None = None,
        silent_s: float = SILENT_S,
    ) -> None:
        self.settings = settings
        self.paths = settings.paths.ensure()
        self._flags = dict(flags or {})
        self._policy = RestartPolicy.from_settings(settings.weaver)
        self._teller: Teller = teller or Chronicle(settings)
        self._clock = clock
        self._silent_s = silent_s
        self._jitter = jitter or (lambda: random.uniform(-1, 1))
        self._lock = FileLock(self.paths.control / "weaver.lock")
        self._config_mark = self._read_config_mark()
        self._written = b""
        self._ending = self._forgiving = False
        self.watched = [Watched(service) for service in services]

    def take_over(self) -> bool:
        """Become the one Weaver of this home and adopt what runs; False when another is at work."""
        if not self._lock.acquire():
            return False
        self._listen()
        identity = ProcessIdentity.current().to_dict()
        value = {"identity": identity, "flags": self._flags, "since": time.time()}
        durable_write_json(self.paths.control / "weaver.json", value)
        remembered = self._remembered()
        for watched in self.watched:
            watched.record = remembered.get(watched.service.name, Record())
            watched.since = time.time()
            self._adopt(watched)
        self.write_account()
        return True

    def _listen(self) -> None:
        """Take signals from here on; before anybody can learn our pid."""
        self._wakeup, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.end())
        signal.signal(signal.SIGHUP, lambda *_: self.forgive())

    def tick(self) -> None:
        """Look at every service once and do what is due."""
        mark = self._read_config_mark()
        if mark != self._config_mark:
            self._config_mark = mark
            self._reload()
        if self._forgiving:
            self._forgiving = False
            for watched in self.watched:
                if watched.record.phase != "running":
                    watched.record = Record(restarts=watched.record.restarts)
        for watched in self.watched:
            if watched.identity is not None:
                self._look_at(watched)
            if watched.identity is None and not self._ending:
                self._start_if_due(watched)
            if watched.identity is not None:  # again, in case that there was no room for it at the start
                launch.note_identity(watched.service, self.paths, watched.identity)
            launch.rotate_log(self.paths, watched.service.name)
        self.write_account()
        self._teller.flush()

    def run(self) -> None:
        """Watch until SIGTERM or SIGINT, then stop the services in reverse order."""
        while not self._ending:
            self.tick()
            self._wait()
        self.stop_all()

    def end(self) -> None:
        """Make `run` come to its end."""
        self._ending = True

    def forgive(self) -> None:
        """Forget past deaths: what waits or is broken is tried at the next look (SIGHUP; a person asked)."""
        self._forgiving = True

    def stop_all(self) -> None:
        """Stop every service, last started first; each gets its time to save, then it is killed."""
        self._ending = True
        for watched in reversed(self.watched):
            self._stop(watched)
            self._become(watched, "stopped", "stopped on request")
            self.write_account()

    def write_account(self) -> None:
        """Write `control/services.json` when it differs from what is there; on a full disk the next look tries again.

        The account is what people read, nothing that the Weaver needs: losing it must not end the supervision.
        """
        services = [self._status(watched).to_dict() for watched in self.watched]
        memory = {watched.service.name: watched.record.to_dict() for watched in self.watched}
        value = {"services": services, "boot_id": boot_id(), "memory": memory}
        text = json.dumps(value, sort_keys=True).encode()
        if text != self._written:
            with contextlib.suppress(OSError):
                durable_write_json(services_file(self.paths), value)
                self._written = text

    def _status(self, watched: Watched) -> ServiceStatus:
        pid = watched.identity.pid if watched.identity else None
        name, restarts = watched.service.name, watched.record.restarts
        return ServiceStatus(name, watched.state, pid, watched.since, restarts, watched.detail)

    def _adopt(self, watched: Watched) -> bool:
        identity = launch.find_running(watched.service, self.paths)
        if identity is None:
            return False
        watched.identity = identity
        watched.process = None
        watched.started_at = 0.0
        watched.last_answer = self._clock()
        if watched.record.phase != "running":
            watched.record = self._policy.started(watched.record, self._clock())
        self._become(watched, "starting", "")
        return True

    def _start_if_due(self, watched: Watched) -> None:
        now = self._clock()
        if watched.record.phase == "running":  # it died while no Weaver watched; how is not known
            self._note_death(watched, None)
        if not self._policy.due(watched.record, now, self._config_mark):
            return
        name = watched.service.name
        log = launch.log_file(self.paths, name)
        watched.log_offset = log.stat().st_size if log.exists() else 0
        extra = {f"REALM_{key.upper().replace('.', '__')}": str(value) for key, value in self._flags.items()}
        try:
            process = launch.spawn(watched.service, self.paths, extra)
        except OSError as error:
            watched.record = self._policy.started(watched.record, now)
            self._note_death(watched, None, f"could not be started: {error.strerror}")
            return
        if process is None:
            if not self._adopt(watched):
                self._become(watched, "down", "another process holds its lock")
            return
        watched.record = self._policy.started(watched.record, now)
        watched.process, watched.identity = process, ProcessIdentity.of(process.pid)
        watched.started_at, watched.last_answer = time.time(), now
        self._become(watched, "starting", "")
        self._teller.tell("service_started", name, {"pid": process.pid, "restarts": watched.record.restarts})
        if watched.identity is None:  # it ended before we could look
            self._note_death(watched, process.wait())

    def _look_at(self, watched: Watched) -> None:
        assert watched.identity is not None
        code = watched.process.poll() if watched.process else None
        if code is not None or not watched.identity.is_alive():
            if watched.process is not None and code is None:
                code = watched.process.wait()
            self._note_death(watched, code)
            return
        now = self._clock()
        watched.record = self._policy.lived(watched.record, now)
        if watched.state == "up" and now - watched.last_probe < min(PROBE_S, self._silent_s):
            return
        watched.last_probe = now
        if is_ready(watched.service, self.settings, watched.started_at):
            watched.last_answer = now
            if watched.state != "up":
                self._become(watched, "up", "")
                if watched.started_at:  # an adopted one has been up all the time
                    self._teller.tell("service_up", watched.service.name, {"pid": watched.identity.pid})
        elif now - watched.last_answer > (patience := self._silent_s if watched.state == "up" else START_S):
            launch.kill(watched.identity)
            watched.detail = f"killed: it gave no sign of life for {patience:.0f} s"

    def _note_death(self, watched: Watched, code: int | None, words: str = "") -> None:
        name = watched.service.name
        told = launch.last_lines(self.paths, name, watched.log_offset)
        watched.identity = watched.process = None
        before = watched.record.phase
        jitter = self._jitter()
        watched.record = self._policy.died(watched.record, self._clock(), code, self._config_mark, jitter)
        ended = words or watched.detail or _ending_words(code)
        watched.detail = f"{ended}\n{told}".strip()
        data = {"exit_code": code, "detail": watched.detail, "restarts": watched.record.restarts}
        if watched.record.phase in ("broken", "bad_config"):
            self._become(watched, "broken", watched.detail)
            self._teller.tell("service_broken", name, data | {"reason": watched.record.phase})
        else:
            self._become(watched, "down", watched.detail)
            if before == "running":
                self._teller.tell("service_down", name, data)

    def _become(self, watched: Watched, state: ServiceState, detail: str) -> None:
        if watched.state != state:
            watched.since = time.time()
        watched.state, watched.detail = state, detail

    def _stop(self, watched: Watched) -> None:
        identity = watched.identity
        if identity is None or not identity.is_alive():
            watched.identity = None
            return
        launch.end(identity, signal.SIGTERM)
        deadline = self._clock() + watched.service.stop_s
        while self._alive(watched, identity) and self._clock() < deadline:
            time.sleep(0.05)
        if self._alive(watched, identity):
            launch.kill(identity)
            while self._alive(watched, identity) and self._clock() < deadline + 5:
                time.sleep(0.02)
        watched.identity = watched.process = None

    def _alive(self, watched: Watched, identity: ProcessIdentity) -> bool:
        if watched.process is not None and watched.process.poll() is not None:
            return False
        return identity.is_alive()

    def _wait(self) -> None:
        """Sleep until a service dies, a signal comes, something is due, or it is time for the next look."""
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        opened = []
        for watched in self.watched:
            if watched.identity is not None:
                try:
                    opened.append(os.pidfd_open(watched.identity.pid))
                except OSError:
                    return
        for descriptor in opened:
            poller.register(descriptor, select.POLLIN)
        try:
            poller.poll(self._pause_s() * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 64)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _pause_s(self) -> float:
        pause = self.settings.weaver.check_s
        if any(watched.state == "starting" for watched in self.watched):
            pause = min(pause, 0.1)
        for watched in self.watched:
            if watched.record.phase in ("waiting", "broken"):
                pause = min(pause, max(0.0, watched.record.next_start - self._clock()))
        return max(pause, 0.01)

    def _remembered(self) -> dict[str, Record]:
        try:
            value = read_json(services_file(self.paths))
            if value["boot_id"] != boot_id():
                return {}
            memory = {name: Record.from_dict(data) for name, data in value["memory"].items()}
        except (NotFoundError, CorruptFileError, KeyError, TypeError, AttributeError):
            return {}
        stopped = {entry["name"] for entry in value.get("services", []) if entry.get("state") == "stopped"}
        return {name: record for name, record in memory.items() if name not in stopped}

    def _read_config_mark(self) -> str:
        marks = []
        for path in (self.paths.config_yaml, self.settings.hosts_file):
            try:
                status = path.stat() if path else None
            except OSError:
                status = None
            marks.append(f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}" if status else "-")
        return "|".join(marks)

    def _reload(self) -> None:
        try:
            self.settings = load_settings(self.settings.home, self._flags)
        except ConfigError as error:
            print(f"The changed configuration is not used: {error}", file=sys.stderr, flush=True)
            return
        self._policy = RestartPolicy.from_settings(self.settings.weaver)


class Chronicle:
    """Writes the Weaver's events into the ledger, each by a short-lived process.

    The Weaver itself never opens a database: a damaged ledger or a full disk must not end the supervisor.
    """

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home
        self._queue: deque[str] = deque(maxlen=200)
        self._writer: subprocess.Popen[bytes] | None = None

    def tell(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        """Queue an event and write queued ones as soon as the last writer is done."""
        print(f"{kind} {subject} {json.dumps(data, ensure_ascii=False)}", file=sys.stderr, flush=True)
        self._queue.append(json.dumps({"kind": kind, "subject": subject, "data": data}))
        self.flush()

    def flush(self) -> None:
        if not self._queue or (self._writer is not None and self._writer.poll() is None):
            return
        lines = "\n".join(self._queue).encode()
        self._queue.clear()
        argv = [sys.executable, "-m", "realm.weaver", "--home", str(self._home), "--record"]
        try:
            self._writer = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True, cwd=project_root())
            assert self._writer.stdin is not None
            with self._writer.stdin as stdin:
                stdin.write(lines)
        except OSError as error:
            print(f"The events could not be handed over: {error}", file=sys.stderr, flush=True)


def _ending_words(code: int | None) -> str:
    if code is None:
        return "ended, how is not known"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
