"""When each alert fires, and when not: Prometheus' own promtool runs the rules over series of numbers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.chart import NEEDS_HELM, render

pytestmark = [
    NEEDS_HELM,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus"),
]

_POD = 'namespace="model-csi",container="model-csi-driver",pod="a"'
_UP = f"up{{{_POD}}}"
_NOT_READY = f"model_csi_node_not_ready{{{_POD}}}"
_REJECTED = f"model_csi_config_rejected{{{_POD}}}"
_PENDING = f'model_csi_publications{{{_POD},state="PENDING"}}'
_EVICTIONS = f"model_csi_cache_evictions_total{{{_POD}}}"
_EVICTED = f"model_csi_cache_evicted_bytes_total{{{_POD}}}"
_DOWNLOADED = f"model_csi_downloaded_bytes_total{{{_POD}}}"


def _errors(kind: str) -> str:
    return f'model_csi_errors_total{{{_POD},op="publish_volume",kind="{kind}"}}'


def _pulls(outcome: str) -> str:
    return f'model_csi_pull_duration_seconds_count{{{_POD},outcome="{outcome}"}}'


def _requests(status: str) -> str:
    return f'model_csi_registry_requests_total{{{_POD},status="{status}"}}'


# Series in promtool's notation, a sample each minute: `1x9` ten times 1, `_` none, `0+2x9` growing by 2.
_CASES: list[tuple[str, dict[str, str], dict[int, bool]]] = [
    ("ModelCsiDriverDown", {_UP: "1x5 0x30"}, {10: False, 20: True}),
    ("ModelCsiDriverDown", {_UP: "1x5 0x5 1x30"}, {14: False, 25: False}),
    ("ModelCsiDriverNotReady", {_NOT_READY: "1x30"}, {5: False, 15: True}),
    ("ModelCsiDriverNotReady", {_NOT_READY: "1x3 0x30"}, {15: False}),
    ("ModelCsiConfigRejected", {_REJECTED: "0x5 1x30"}, {5: False, 15: True}),
    ("ModelCsiConfigRejected", {_REJECTED: "0x5 1x2 0x30"}, {15: False}),
    ("ModelCsiInternalError", {_errors("Internal"): "_x5 1x40"}, {4: False, 7: True, 30: False}),
    ("ModelCsiInternalError", {_errors("Internal"): "3x20 4x40"}, {20: False, 23: True, 50: False}),
    ("ModelCsiInternalError", {_errors("StoreFull"): "_x5 1x40"}, {7: False}),
    ("ModelCsiCorruptContent", {_errors("CorruptContent"): "_x5 1x40"}, {4: False, 7: True, 30: False}),
    ("ModelCsiCorruptContent", {_errors("CorruptContent"): "3x20 4x40"}, {20: False, 23: True, 50: False}),
    ("ModelCsiStoreFull", {_errors("StoreFull"): "_x5 1x40"}, {7: False, 14: True, 40: False}),
    ("ModelCsiPullsFail", {_pulls("failed"): "0+3x90", _pulls("done"): "0+1x90"}, {20: False, 70: True}),
    ("ModelCsiPullsFail", {_pulls("failed"): "0+1x90", _pulls("done"): "0+3x90"}, {70: False}),
    ("ModelCsiPullsFail", {_pulls("done"): "0+3x90"}, {70: False}),
    ("ModelCsiRegistryErrors", {_requests("none"): "0+9x60", _requests("2xx"): "0+1x60"}, {10: False, 40: True}),
    ("ModelCsiRegistryErrors", {_requests("5xx"): "0+1x60", _requests("4xx"): "0+9x60"}, {40: False}),
    ("ModelCsiVolumesWait", {_PENDING: "0x5 2x100"}, {50: False, 70: True}),
    ("ModelCsiVolumesWait", {_PENDING: "0x5 1x1 0x100"}, {7: False, 30: False, 64: False}),
    ("ModelCsiVolumesWait", {_PENDING: "_x30 1x20 0x60"}, {49: False, 70: False}),
    (
        "ModelCsiCacheTooSmall",
        {_EVICTED: "0+9x200", _DOWNLOADED: "0+10x200", _EVICTIONS: "0+1x200"},
        {30: False, 120: True},
    ),
    (
        "ModelCsiCacheTooSmall",
        {_EVICTED: "0+1x200", _DOWNLOADED: "0+10x200", _EVICTIONS: "0+1x200"},
        {120: False},
    ),
]


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    """The rules as Prometheus reads them from a file."""
    rule = render({"monitoring": {"prometheusRule": {"enabled": True}}}).one("PrometheusRule")
    spec = rule["spec"]
    assert isinstance(spec, dict)
    return spec


def test_every_alert_fires_in_a_case_and_not_in_another(rules: dict[str, Any]) -> None:
    """A new alert needs its cases here."""
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}

    for fires in (True, False):
        assert alerts == {alert for alert, _, moments in _CASES if fires in moments.values()}


def test_alerts_fire_when_they_should(rules: dict[str, Any], tmp_path: Path) -> None:
    """Each alert fires at the minutes that its cases say, and at no others of them."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    tests = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [_test(*case) for case in _CASES],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    command = ["promtool", "test", "rules", "tests.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (0, "") == (done.returncode, done.stderr)


def _test(alert: str, series: dict[str, str], moments: dict[int, bool]) -> dict[str, Any]:
    query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    return {
        "name": f"{alert} {series}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": int(fires)}]}
            for minute, fires in moments.items()
        ],
    }
