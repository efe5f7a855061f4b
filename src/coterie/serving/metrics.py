"""What Prometheus reads at ``/metrics``; each server has a registry of its own."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._versions: dict[str, str] = {}
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._requests = Counter(
            "coterie_requests",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._requested: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._seconds = Histogram(
            "coterie_request_seconds",
            "Time from the request's head to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "coterie_batch_size",
            "Requests answered at once.",
            ("lane",),
            buckets=SIZES,
            registry=self._registry,
        )
        self._work = Histogram(
            "coterie_batch_seconds",
            "Time for a batch.",
            ("lane",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._waiting = Gauge(
            "coterie_waiting", "Requests that wait.", ("lane",), registry=self._registry
        )
        self._lists = Counter(
            "coterie_recommendations",
            "Lists by model, and whether they fell back on popularity.",
            ("model", "fallback"),
            registry=self._registry,
        )
        self._events = Counter(
            "coterie_events",
            "Acknowledged events by kind, and whether they were new.",
            ("kind", "new"),
            registry=self._registry,
        )
        self._reloads = Counter(
            "coterie_reloads",
            "New versions of models, and whether they are served.",
            ("model", "served"),
            registry=self._registry,
        )
        self._models = Gauge(
            "coterie_model",
            "1 for the version that is served.",
            ("model", "version"),
            registry=self._registry,
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        found = self._requested.get((route, method, status))  # by label takes longer than to count
        if found is None:
            found = self._requests.labels(route, method, str(status)), self._seconds.labels(route)
            self._requested[route, method, status] = found
        count, times = found
        count.inc()
        times.observe(seconds)

    def batch(self, lane: str, size: int, seconds: float) -> None:
        """A lane answered a batch."""
        self._batches.labels(lane).observe(size)
        self._work.labels(lane).observe(seconds)

    def watch_queue(self, lane: str, waiting: Callable[[], int]) -> None:
        """Read a queue's length whenever metrics are asked for."""
        self._waiting.labels(lane).set_function(waiting)

    def list_given(self, model: str, *, fallback: bool) -> None:
        """A list was recommended."""
        self._lists.labels(model, "yes" if fallback else "no").inc()

    def event(self, kind: str, *, new: bool) -> None:
        """An event was acknowledged."""
        self._events.labels(kind, "yes" if new else "no").inc()

    def model(self, name: str, version: str) -> None:
        """A model's version is served now, and no other of it."""
        if name in self._versions:
            self._models.remove(name, self._versions[name])
        self._versions[name] = version
        self._models.labels(name, version).set(1)

    def reload(self, name: str, *, served: bool) -> None:
        """A new version was loaded, or could not be."""
        self._reloads.labels(name, "yes" if served else "no").inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
