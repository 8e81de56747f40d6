"""The front's own metrics, for Prometheus."""

from __future__ import annotations

from typing import Any

from cliprt._extras import require

# From a cached caption to a full request on a busy CPU, in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class FrontMetrics:
    """Counters of one front, in a registry of its own."""

    def __init__(self) -> None:
        """Registers them.

        Raises:
            MissingExtra: prometheus-client is not installed.
        """
        client = require("prometheus_client", extra="http")
        self._client = client
        self._registry: Any = client.CollectorRegistry()
        self._requests: Any = client.Counter(
            "cliprt_http_requests",
            "Requests that were answered; status 499 where the caller left before",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds: Any = client.Histogram(
            "cliprt_http_request_seconds",
            "From the first byte of a request to the last of its answer",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._items: Any = client.Counter(
            "cliprt_http_items",
            "Embeddings that were sent, by kind of their input",
            ("kind",),
            registry=self._registry,
        )
        self._tokens: Any = client.Counter(
            "cliprt_http_tokens", "Tokens of the texts among them", registry=self._registry
        )
        self._in_flight: Any = client.Gauge(
            "cliprt_http_in_flight", "Requests that are under way", registry=self._registry
        )

    @property
    def content_type(self) -> str:
        """Type of what ``text`` returns."""
        return str(self._client.CONTENT_TYPE_LATEST)

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return bytes(self._client.generate_latest(self._registry))

    def begun(self) -> None:
        """A request arrived."""
        self._in_flight.inc()

    def ended(self, route: str, status: int, seconds: float) -> None:
        """A request was answered, or its caller left."""
        self._in_flight.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def embedded(self, *, texts: int, pictures: int, tokens: int) -> None:
        """Embeddings were computed."""
        self._items.labels("text").inc(texts)
        self._items.labels("image").inc(pictures)
        self._tokens.inc(tokens)
