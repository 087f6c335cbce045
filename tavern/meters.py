"""Prometheus meters of the Tavern and of the realm behind it, in a registry of their own.

Request meters carry the rule's path (`/api/v1/jobs/{job_id}`), never the address itself, so their number is bounded.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
BATTLE_STATES = ("idle", "preparing", "loading", "training", "evaluating", "saving", "paused")
JOB_STATES = ("queued", "processing", "completed", "failed", "refused", "skipped", "cancelled")


class Meters:
    """All meters of one process."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Histogram(
            "realm_http_request_seconds",
            "Time to answer a request.",
            ("method", "path", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._denied = Counter("realm_http_denied_total", "Requests turned down.", ("status",), registry=self.registry)
        self._streams = self._gauge("realm_stream_clients", "Open event streams.")
        self._step = self._gauge("realm_hero_step", "Optimizer steps of the hero.", "hero")
        self._loss = self._gauge("realm_train_loss", "Running mean of the training loss.", "hero")
        self._val_loss = self._gauge("realm_validation_loss", "Newest validation loss.", "hero")
        self._accuracy = self._gauge("realm_accuracy", "Held-out accuracy of the newest evaluations.", "hero")
        self._pace = self._gauge("realm_steps_per_second", "Optimizer steps per second of the present run.")
        self._jobs = self._gauge("realm_jobs", "Jobs by state.", "state")
        self._battle = self._gauge("realm_run_state", "1 for the present run's state.", "state")
        self._held = self._gauge("realm_queue_held", "1 while the queue is held.")
        self._service = self._gauge("realm_service_up", "1 for a service that is up.", "service")
        self._disk = self._gauge("realm_disk_free_bytes", "Free space of the home.")

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """Enter an answered request."""
        self._requests.labels(method, path, str(status)).observe(seconds)
        if status in (401, 403):
            self._denied.labels(str(status)).inc()

    def expose(self, status: dict[str, Any], jobs: dict[str, int], clients: int) -> bytes:
        """Return everything in the text format, with the realm's gauges set from its status."""
        self._streams.set(clients)
        for state in JOB_STATES:
            self._jobs.labels(state).set(jobs.get(state, 0))
        hero, battle = status.get("hero"), status.get("battle")
        if hero:
            name = str(hero["id"])
            self._step.labels(name).set(hero.get("xp") or 0)
            for gauge, key in ((self._loss, "train_loss"), (self._val_loss, "val_loss"), (self._accuracy, "acc")):
                if hero.get(key) is not None:
                    gauge.labels(name).set(hero[key])
        present = battle["state"] if battle else "idle"
        for state in BATTLE_STATES:
            self._battle.labels(state).set(1 if state == present else 0)
        self._pace.set((battle or {}).get("steps_per_s") or 0)
        self._held.set(1 if (status.get("queue") or {}).get("held") else 0)
        for service in status.get("services") or []:
            self._service.labels(str(service["name"])).set(1 if service.get("state") == "up" else 0)
        disk = ((status.get("machine") or {}).get("disk") or {}).get("free")
        if disk is not None:
            self._disk.set(disk)
        return generate_latest(self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(name, about, labels, registry=self.registry)
