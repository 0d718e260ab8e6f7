"""Publishes speak to the pod they are for, and end with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelcsi.errors import NotFound, PullPending
from modelcsi.registry.caller import Pod
from modelcsi.volume.announcements import Announcement
from modelcsi.volume.spec import VolumeSpec
from modelcsi.volume.volumes import Pods
from tests.fakes.registry import FakeRegistry
from tests.unit.volume.conftest import Driver, publish

Make = Callable[..., VolumeSpec]
PREFIX = "csi.storage.k8s.io/"
OF_POD = {
    f"{PREFIX}pod.namespace": "team",
    f"{PREFIX}pod.name": "chat",
    f"{PREFIX}pod.uid": "uid-1",
    f"{PREFIX}serviceAccount.name": "default",
}
POD = Pod("team", "chat", "uid-1", "default")


class Cluster:
    """Remembers what was said to whom, and says which pods are gone."""

    def __init__(self) -> None:
        self.heard: list[tuple[Pod, str]] = []
        self.gone: set[Pod] = set()

    def announce(self, pod: Pod, announcement: Announcement) -> None:
        self.heard.append((pod, announcement.reason))

    def is_gone(self, pod: Pod) -> bool:
        return pod in self.gone


@pytest.fixture
def cluster() -> Cluster:
    """In which the driver runs."""
    return Cluster()


@pytest.fixture
def driver(start_driver: Callable[..., Driver], cluster: Cluster) -> Driver:
    """A process in it."""
    return start_driver(pods=Pods(cluster, cluster))


def test_a_pull_is_told_to_its_pod(driver: Driver, cluster: Cluster, spec: Make) -> None:
    """From its begin to its end."""
    publish(driver, spec(**OF_POD))

    assert [(POD, "Pulling"), (POD, "Pulled")] == cluster.heard


def test_a_failure_is_told_to_its_pod(driver: Driver, cluster: Cluster, spec: Make, reference: str) -> None:
    """Instead."""
    with pytest.raises(NotFound):
        publish(driver, spec(modelRef=reference.replace(":v1", ":v9"), **OF_POD))

    assert [(POD, "Failed")] == cluster.heard


def test_a_publish_of_a_pod_that_is_gone(driver: Driver, cluster: Cluster, fake: FakeRegistry, spec: Make) -> None:
    """Does not wait for its model, however long kubelet would."""
    fake.faults.stall_after_bytes = 1
    cluster.gone = {POD}
    with pytest.raises(PullPending):
        publish(driver, spec(**OF_POD))
