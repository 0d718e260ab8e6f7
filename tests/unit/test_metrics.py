from __future__ import annotations

import re
import threading

import pytest

from modelcsi.errors import NotFound, PullPending
from modelcsi.metrics import Component, Gauge, Metrics, MountItem, MountType


def _samples(text: bytes) -> dict[str, float]:
    """Every sample of an exposition, as `name[label=value][label=value]`."""
    samples = {}
    # Not prometheus_client's parser: it adds `_total` to the names of counters that lack it.
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.rstrip("}").partition("{")
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)
            samples[name + "".join(f"[{label}={content}]" for label, content in pairs)] = float(value)
    return samples


def _fail(metrics: Metrics, error: Exception) -> None:
    with pytest.raises(type(error)), metrics.operation("publish_volume"):
        raise error


def test_a_call_that_succeeds_is_counted_and_timed() -> None:
    """Upstream's counter and latency, and our finer latency, of that operation."""
    metrics = Metrics()
    for _ in range(2):
        with metrics.operation("publish_volume"):
            pass
    samples = _samples(metrics.exposition())

    assert 2 == samples["model_csi_node_op_succeed[op=publish_volume]"]
    assert 2 == samples["model_csi_node_op_latency_in_seconds_count[op=publish_volume]"]
    assert 2 == samples["model_csi_operation_duration_seconds_count[op=publish_volume][outcome=done]"]
    assert "model_csi_node_op_failed[op=publish_volume]" not in samples


def test_a_call_that_fails_is_counted_by_kind() -> None:
    """An exception passes through; upstream times only what succeeded; what is no error of ours is a bug."""
    metrics = Metrics()
    _fail(metrics, NotFound("no such tag"))
    _fail(metrics, KeyError("bug"))
    samples = _samples(metrics.exposition())

    assert 2 == samples["model_csi_node_op_failed[op=publish_volume]"]
    assert 0 == samples["model_csi_node_op_latency_in_seconds_count[op=publish_volume]"]
    assert 1 == samples["model_csi_errors_total[kind=NotFound][op=publish_volume]"]
    assert 1 == samples["model_csi_errors_total[kind=Internal][op=publish_volume]"]


def test_a_call_that_waits_for_a_pull_has_not_failed() -> None:
    """Ten minutes of pulling are no alert: PullPending counts neither as failed nor as succeeded."""
    metrics = Metrics()
    _fail(metrics, PullPending("34%"))
    samples = _samples(metrics.exposition())

    assert 1 == samples["model_csi_operation_duration_seconds_count[op=publish_volume][outcome=pending]"]
    assert [] == [name for name in samples if "failed" in name.partition("[")[0] or "succeed" in name]


def test_upstream_counters_have_no_total_suffix_and_are_counters() -> None:
    """Existing dashboards find the names they know, with the right type in the header."""
    metrics = Metrics()
    with metrics.operation("publish_volume"):
        pass
    lines = metrics.exposition().decode().splitlines()

    assert "# TYPE model_csi_node_op_succeed counter" in lines
    assert 'model_csi_node_op_succeed{op="publish_volume"} 1.0' in lines
    assert "model_csi_node_pull_layer_too_long 0.0" in lines
    assert "# TYPE model_csi_downloaded_bytes_total counter" in lines


def test_upstream_buckets() -> None:
    """1, 2, 4 ... 32768 seconds."""
    metrics = Metrics()
    with metrics.operation("publish_volume"):
        pass
    prefix = "model_csi_node_op_latency_in_seconds_bucket[le="
    bounds = [
        name.removeprefix(prefix).split("]")[0] for name in _samples(metrics.exposition()) if name.startswith(prefix)
    ]

    assert [*(f"{float(1 << exponent)}" for exponent in range(16)), "+Inf"] == bounds


def test_a_controller_counts_under_its_own_names() -> None:
    """In controller mode the operations are upstream's controller ones, and nothing of a node is shown."""
    metrics = Metrics(Component.CONTROLLER)
    with metrics.operation("create_volume"):
        pass
    samples = _samples(metrics.exposition())

    assert 1 == samples["model_csi_controller_op_succeed[op=create_volume]"]
    assert [] == [name for name in samples if name.startswith(("model_csi_node_op", "model_csi_node_pull"))]


