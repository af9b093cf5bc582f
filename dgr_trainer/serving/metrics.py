"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """Counters of a server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "dgr_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "dgr_request_seconds", "Time to answer a request.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.queries = Counter("dgr_queries", "Queries answered.", ["system"], registry=self.registry)
        self.refused = Counter(
            "dgr_refused_queries", "Queries refused because too many waited.", ["system"], registry=self.registry
        )
        self.waiting = Gauge("dgr_waiting_queries", "Queries that wait.", ["system"], registry=self.registry)
        self.batch_sizes = Histogram(
            "dgr_batch_queries", "Queries searched together.", ["system"], buckets=_SIZES, registry=self.registry
        )
        self.search_seconds = Histogram(
            "dgr_search_seconds", "Time to search for a batch.", ["system"], buckets=_SECONDS, registry=self.registry
        )
        self.ready = Gauge("dgr_ready", "Whether the system answers.", ["system"], registry=self.registry)

    def text(self) -> bytes:
        """All values in Prometheus' text format."""
        return generate_latest(self.registry)
