"""The alert rules: what they ask for exists, and they fire when they should, and only then."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from modelcsi import errors
from modelcsi.metrics import Gauge, Metrics
from tests.cluster.chart import NEEDS_HELM, Object, render

pytestmark = NEEDS_HELM

_FOREIGN_METRICS = {"up"}
_WORDS = {"and", "or", "unless", "by", "sum", "increase", "offset", "namespace"}
"""Operators and functions of PromQL, and the labels of its groupings."""
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def _expressions() -> dict[str, str]:
    rule = render({"monitoring": {"prometheusRule": {"enabled": True}}}).one("PrometheusRule")
    return {alert["alert"]: alert["expr"] for group in rule["spec"]["groups"] for alert in group["rules"]}


def _exposed() -> Iterator[str]:
    """Names of the series of a driver that has begun to count."""
    metrics = Metrics()
    for gauge in Gauge:
        metrics.watch_gauge(gauge, lambda: 0.0)
    for line in metrics.exposition().decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            yield from (f"{name}{suffix}" for suffix in _SUFFIXES[kind])


def test_every_metric_of_an_alert_exists() -> None:
    """A name that nobody exposes makes an alert that never fires."""
    exposed = {*_exposed(), *_FOREIGN_METRICS}
    asked = {}
    for alert, expression in _expressions().items():
        bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|offset \w+", "", expression)
        asked[alert] = set(_NAME.findall(bare)) - _WORDS

    assert all(asked.values())
    assert {} == {alert: sorted(names - exposed) for alert, names in asked.items() if names - exposed}


def test_every_kind_of_error_in_an_alert_exists() -> None:
    """`kind` is the name of a class of errors.py, or `Internal`."""
    kinds = {kind for text in _expressions().values() for kind in re.findall(r'kind="(\w+)"', text)}

    assert {"Internal", "StoreFull", "CorruptContent"} == kinds
    assert all(hasattr(errors, kind) for kind in kinds - {"Internal"})


@pytest.mark.parametrize("name", ["podMonitor", "serviceMonitor"])
def test_monitor_finds_the_metrics_port(name: str) -> None:
    """The port is named as the pods name it; names of models are scraped only when asked for."""
    kind = name[0].upper() + name[1:]
    plain, detailed = (
        render({"monitoring": {name: {"enabled": True, "detail": detail}}}).one(kind)["spec"]
        for detail in (False, True)
    )
    endpoints = "podMetricsEndpoints" if name == "podMonitor" else "endpoints"

    assert [("metrics", "/metrics")] == [(item["port"], item["path"]) for item in plain[endpoints]]
    assert ["/metrics", "/metrics/detail"] == [item["path"] for item in detailed[endpoints]]


def test_service_monitor_finds_what_the_pod_monitor_finds() -> None:
    """Nodes and controller, each behind a Service of its own."""
    enabled = {"enabled": True}
    manifests = render({"controller": enabled, "monitoring": {"podMonitor": enabled, "serviceMonitor": enabled}})
    selector = manifests.one("ServiceMonitor")["spec"]["selector"]
    workloads = [manifests.daemonset(), manifests.one("Deployment")]
    pods = [workload["spec"]["template"]["metadata"]["labels"] for workload in workloads]
    services = manifests.of("Service")
    found = [service for service in services if _is_selected(selector, service["metadata"]["labels"])]
    behind = [[service["spec"]["selector"].items() <= labels.items() for labels in pods] for service in found]

    assert manifests.one("PodMonitor")["spec"]["selector"] == selector
    assert [[True, False], [False, True]] == sorted(behind, reverse=True)


def _is_selected(selector: Object, labels: Object) -> bool:
    (expression,) = selector["matchExpressions"]
    is_among = expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
    return is_among and selector["matchLabels"].items() <= labels.items()