@pytest.mark.parametrize(
    ("size_bytes", "label"),
    [
        (0, "1.0 MiB"),
        (1 << 20, "1.0 MiB"),
        ((1 << 20) + 1, "2.0 MiB"),
        (8 << 20, "8.0 MiB"),
        (9 << 20, "16 MiB"),
        (1 << 30, "1.0 GiB"),
        (700 * 10**9, "1.0 TiB"),
        (8 << 40, "8.0 TiB"),
        ((8 << 40) + 1, "+Inf"),
    ],
)
def test_pulls_by_size(size_bytes: int, label: str) -> None:
    """A pull is timed under the upper bound of its size, in upstream's words."""
    metrics = Metrics()
    metrics.pull_ended(seconds=3, size_bytes=size_bytes)

    name = f"model_csi_node_pull_op_latency_in_seconds_bucket[le=4.0][op=pull_image][size_in_mb={label}]"
    assert 1 == _samples(metrics.exposition())[name]


def test_pulls_and_layers_that_fail() -> None:
    """Upstream's failures of both, and the kind of the pull's error."""
    metrics = Metrics()
    metrics.layer_ended(seconds=1, size_bytes=1, error=OSError())
    metrics.pull_ended(seconds=1, size_bytes=1, error=NotFound(""))
    samples = _samples(metrics.exposition())

    assert 1 == samples["model_csi_node_op_failed[op=pull_layer]"]
    assert 1 == samples["model_csi_node_op_failed[op=pull_image]"]
    assert 1 == samples["model_csi_pull_duration_seconds_count[outcome=failed]"]
    assert 1 == samples["model_csi_errors_total[kind=NotFound][op=pull_image]"]


def test_bytes_evictions_and_requests() -> None:
    """The plain counters."""
    metrics = Metrics()
    metrics.downloaded(7)
    metrics.reused(8)
    metrics.evicted(artifacts=2, size_bytes=9)
    for status in (200, 206, 404, None):
        metrics.registry_request(status)
    samples = _samples(metrics.exposition())

    assert (7, 8) == (samples["model_csi_downloaded_bytes_total"], samples["model_csi_reused_bytes_total"])
    assert (2, 9) == (samples["model_csi_cache_evictions_total"], samples["model_csi_cache_evicted_bytes_total"])
    assert {"2xx": 2, "4xx": 1, "none": 1} == {
        name.partition("status=")[2].rstrip("]"): value
        for name, value in samples.items()
        if name.startswith("model_csi_registry_requests_total")
    }


def test_gauges_are_read_at_each_scrape() -> None:
    """A watched gauge shows what its callable says now; one that nobody watches is not shown."""
    metrics, values = Metrics(), [1.0, 0.0]
    metrics.watch_gauge(Gauge.NOT_READY, lambda: values.pop(0))

    scrapes = [_samples(metrics.exposition()) for _ in range(2)]

    assert [1, 0] == [scrape["model_csi_node_not_ready"] for scrape in scrapes]
    assert "model_csi_pulls_in_flight" not in scrapes[0]


def test_publications_are_counted_and_named_only_in_the_detail() -> None:
    """States and types are counted; references are in the detail registry only; a volume in two pods is one series there."""
    metrics = Metrics()
    item = MountItem("registry/private:v1", MountType.PVC, "pvc-1", "MOUNTED")
    inline = MountItem('odd"\n:v1', MountType.INLINE, "csi-1", "PENDING")
    metrics.watch_mounts(lambda: (item, item, inline))
    samples = _samples(metrics.exposition())

    assert (2, 1) == (
        samples["model_csi_publications[state=MOUNTED]"],
        samples["model_csi_publications[state=PENDING]"],
    )
    assert (2, 0) == (samples["model_csi_node_mounted_pvc_models"], samples["model_csi_node_mounted_inline_models"])
    assert b"private" not in metrics.exposition()
    assert {
        "model_csi_mount_item[mount_id=][reference=registry/private:v1][type=pvc][volume_name=pvc-1]": 1
    } == _samples(metrics.detail_exposition())


def test_state_in_which_no_publication_is_counts_zero() -> None:
    """A series that went away would keep an alert on it firing for as long as the alert looks back."""
    metrics = Metrics()
    items = [MountItem("registry/model:v1", MountType.INLINE, "csi-1", "PENDING")]
    metrics.watch_mounts(lambda: tuple(items))
    before = _samples(metrics.exposition())["model_csi_publications[state=PENDING]"]
    items.clear()
    after = _samples(metrics.exposition())

    assert 1 == before
    assert [0, 0, 0] == [after[f"model_csi_publications[state={state}]"] for state in ("MOUNTED", "PENDING", "PULLING")]


def test_no_count_is_lost_between_threads() -> None:
    """Eight threads that count the same operation, two of them creating it."""
    metrics = Metrics()

    def count() -> None:
        for _ in range(500):
            with metrics.operation("publish_volume"):
                pass

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 4000 == _samples(metrics.exposition())["model_csi_node_op_succeed[op=publish_volume]"]
