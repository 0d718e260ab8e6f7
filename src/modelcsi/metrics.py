"""What the driver counts: the upstream driver's series under their exact names, and ours beside them.

Nobody is asked between scrapes: events are counted where they happen, gauges are read when Prometheus comes. References are
labels in the detail registry only, since the names of models may be private and their number has no bound.
Every method may be called from any thread.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from modelcsi.errors import ModelCsiError, OperationPending, PullPending

# Upstream: 1, 2, 4 ... 32768 s. Too coarse for a publish of 10 ms, hence a second histogram.
_UPSTREAM_BUCKETS = tuple(float(1 << exponent) for exponent in range(16))
_FINE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# Upstream: 1 MiB, 2 MiB ... 8 TiB.
_SIZE_CLASSES = 24
_PENDING = (PullPending, OperationPending)
_STATES = ("MOUNTED", "PENDING", "PULLING")
"""Of publications; shown when none is in one, too: a series that is absent instead of 0 looks to an alert as it last was."""


class Component(enum.Enum):
    """Which of upstream's two families of operations this process counts in."""

    NODE = "node"
    CONTROLLER = "controller"


class Gauge(enum.Enum):
    """A number that is read at each scrape."""

    NOT_READY = "model_csi_node_not_ready"
    CONFIG_REJECTED = "model_csi_config_rejected"
    CACHE_BYTES = "model_csi_node_cache_size_in_bytes"
    CACHE_ARTIFACTS = "model_csi_cache_artifacts"
    PULLS_IN_FLIGHT = "model_csi_pulls_in_flight"
    LAZY_VIEWS = "model_csi_lazy_views"
    LAZY_VIEWS_FILLING = "model_csi_lazy_views_filling"
    LAZY_VIEWS_TROUBLED = "model_csi_lazy_views_troubled"
    FUSE_SERVERS = "model_csi_fuse_servers"


class MountType(enum.Enum):
    """How upstream tells publications apart."""

    PVC = "pvc"
    INLINE = "inline"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class MountItem:
    """One publication, as far as it is counted; `state` is empty or a word of a small set, `MOUNTED` for those that are."""

    reference: str
    type: MountType
    volume_name: str
    state: str
    mount_id: str = ""


_GAUGE_TEXTS = {
    Gauge.NOT_READY: "1 until the driver has repaired what a crash left, 0 from then on",
    Gauge.CONFIG_REJECTED: "1 while the configuration file cannot be used and an older state of it is in force",
    Gauge.CACHE_BYTES: "Bytes of content on the node",
    Gauge.CACHE_ARTIFACTS: "Artifacts whose content is on the node",
    Gauge.PULLS_IN_FLIGHT: "Artifacts being pulled",
    Gauge.LAZY_VIEWS: "Views that were mounted before they were complete",
    Gauge.LAZY_VIEWS_FILLING: "Those that are not complete yet",
    Gauge.LAZY_VIEWS_TROUBLED: "Those of which something cannot be read, or was wrong and is fetched again",
    Gauge.FUSE_SERVERS: "FUSE servers that serve views and reach this driver",
}


