"""Pods that are deleted before they have their model: they go at once, whatever the driver is waiting for."""

from __future__ import annotations

import time

import pytest

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.node import Node
from tests.cluster.pods import hashing, inline, pod, registry_secret, seen
from tests.cluster.registries import ClusterRegistry, Registries
from tests.cluster.release import Release
from tests.cluster.tenancy import refusal
from tests.integration.credentials import HTPASSWD, PASSWORD, docker_secret
from tests.integration.models import MIB, Model, promised, random_files

_SLOW_BYTES_PER_SECOND = 3 * MIB
_LONG_SECONDS = 60.0
"""Far above what a deletion takes (2 s), far below how long a publish waits for its pull (115 s)."""
_GRACE = {"terminationGracePeriodSeconds": 30}
"""With 0 the API server would forget the pod at once, whatever kubelet still has to do."""


@pytest.fixture
def model(registry: ClusterRegistry, kubectl: Kubectl) -> Model:
    """A model that takes 85 s, until the registry gets quicker."""
    registry.wire.bytes_per_second = _SLOW_BYTES_PER_SECOND
    return registry.push(f"slow/{kubectl.namespace}", random_files(kubectl.namespace, *[64 * MIB] * 4))


def _delete(kubectl: Kubectl, name: str) -> float:
    """How long it takes until the pod is gone."""
    began = time.monotonic()
    kubectl.delete("pod", name)
    return time.monotonic() - began


def _pulls(driver: Release) -> list[list[str]]:
    """Of each pull, the pods that wait for it."""
    status = driver.status()
    return [[pull["reference"]] * pull["waiting"] for pull in status["pulls"]]


def test_pod_whose_model_is_being_pulled_goes_at_once(
    driver: Release, registry: ClusterRegistry, node: Node, model: Model, kubectl: Kubectl
) -> None:
    """A pod that is deleted while it waits goes at once; a pull that nobody else waits for stops, and the next one goes on with what
    was received.
    """
    reference = model.at(registry.host)
    kubectl.apply(pod("impatient", inline(reference), **_GRACE))
    kubectl.eventually_event("impatient", "PullProgress")
    seconds = _delete(kubectl, "impatient")
    node.assert_nothing_left()
    eventually(lambda: not _pulls(driver), "the pull has stopped")
    received = registry.wire.delivered_bytes
    publications = driver.status()["publications"]
    registry.wire.bytes_per_second = 0
    kubectl.apply(pod("patient", inline(reference)))
    kubectl.wait_until_ready("patient")

    assert seconds < _LONG_SECONDS
    assert [] == publications
    assert promised(model.files) == seen(kubectl.exec("patient", *hashing()))
    # What was on the way when it stopped is lost.
    lost = registry.wire.delivered_bytes - model.size_bytes
    assert lost < received / 2


def test_pull_goes_on_for_those_who_still_wait(
    driver: Release, registry: ClusterRegistry, node: Node, model: Model, kubectl: Kubectl
) -> None:
    """Two pods wait for one pull, one of them is deleted: it goes at once, and the other has its model with one download."""
    reference = model.at(registry.host)
    kubectl.apply(*(pod(name, inline(reference), **_GRACE) for name in ("leaving", "staying")))
    eventually(lambda: _pulls(driver) == [[reference] * 2], "both wait for one pull")
    seconds = _delete(kubectl, "leaving")
    eventually(
        lambda: _pulls(driver) == [[reference]], "one waits on"
    )  # kubelet unpublishes a moment after the pod is gone
    registry.wire.bytes_per_second = 0
    kubectl.wait_until_ready("staying")

    assert seconds < _LONG_SECONDS
    assert promised(model.files) == seen(kubectl.exec("staying", *hashing()))
    assert registry.wire.delivered_bytes < 1.5 * model.size_bytes


def test_pod_that_cannot_have_its_model_goes_at_once(
    driver: Release, registries: Registries, node: Node, kubectl: Kubectl
) -> None:
    """Refused, not found, or no registry there at all: nothing keeps a pod that never had its volume."""
    private = registries.docker(htpasswd=HTPASSWD, password=PASSWORD)
    away = registries.docker()
    away.wire.cut()
    model = private.push(f"private/{kubectl.namespace}", random_files(kubectl.namespace, MIB))
    kubectl.apply(
        registry_secret("outdated", docker_secret(private.host, "guessed")),
        pod("refused", inline(model.at(private.host), secret="outdated"), **_GRACE),
        pod("nobody", inline(model.at(private.host)), **_GRACE),
        pod("away", inline(model.at(away.host)), **_GRACE),
    )
    refusal(kubectl, "refused")
    refusal(kubectl, "nobody")
    kubectl.eventually_event("away", "FailedMount")
    began = time.monotonic()
    kubectl.delete("pod", "refused", "nobody", "away")
    seconds = time.monotonic() - began
    node.assert_nothing_left()

    assert seconds < _LONG_SECONDS
    assert ([], []) == (driver.status()["publications"], _pulls(driver))
