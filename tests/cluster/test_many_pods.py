"""Fifty pods at once: of one model, and of ten whose registry is down at first."""

from __future__ import annotations

import functools
import urllib.request
import uuid
from typing import Any

import pytest

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.node import Node
from tests.cluster.pods import hashing, inline, pod
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import NAME, Release
from tests.integration.models import MIB, Model, promised, random_files
from tests.integration.traffic import Traffic

_PODS = 50
_MODELS = 10
_PULL_SECONDS = 20
"""So long that all pods wait for the pull at the same time."""
_READY_SECONDS = 240.0
_GONE_SECONDS = 180.0
_LABEL = "many"
_GROWTH_BYTES = 64 * MIB
"""What the driver may keep of memory after its work: as much as it may use for the windows of all pulls."""
_PENDING = 'model_csi_operation_duration_seconds_count{op="publish_dynamic_volume",outcome="pending"}'
_REFUSED = 'model_csi_registry_requests_total{status="none"}'
_ANSWERED = 'model_csi_registry_requests_total{status="2xx"}'
_MEMORY = "process_resident_memory_bytes"


@pytest.mark.timeout(600)
def test_fifty_pods_of_one_model(driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl) -> None:
    """They wait for one download, and each reads it right; deleted at once they leave nothing, in the driver neither."""
    model = _push(registry)
    registry.wire.bytes_per_second = model.size_bytes // _PULL_SECONDS
    traffic, before = registry.traffic(), _metrics(driver)
    kubectl.apply(*(_checking_pod(number, model.at(registry.host), model) for number in range(_PODS)))
    _wait_until_all_ready(kubectl)
    ready = _metrics(driver)

    assert {str(layer): 1 for layer in model.layers} == _layers(traffic, model)
    assert _PODS == len(driver.status()["publications"])
    assert before.get(_PENDING, 0) == ready[_PENDING]  # nobody was sent away to come back later

    _delete_all(kubectl)
    node.assert_nothing_left()

    assert [] == driver.status()["publications"]
    assert "kubernetes.io~csi" not in driver.kubectl.exec(driver.pod, "cat", "/proc/self/mountinfo", container=NAME)
    assert _metrics(driver)[_MEMORY] - before[_MEMORY] < _GROWTH_BYTES


@pytest.mark.timeout(600)
def test_fifty_pods_while_the_registry_is_down(
    driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """Ten models, five pods each: all start once the registry is back, which is asked at kubelet's pace and sends each blob once."""
    models = [_push(registry) for _ in range(_MODELS)]
    traffic, before = registry.traffic(), _metrics(driver)
    registry.wire.cut()
    wanted = [(number, models[number % _MODELS]) for number in range(_PODS)]
    kubectl.apply(*(_checking_pod(number, model.at(registry.host), model) for number, model in wanted))
    refused = functools.partial(_grown, _REFUSED, before, driver)
    eventually(lambda: refused() >= 3 * _PODS, "each pod was refused three times", _READY_SECONDS)
    registry.wire.connect()
    _wait_until_all_ready(kubectl)
    served = [_layers(traffic, model) for model in models]

    assert [{str(layer): 1 for layer in model.layers} for model in models] == served
    assert refused() < 8 * _PODS  # kubelet comes after 0.5, 1, 2, 4, 8 ... seconds
    assert _grown(_ANSWERED, before, driver) <= _PODS + sum(len(model.layers) for model in models) + _MODELS

    _delete_all(kubectl)
    node.assert_nothing_left()


def _push(registry: ClusterRegistry) -> Model:
    """Bytes and a reference that no earlier run left on the node."""
    name = uuid.uuid4().hex[:8]
    return registry.push(f"demo/{name}", random_files(name, 3 * MIB, MIB))


def _checking_pod(number: int, reference: str, model: Model) -> dict[str, Any]:
    """A pod that is ready once it has read all files, and each of them right."""
    made = pod(f"reader-{number}", inline(reference))
    made["metadata"]["labels"][_LABEL] = ""
    (container,) = made["spec"]["containers"]
    expected = "\n".join(f"{digest}  ./{path}" for path, digest in sorted(promised(model.files).items()))
    container["env"] = [{"name": "EXPECTED", "value": expected}]
    shell, option, command = hashing()
    container["command"] = [shell, option, f'test "$({command})" = "$EXPECTED" && touch /checked && exec sleep 86400']
    probe = {"exec": {"command": ["test", "-e", "/checked"]}, "periodSeconds": 1, "failureThreshold": 120}
    container["startupProbe"] = probe
    return made


def _wait_until_all_ready(kubectl: Kubectl) -> None:
    limit = f"--timeout={_READY_SECONDS:.0f}s"
    kubectl("wait", "pods", f"--selector={_LABEL}", "--for=condition=Ready", limit, seconds=_READY_SECONDS + 15)


def _delete_all(kubectl: Kubectl) -> None:
    kubectl("delete", "pods", f"--selector={_LABEL}", f"--timeout={_GONE_SECONDS:.0f}s", seconds=_GONE_SECONDS + 15)


def _layers(traffic: Traffic, model: Model) -> dict[str, int]:
    """How often each layer was sent."""
    served = traffic.served(model.repository)
    return {str(layer): served[str(layer)] for layer in model.layers}


def _grown(name: str, before: dict[str, float], driver: Release) -> float:
    return _metrics(driver).get(name, 0) - before.get(name, 0)


def _metrics(driver: Release) -> dict[str, float]:
    """What the driver counts, by name and labels as they are written."""
    address = driver.kubectl.get("pod", driver.pod)["status"]["podIP"]
    with urllib.request.urlopen(f"http://{address}:5244/metrics") as answer:
        samples = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in samples}