class Metrics:
    """The process' series; made once, in `cli`."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
    """Of the expositions."""

    def __init__(self, component: Component = Component.NODE) -> None:
        # The text format shows the creation times of all series as series of their own; this library has only a global switch.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs has no annotations
        self.registry = CollectorRegistry()
        self.detail_registry = CollectorRegistry()
        # _lock guards _operations; what is counted has its own locks.
        self._lock = threading.Lock()
        self._operations: dict[str, _OperationSeries] = {}
        self._gauges: dict[Gauge, Callable[[], float]] = {}
        self._mount_items: Callable[[], Iterable[MountItem]] = tuple
        self._upstream = _Upstream(component, self.registry)
        self._durations = Histogram(
            "model_csi_operation_duration_seconds",
            "Time to answer a call: done, pending (a pull or another call goes on), or failed",
            ("op", "outcome"),
            buckets=_FINE_BUCKETS,
            registry=self.registry,
        )
        self._errors = self._counter("errors", "Calls that failed, by kind of error", "op", "kind")
        self._pulls = Histogram(
            "model_csi_pull_duration_seconds",
            "Time from the first byte asked for to an artifact that is complete, or to giving up",
            ("outcome",),
            buckets=_UPSTREAM_BUCKETS,
            registry=self.registry,
        )
        self._downloaded = self._counter("downloaded_bytes", "Bytes of blobs received from registries")
        self._mirrored = self._counter("mirrored_bytes", "Bytes of blobs received from mirrors, of the downloaded ones")
        self._reused = self._counter("reused_bytes", "Bytes of blobs that were wanted and already on the node")
        self._evictions = self._counter("cache_evictions", "Artifacts removed to make room")
        self._evicted = self._counter("cache_evicted_bytes", "Bytes removed to make room")
        self._waits = Histogram(
            "model_csi_lazy_wait_seconds",
            "Time that FUSE servers waited for bytes, or for a file to be complete",
            ("outcome",),
            buckets=_FINE_BUCKETS,
            registry=self.registry,
        )
        self._damages = self._counter(
            "lazy_damages", "Blobs of which wrong bytes could be read before they were verified"
        )
        self._requests = self._counter("registry_requests", "Requests to registries, by class of answer", "status")
        self.registry.register(_Callback(self._read_gauges))
        self.registry.register(_Callback(self._read_publications))
        self.detail_registry.register(_Callback(self._read_mount_items))
        ProcessCollector(registry=self.registry)

    def operation(self, op: str) -> Operation:
        """A context that counts and times one call of upstream's name `op` (`publish_volume`); exceptions pass through it.

        An exception fails the call, but for PullPending and OperationPending: such a call neither failed nor succeeded.
        """
        series = self._operations.get(op)
        if series is None:
            series = self._new_operation(op)
        return Operation(series)

    def pull_ended(self, *, seconds: float, size_bytes: int, error: BaseException | None = None) -> None:
        """Count a pull of an artifact of that size, complete or given up."""
        self._upstream.pulled("pull_image", seconds, size_bytes, succeeded=error is None)
        self._pulls.labels("failed" if error else "done").observe(seconds)
        if error:
            self._errors.labels("pull_image", _kind(type(error))).inc()

    def layer_ended(self, *, seconds: float, size_bytes: int, error: BaseException | None = None) -> None:
        """Count one layer of a pull."""
        self._upstream.pulled("pull_layer", seconds, size_bytes, succeeded=error is None)

    def downloaded(self, size_bytes: int, *, mirrored_bytes: int = 0) -> None:
        """Count bytes of a blob as they arrive, whether or not they will verify; so many of them came from mirrors."""
        self._downloaded.inc(size_bytes)
        self._mirrored.inc(mirrored_bytes)

    def reused(self, size_bytes: int) -> None:
        """Count bytes that a pull found on the node."""
        self._reused.inc(size_bytes)

    def evicted(self, *, artifacts: int, size_bytes: int) -> None:
        """Count what the collector removed."""
        self._evictions.inc(artifacts)
        self._evicted.inc(size_bytes)

    def lazy_waited(self, seconds: float, error: BaseException | None = None) -> None:
        """Count bytes of a lazy view that somebody waited for: they are here, or cannot be had."""
        self._waits.labels("failed" if error else "done").observe(seconds)

    def lazy_damaged(self) -> None:
        """Count a blob that was read before it was verified, and did not match."""
        self._damages.inc()

    def registry_request(self, status: int | None) -> None:
        """Count a request by the HTTP status of its answer; None if there was none."""
        self._requests.labels(f"{status // 100}xx" if status else "none").inc()

    def watch_gauge(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Have `read` called at each scrape, in the scraping thread; without it the gauge is not shown."""
        self._gauges[gauge] = read

    def watch_mounts(self, read: Callable[[], Iterable[MountItem]]) -> None:
        """Have `read` called at each scrape for the publications; their counts and the detail registry are made of them."""
        self._mount_items = read

    def exposition(self) -> bytes:
        """What `/metrics` answers."""
        text = generate_latest(self.registry)
        for name in self._upstream.counter_names:
            # generate_latest names every counter `_total` in its header, whatever its samples are called.
            text = text.replace(f" {name}_total ".encode(), f" {name} ".encode())
        return text

    def detail_exposition(self) -> bytes:
        """What `/metrics/detail` answers."""
        return generate_latest(self.detail_registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"model_csi_{name}", text, labels, registry=self.registry)

    def _new_operation(self, op: str) -> _OperationSeries:
        with self._lock:
            return self._operations.setdefault(op, _OperationSeries(op, self._upstream, self._durations, self._errors))

    def _read_gauges(self) -> Iterator[Metric]:
        for gauge, read in tuple(self._gauges.items()):
            yield GaugeMetricFamily(gauge.value, _GAUGE_TEXTS[gauge], value=read())

    def _read_publications(self) -> Iterator[Metric]:
        items = tuple(self._mount_items())
        states = GaugeMetricFamily("model_csi_publications", "Volumes at their targets, by state", labels=("state",))
        counts = Tally(dict.fromkeys(_STATES, 0))
        counts.update(item.state for item in items)
        for state, count in sorted(counts.items()):
            states.add_metric((state,), count)
        yield states
        for mount_type in MountType:
            count = sum(item.type is mount_type and item.state == "MOUNTED" for item in items)
            name = f"model_csi_node_mounted_{mount_type.value}_models"
            yield GaugeMetricFamily(name, f"Mounted volumes of type {mount_type.value}", value=count)

    def _read_mount_items(self) -> Iterator[Metric]:
        labels = ("reference", "type", "volume_name", "mount_id")
        family = GaugeMetricFamily("model_csi_mount_item", "1 for each volume that is mounted", labels=labels)
        # One PersistentVolume in two pods is one series; a series twice makes Prometheus drop the whole scrape.
        mounted = (item for item in self._mount_items() if item.state == "MOUNTED")
        for values in sorted({(item.reference, item.type.value, item.volume_name, item.mount_id) for item in mounted}):
            family.add_metric(values, 1)
        yield family


