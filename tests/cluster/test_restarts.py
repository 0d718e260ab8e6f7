"""Whatever ends and begins again on a node, pods that run read on, pods that start find their model, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.node import KUBELET, Node
from tests.cluster.pods import deployment, hashing, inline, pod, seen
from tests.cluster.reader import Reader
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import Release
from tests.integration.driver import SERVICE_NAME
from tests.integration.models import MIB, Model, promised, random_files

_SOCKET = KUBELET / "plugins" / SERVICE_NAME / "csi.sock"
_REGISTRATION = KUBELET / "plugins_registry" / f"{SERVICE_NAME}-reg.sock"
_NOWHERE = {"nodeSelector": {"kubernetes.io/hostname": "no-such-node"}}
"""Values that leave the node without a driver, and everything else installed."""
_SLOW_BYTES_PER_SECOND = 2 * MIB
_SMALL_BYTES = 4 * MIB
_LARGE_BYTES = 24 * MIB

Event = Callable[[Release, Node], object]


def _delete_pod(driver: Release, node: Node) -> None:
    driver.kubectl.delete("pod", driver.pod)


def _kill(driver: Release, node: Node) -> None:
    node.kill_driver()


def _roll_out(driver: Release, node: Node) -> None:
    driver.rollout()


def _remove_socket(driver: Release, node: Node) -> None:
    _SOCKET.unlink()


def _remove_registration(driver: Release, node: Node) -> None:
    _REGISTRATION.unlink()


def _reboot(driver: Release, node: Node) -> None:
    node.reboot()


def _restart(process: str) -> Event:
    def event(driver: Release, node: Node) -> None:
        node.restart(process)

    return event


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(_delete_pod, id="driver's pod deleted"),
        pytest.param(_kill, id="driver killed"),
        pytest.param(_roll_out, id="driver rolled out"),
        pytest.param(_remove_socket, id="CSI socket removed"),
        pytest.param(_remove_registration, id="registration socket removed"),
        pytest.param(_restart("kubelet"), id="kubelet"),
        pytest.param(_restart("containerd"), id="containerd"),
    ],
)
def test_pods_read_on_and_new_ones_start(
    event: Event, driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """A pod that reads without pause sees no error, a new one gets the same model without a download, and both leave nothing."""
    model = registry.push("demo/restarts", random_files("restarts", _SMALL_BYTES))
    reader = Reader.start(kubectl, "reader", model.at(registry.host), model.files)
    traffic = registry.traffic()
    event(driver, node)
    reader.assert_goes_on()
    _wait_until_all_is_back(driver)
    _assert_starts(kubectl, "late", registry, model)

    assert 0 == reader.restarts
    assert not traffic.served(model.repository)

    kubectl.delete("pod", "reader", "late")
    _assert_clean(driver, node)


def test_kubelet_and_containerd_are_not_needed_to_read(
    driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """While both are down, a pod reads on; its volume needs nothing but the kernel."""
    model = registry.push("demo/alone", random_files("alone", _SMALL_BYTES))
    reader = Reader.start(kubectl, "reader", model.at(registry.host), model.files)
    with _stopped(node, "kubelet", "containerd"):
        reader.assert_goes_on()
    _wait_until_all_is_back(driver)
    reader.assert_goes_on()

    assert 0 == reader.restarts


def test_driver_needs_no_api_server_to_start(
    driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """Killed while no API server is there, it comes back and serves; the pods read on, and all is as before when one returns."""
    model = registry.push("demo/noapi", random_files("noapi", _SMALL_BYTES))
    reader = Reader.start(kubectl, "reader", model.at(registry.host), model.files)
    served = _SOCKET.stat().st_ino
    with _stopped(node, "kube-apiserver"):
        node.kill_driver()
        eventually(lambda: _SOCKET.exists() and _SOCKET.stat().st_ino != served, "the driver serves again")
        reader.assert_goes_on()
    _wait_until_all_is_back(driver)
    _assert_starts(kubectl, "late", registry, model)

    assert 0 == reader.restarts


def test_reboot(driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl) -> None:
    """Pods that kubelet starts again after a power cut have their volumes without a download; of one deleted meanwhile nothing is left."""
    model = registry.push("demo/reboot", random_files("reboot", _SMALL_BYTES))
    readers = [Reader.start(kubectl, name, model.at(registry.host), model.files) for name in ("first", "second")]
    gone = Reader.start(kubectl, "gone", model.at(registry.host), model.files)
    traffic = registry.traffic()
    with _stopped(node, "kubelet"):
        kubectl("delete", "pod", "gone", "--force", "--grace-period=0")
    node.reboot()
    eventually(lambda: [reader.restarts for reader in readers] == [1, 1], "kubelet starts the pods again")
    for reader in readers:
        reader.assert_goes_on()
    _wait_until_all_is_back(driver)
    _assert_starts(kubectl, "late", registry, model)
    eventually(lambda: _published(driver) == {"first", "second", "late"}, "the volume of the deleted pod is forgotten")

    assert not traffic.served(model.repository)
    assert [] == [path for path in node.volumes() if gone.uid in path]

    kubectl.delete("pod", "first", "second", "late")
    _assert_clean(driver, node)


def test_pods_that_end_while_no_driver_is_there(
    driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """Even a kubelet that started meanwhile remembers them: they go, with all they had, when the driver returns."""
    model = registry.push("demo/away", random_files("away", _SMALL_BYTES))
    reader = Reader.start(kubectl, "reader", model.at(registry.host), model.files)
    patient = {"terminationGracePeriodSeconds": 1}  # with 0 the API server forgets a pod before it has ended
    kubectl.apply(*(pod(name, inline(model.at(registry.host)), **patient) for name in ("before", "after")))
    kubectl.wait_until_ready("before", "after")
    traffic = registry.traffic()
    driver.ensure(_NOWHERE)
    driver.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=60s", seconds=90)
    kubectl("delete", "pod", "before", "--wait=false")
    node.restart("kubelet")
    reader.assert_goes_on()
    kubectl("delete", "pod", "after", "--wait=false")
    _wait_until_ended(kubectl, "before", "after")

    driver.ensure()
    kubectl.wait("pod/before", "delete", seconds=150)  # kubelet's pauses double up to two minutes
    kubectl.wait("pod/after", "delete", seconds=150)
    eventually(lambda: _published(driver) == {"reader"}, "the volumes of the deleted pods are forgotten")
    reader.assert_goes_on()

    assert 0 == reader.restarts
    assert not traffic.served(model.repository)

    kubectl.delete("pod", "reader")
    _assert_clean(driver, node)


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(_delete_pod, id="driver's pod deleted"),
        pytest.param(_kill, id="driver killed"),
        pytest.param(_roll_out, id="driver rolled out"),
        pytest.param(_restart("kubelet"), id="kubelet"),
        pytest.param(_reboot, id="power cut"),
    ],
)
def test_pull_goes_on(event: Event, driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl) -> None:
    """Five pods wait for a slow pull: after the interruption it goes on where it was, and all of them start."""
    model = registry.push("demo/large", random_files("large", _LARGE_BYTES))
    names = [f"waiting-{number}" for number in range(5)]
    before = registry.wire.delivered_bytes
    registry.wire.bytes_per_second = _SLOW_BYTES_PER_SECOND
    kubectl.apply(*(pod(name, inline(model.at(registry.host))) for name in names))
    eventually(lambda: registry.wire.delivered_bytes - before > _LARGE_BYTES // 4, "a quarter was received")
    event(driver, node)
    registry.wire.bytes_per_second = 0
    kubectl.wait_until_ready(*names, seconds=150)
    received = registry.wire.delivered_bytes - before

    assert promised(model.files) == seen(kubectl.exec(names[0], *hashing()))
    assert received < model.size_bytes + 4 * MIB

    _wait_until_all_is_back(driver)
    kubectl.delete("pod", *names)
    _assert_clean(driver, node)


def test_driver_ends_in_good_order_in_the_middle_of_a_pull(
    driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """SIGTERM is enough while a pull runs and its pods wait: kubelet need not kill it when its grace period is over."""
    model = registry.push("demo/ending", random_files("ending", _LARGE_BYTES))
    before = registry.wire.delivered_bytes
    registry.wire.bytes_per_second = _SLOW_BYTES_PER_SECOND
    kubectl.apply(*(pod(f"waiting-{number}", inline(model.at(registry.host))) for number in range(3)))
    eventually(lambda: registry.wire.delivered_bytes - before > MIB, "the pull runs")
    name = driver.pod
    with _kept(driver.kubectl, name):
        driver.kubectl("delete", "pod", name, "--wait=false")
        eventually(lambda: "terminated" in _driver_state(driver.kubectl, name), "the driver has ended")
        end = _driver_state(driver.kubectl, name)["terminated"]
    registry.wire.bytes_per_second = 0

    assert (0, "Completed") == (end["exitCode"], end["reason"])

    kubectl.delete("pod", *(f"waiting-{number}" for number in range(3)))
    _wait_until_all_is_back(driver)
    _assert_clean(driver, node)


def test_drained_node(driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl) -> None:
    """`kubectl drain` takes the pods and leaves the driver, so nothing is left of them; they come back without a download."""
    model = registry.push("demo/drain", random_files("drain", _SMALL_BYTES))
    kubectl.apply(deployment("server", inline(model.at(registry.host)), 2))
    kubectl("rollout", "status", "deployment/server", "--timeout=60s", seconds=90)
    traffic = registry.traffic()
    name = driver.pod
    with _drained(kubectl):
        node.assert_nothing_left()

        assert name == driver.pod
        assert [] == driver.status()["publications"]
    kubectl("rollout", "status", "deployment/server", "--timeout=60s", seconds=90)

    assert not traffic.served(model.repository)


def _assert_starts(kubectl: Kubectl, name: str, registry: ClusterRegistry, model: Model) -> None:
    """A new pod starts, and sees the whole model."""
    kubectl.apply(pod(name, inline(model.at(registry.host))))
    kubectl.wait_until_ready(name, seconds=150)

    assert promised(model.files) == seen(kubectl.exec(name, *hashing()))


def _assert_clean(driver: Release, node: Node) -> None:
    """Kubelet has nothing, the driver holds nothing, and what it has stored is a cache: a prune takes all of it."""
    node.assert_nothing_left()
    eventually(lambda: not driver.status()["publications"], "no volume is published")
    driver.modelcsi("cache", "prune")

    assert [] == node.stored()


def _wait_until_all_is_back(driver: Release) -> None:
    """Until the API answers, kubelet has registered the driver, and its pod is ready."""
    eventually(lambda: _is_registered(driver.kubectl), "kubelet has registered the driver")
    driver.wait_until_ready()
    eventually(lambda: _is_registered(driver.kubectl), "kubelet has registered the driver")


def _is_registered(kubectl: Kubectl) -> bool:
    names = kubectl("get", "csinodes", "--output=jsonpath={.items[*].spec.drivers[*].name}")
    return SERVICE_NAME in names.split() and bool(_ready_pods(kubectl))


def _ready_pods(kubectl: Kubectl) -> list[str]:
    return [
        item["metadata"]["name"]
        for item in kubectl.listed("pods")
        for condition in item["status"].get("conditions", [])
        if "deletionTimestamp" not in item["metadata"] and (condition["type"], condition["status"]) == ("Ready", "True")
    ]


def _published(driver: Release) -> set[str]:
    """The pods that have a volume, as the driver knows."""
    return {row["pod"].rpartition("/")[2] for row in driver.status()["publications"]}


def _wait_until_ended(kubectl: Kubectl, *names: str) -> None:
    """Until their containers have ended; without a driver, the pods stay after that."""
    for name in names:
        kubectl.wait(f"pod/{name}", "jsonpath={.status.phase}=Failed")


def _driver_state(kubectl: Kubectl, name: str) -> dict[str, dict[str, object]]:
    """The state of the driver's container in a pod."""
    (container,) = kubectl.get("pod", name)["status"]["containerStatuses"]
    state: dict[str, dict[str, object]] = container["state"]
    return state


@contextmanager
def _stopped(node: Node, *processes: str) -> Iterator[None]:
    for process in processes:
        node.stop(process)
    try:
        yield
    finally:
        for process in reversed(processes):
            node.start(process)


@contextmanager
def _kept(kubectl: Kubectl, name: str) -> Iterator[None]:
    """A finalizer keeps the object of a deleted pod, so that one can see how its containers ended."""
    kubectl("patch", "pod", name, "--patch", '{"metadata": {"finalizers": ["example.com/look"]}}')
    try:
        yield
    finally:
        kubectl("patch", "pod", name, "--patch", '{"metadata": {"finalizers": null}}')


@contextmanager
def _drained(kubectl: Kubectl) -> Iterator[None]:
    (name,) = kubectl("get", "nodes", "--output=name").split()
    kubectl("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s", seconds=90)
    try:
        yield
    finally:
        kubectl("uncordon", name)
