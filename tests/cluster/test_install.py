"""`helm install`, and a pod that reads a model: what the README promises."""

from __future__ import annotations

from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.cluster.pods import hashing, inline, pod, seen
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import Release
from tests.integration.models import MIB, promised, random_files


def test_pod_reads_the_model_and_leaves_nothing(
    driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """A pod sees exactly the files of the model; when it is gone, kubelet has nothing of it, and the driver no publication."""
    model = registry.push("demo/tiny", random_files("install", 8 * MIB, MIB))
    kubectl.apply(pod("reader", inline(model.at(registry.host))))
    kubectl.wait_until_ready("reader")

    assert promised(model.files) == seen(kubectl.exec("reader", *hashing()))
    assert ["reader"] == [row["pod"].rpartition("/")[2] for row in driver.status()["publications"]]

    kubectl.delete("pod", "reader")
    node.assert_nothing_left()

    assert [] == driver.status()["publications"]


def test_description_of_the_pod_tells_the_story(driver: Release, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """`kubectl describe pod` says what is pulled, and from where, and with which digest it was verified."""
    model = registry.push("demo/story", random_files("story", MIB))
    reference = model.at(registry.host)
    kubectl.apply(pod("reader", inline(reference)))
    kubectl.wait_until_ready("reader")

    pulling = kubectl.eventually_event("reader", "Pulling")
    pulled = next(
        event for event in kubectl.events("reader") if event.component == pulling.component and event.reason == "Pulled"
    )
    described = kubectl.describe("pod", "reader")

    assert reference in pulling.message
    assert reference in pulled.message
    assert str(model.digest) in pulled.message
    assert pulled.message in described
