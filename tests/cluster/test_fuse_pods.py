"""Lazy mounts in a cluster: the pods that keep them alive, and the driver's, are replaced one after the other while models are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.pods import MOUNT_PATH, hashing, inline, pod, seen
from tests.cluster.reader import Reader
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import NAME, Release
from tests.integration.models import MIB, promised

_FUSE = f"{NAME}-fuse"
_LAZY = {"mountMode": "lazy"}
_SLOW_BYTES_PER_SECOND = 2 * MIB
_SMALL_BYTES = 4 * MIB
_LARGE_BYTES = 48 * MIB

Event = Callable[[Release], object]


def _shown_by(kubectl: Kubectl, name: str) -> str:
    """The type of the file system that the pod sees its model in."""
    (shown,) = [
        line.split()[2] for line in kubectl.exec(name, "cat", "/proc/mounts").splitlines() if MOUNT_PATH in line
    ]
    return shown


def _fuse_pod(driver: Release) -> dict[str, Any]:
    """The one that runs on the (first) node."""
    running = [
        item
        for item in driver.kubectl.listed("pods", f"app.kubernetes.io/name={_FUSE}")
        if "deletionTimestamp" not in item["metadata"]
    ]
    assert running, "no pod that keeps lazy mounts"
    return running[0]


def _wait_until_fuse_is_ready(driver: Release) -> None:
    def is_ready() -> bool:
        statuses = _fuse_pod(driver)["status"].get("containerStatuses", [])
        return bool(statuses) and all(status["ready"] for status in statuses)

    eventually(is_ready, "the pod that keeps lazy mounts is ready")


def _roll_out_the_driver(driver: Release) -> None:
    driver.rollout()


def _delete_the_fuse_pod(driver: Release) -> None:
    driver.kubectl.delete("pod", _fuse_pod(driver)["metadata"]["name"])
    _wait_until_fuse_is_ready(driver)


def _replace_both(driver: Release) -> None:
    _delete_the_fuse_pod(driver)
    _roll_out_the_driver(driver)
    _delete_the_fuse_pod(driver)


def _replace_both_at_once(driver: Release) -> None:
    driver.kubectl.delete("pod", driver.pod, _fuse_pod(driver)["metadata"]["name"])
    _wait_until_fuse_is_ready(driver)
    driver.wait_until_ready()


@pytest.mark.parametrize("adapter", ["passthrough", "pyfuse3"])
def test_pod_starts_before_its_model_is_here(
    adapter: str, driver: Release, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """It is ready while most of its model is still to come, and what it reads is right, also when the driver was replaced."""
    driver.ensure({"config": {"fuse": {"adapter": adapter}}})
    _wait_until_fuse_is_ready(driver)
    model = registry.push_new(kubectl.namespace, _SMALL_BYTES, _LARGE_BYTES)
    registry.wire.bytes_per_second = _SLOW_BYTES_PER_SECOND
    before = registry.wire.delivered_bytes
    kubectl.apply(pod("early", inline(model.at(registry.host), **_LAZY)))
    kubectl.wait_until_ready("early")
    received = registry.wire.delivered_bytes - before
    driver.rollout()
    registry.wire.bytes_per_second = 0

    assert received < _LARGE_BYTES
    assert "fuse.modelcsi" == _shown_by(kubectl, "early")
    assert promised(model.files) == seen(kubectl.exec("early", *hashing()))


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(_roll_out_the_driver, id="driver rolled out"),
        pytest.param(_delete_the_fuse_pod, id="fuse pod deleted"),
        pytest.param(_replace_both, id="all replaced"),
        pytest.param(_replace_both_at_once, id="all replaced at once"),
    ],
)
def test_reader_notices_nothing(event: Event, driver: Release, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """While the model arrives, and while another pod reads it without pause: no error and no wrong byte."""
    _wait_until_fuse_is_ready(driver)
    model = registry.push_new(kubectl.namespace, _SMALL_BYTES, _LARGE_BYTES)
    registry.wire.bytes_per_second = _SLOW_BYTES_PER_SECOND
    kubectl.apply(pod("filling", inline(model.at(registry.host), **_LAZY)))
    kubectl.wait_until_ready("filling")
    event(driver)
    registry.wire.bytes_per_second = 0
    reader = Reader.start(kubectl, "reader", model.at(registry.host), model.files, **_LAZY)
    event(driver)
    reader.assert_goes_on()

    assert 0 == reader.restarts
    assert promised(model.files) == seen(kubectl.exec("filling", *hashing()))


def test_upgrade_leaves_the_fuse_pods_alone(driver: Release) -> None:
    """What changes all pods of the driver (another environment here, or another image) replaces none of them."""
    _wait_until_fuse_is_ready(driver)
    drivers, fuse = driver.pod, _fuse_pod(driver)["metadata"]["uid"]
    driver.ensure({"env": [{"name": "EXAMPLE", "value": "changed"}]})

    assert (False, fuse) == (drivers == driver.pod, _fuse_pod(driver)["metadata"]["uid"])


def test_without_fuse_pods_a_lazy_volume_waits(driver: Release, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """`lazy.enabled: false`: the pod starts when its model is here, on a bind mount, and an event says why."""
    driver.ensure({"lazy": {"enabled": False}})
    model = registry.push_new(kubectl.namespace, _SMALL_BYTES)
    kubectl.apply(pod("late", inline(model.at(registry.host), **_LAZY)))
    kubectl.wait_until_ready("late")

    assert "fuse.modelcsi" != _shown_by(kubectl, "late")
    assert promised(model.files) == seen(kubectl.exec("late", *hashing()))
    eventually(lambda: "lazy mounts are switched off" in kubectl("describe", "pod", "late"), "an event says why")