class Operation:
    """One call being timed; see `Metrics.operation`."""

    __slots__ = ("_series", "_started")

    def __init__(self, series: _OperationSeries) -> None:
        self._series = series

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._started
        # 1. done  2. pending  3. failed
        if kind is None:
            self._series.done(seconds)
        elif issubclass(kind, _PENDING):
            self._series.pending.observe(seconds)
        else:
            self._series.failed(seconds, kind)


class _OperationSeries:
    """The series of one operation, looked up once: `labels()` at each call would cost more than the counting."""

    def __init__(self, op: str, upstream: _Upstream, durations: Histogram, errors: Counter) -> None:
        self._op, self._upstream, self._errors = op, upstream, errors
        self._latency = upstream.latency.labels(op)
        self._done, self.pending, self._failed = (durations.labels(op, name) for name in ("done", "pending", "failed"))

    def done(self, seconds: float) -> None:
        self._upstream.succeeded.add((self._op,))
        self._latency.observe(seconds)
        self._done.observe(seconds)

    def failed(self, seconds: float, kind: type[BaseException]) -> None:
        self._upstream.failed.add((self._op,))
        self._failed.observe(seconds)
        self._errors.labels(self._op, _kind(kind)).inc()


class _Upstream:
    """The series of model-csi-driver, `pkg/metrics/registry.go`: same names, labels, buckets; latencies of successes only."""

    def __init__(self, component: Component, registry: CollectorRegistry) -> None:
        prefix = f"model_csi_{component.value}"
        self.failed = _PlainCounter(f"{prefix}_op_failed", "Calls and pulls that failed", ("op",))
        self.succeeded = _PlainCounter(f"{prefix}_op_succeed", "Calls and pulls that succeeded", ("op",))
        # Upstream declares it and never counts.
        too_long = _PlainCounter("model_csi_node_pull_layer_too_long", "Always 0: a pull has no time limit", ())
        too_long.add((), 0)
        counters = (self.failed, self.succeeded, *([too_long] if component is Component.NODE else []))
        for counter in counters:
            registry.register(counter)
        self.counter_names = tuple(counter.name for counter in counters)
        self.latency = Histogram(
            f"{prefix}_op_latency_in_seconds",
            "Time of calls that succeeded",
            ("op",),
            buckets=_UPSTREAM_BUCKETS,
            registry=registry,
        )
        self._pull_latency = Histogram(
            f"{prefix}_pull_op_latency_in_seconds",
            "Time of pulls that succeeded, by upper bound of their size",
            ("op", "size_in_mb"),
            buckets=_UPSTREAM_BUCKETS,
            registry=registry if component is Component.NODE else None,
        )

    def pulled(self, op: str, seconds: float, size_bytes: int, *, succeeded: bool) -> None:
        if succeeded:
            self.succeeded.add((op,))
            self._pull_latency.labels(op, _size_class(size_bytes)).observe(seconds)
        else:
            self.failed.add((op,))


class _PlainCounter(Collector):
    """A counter whose name does not end in `_total`, which prometheus_client's own always does."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name = name
        self._text, self._labels = text, labels
        # _lock guards _values.
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, labels: tuple[str, ...], amount: float = 1) -> None:
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            values: Mapping[tuple[str, ...], float] = dict(self._values)
        family = Metric(self.name, self._text, "counter")
        for labels, value in sorted(values.items()):
            family.add_sample(self.name, dict(zip(self._labels, labels, strict=True)), value)
        yield family


class _Callback(Collector):
    """Series that are made when they are asked for."""

    def __init__(self, read: Callable[[], Iterator[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        return self._read()


def _kind(kind: type[BaseException]) -> str:
    """The label of an error: its class if it is one of ours, `Internal` for a bug, as the answer says."""
    return kind.__name__ if issubclass(kind, ModelCsiError) else "Internal"


def _size_class(size_bytes: int) -> str:
    """Upstream's label: the least power of two, in MiB, that is not below the size, as Go's humanize.IBytes writes it."""
    exponent = max(0, (size_bytes - 1).bit_length() - 20)
    if exponent >= _SIZE_CLASSES:
        return "+Inf"
    steps, rest = divmod(exponent, 10)
    number = 1 << rest
    return f"{number}{'.0' if number < 10 else ''} {('MiB', 'GiB', 'TiB')[steps]}"
