"""Fifty pods at once: of one model, of ten, and of ten whose registry is down at first."""

from __future__ import annotations

import re
import time
import urllib.request
import uuid
from collections.abc import Iterable
from typing import Any

import pytest

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.node import Node
from tests.cluster.pods import hashing, inline, pod
from tests.cluster.registries import ClusterRegistry, Registries
from tests.cluster.release import NAME, Release
from tests.fakes.registry import FakeRegistry
from tests.integration.models import MIB, Model, promised, push, random_files

_PODS = 50
_READY_SECONDS = 240.0
_GONE_SECONDS = 180.0
_LABEL = "many"


@pytest.mark.timeout(600)
def test_fifty_pods_of_one_model(driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl) -> None:
    """One download; all of them read it right; deleted at once, they leave nothing, and the driver is as small as before."""
    model = _push(registry)
    traffic, before = registry.traffic(), _metrics(driver)
    began = time.monotonic()
    kubectl.apply(*(_checking_pod(f"reader-{number}", model, registry.host) for number in range(_PODS)))
    _wait_until_all_ready(kubectl)
    ready = time.monotonic()
    after = _metrics(driver)
    assert _PODS == len(driver.status()["publications"])
    assert dict.fromkeys(map(str, model.layers), 1) == _blobs(traffic.served(model.repository), [model])

    kubectl.delete("pods", f"--selector={_LABEL}", seconds=_GONE_SECONDS)
    node.assert_nothing_left()
    gone = time.monotonic()
    last = _metrics(driver)
    for name, metrics in (("before", before), ("after", after), ("last", last)):
        for key in sorted(metrics):
            if (
                "publish_dyn" in key
                and "bucket" not in key
                or key.startswith(("process", "model_csi_registry", "model_csi_downl"))
            ):
                print(name, key, metrics[key])
    print("ready", ready - began, "gone", gone - ready)
    assert [] == driver.status()["publications"]


def _push(registry: ClusterRegistry) -> Model:
    name = uuid.uuid4().hex[:8]
    return registry.push(f"demo/{name}", random_files(name, 8 * MIB, MIB))


def _checking_pod(name: str, model: Model, host: str, **attributes: str) -> dict[str, Any]:
    """A pod that is ready once it has read all files, and each of them right."""
    made = pod(name, inline(model.at(host), **attributes), restartPolicy="Never")
    made["metadata"]["labels"][_LABEL] = ""
    (container,) = made["spec"]["containers"]
    expected = "\n".join(f"{digest}  ./{path}" for path, digest in sorted(promised(model.files).items()))
    container["env"] = [{"name": "EXPECTED", "value": expected}]
    shell, option, command = hashing()
    container["command"] = [shell, option, f'test "$({command})" = "$EXPECTED" && touch /checked && exec sleep 86400']
    container["startupProbe"] = {
        "exec": {"command": ["test", "-e", "/checked"]},
        "periodSeconds": 1,
        "failureThreshold": 120,
    }
    return made


def _wait_until_all_ready(kubectl: Kubectl) -> None:
    limit = f"--timeout={_READY_SECONDS:.0f}s"
    kubectl("wait", "pods", f"--selector={_LABEL}", "--for=condition=Ready", limit, seconds=_READY_SECONDS + 15)


def _blobs(served: dict[str, int], models: Iterable[Model]) -> dict[str, int]:
    """Of what was served, the layers."""
    layers = {str(layer) for model in models for layer in model.layers}
    return {digest: count for digest, count in served.items() if digest in layers}


def _metrics(driver: Release) -> dict[str, float]:
    """All samples of the driver, by name and labels as they are written."""
    address = driver.kubectl.get("pod", driver.pod)["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:5244/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }
