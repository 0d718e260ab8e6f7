"""Uninstalling, and installing again, under volumes in use: what running pods notice, what stays, and how it goes."""

from __future__ import annotations

import subprocess

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.node import KUBELET, STORE, Node
from tests.cluster.pods import hashing, inline, pod, seen
from tests.cluster.reader import Reader
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import NAME, Release
from tests.integration.driver import SERVICE_NAME
from tests.integration.models import MIB, promised, random_files

_OURS = f"--selector=app.kubernetes.io/name={NAME}"
_GO_SECONDS = 150.0
"""kubelet's pauses between two attempts double, up to two minutes."""
_PATIENT = {"terminationGracePeriodSeconds": 1}
"""With 0 the API server forgets a pod before it has ended, and nobody sees that it stays."""
_TAKE_VOLUMES = f"""
grep --files-with-matches '"driverName":"{SERVICE_NAME}"' {KUBELET}/pods/*/volumes/kubernetes.io~csi/*/vol_data.json |
  while read -r file; do
    umount "${{file%/*}}/mount"
    rm -r "${{file%/*}}"
  done
"""
"""What docs/operations.md tells an administrator to do on a node that gets no driver again."""


def test_pods_read_on_and_go_when_the_driver_returns(
    driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """Without the driver running pods notice nothing, others stay as they are; when it is back, all goes on, from the cache."""
    model = registry.push("demo/uninstall", random_files("uninstall", 4 * MIB))
    reference = model.at(registry.host)
    reader = Reader.start(kubectl, "reader", reference, model.files)
    kubectl.apply(pod("leaving", inline(reference), **_PATIENT))
    kubectl.wait_until_ready("leaving")
    traffic = registry.traffic()
    driver.uninstall()
    kubectl("delete", "pod", "leaving", "--wait=false")
    kubectl.wait("pod/leaving", "jsonpath={.status.phase}=Failed")  # its containers have ended
    kubectl.apply(pod("late", inline(reference)))
    reason = kubectl.eventually_event("late", "FailedMount").message
    reader.assert_goes_on()

    assert SERVICE_NAME in reason
    assert "" == kubectl("get", "csidrivers,clusterroles,clusterrolebindings", "--output=name", _OURS)
    assert "deletionTimestamp" in kubectl.get("pod", "leaving")["metadata"]

    driver.ensure()
    kubectl.wait("pod/leaving", "delete", seconds=_GO_SECONDS)
    kubectl.wait_until_ready("late", seconds=_GO_SECONDS)
    reader.assert_goes_on()

    assert promised(model.files) == seen(kubectl.exec("late", *hashing()))
    assert 0 == reader.restarts
    assert not traffic.served(model.repository)

    kubectl.delete("pod", "reader", "late")
    node.assert_nothing_left()
    eventually(lambda: not driver.status()["publications"], "no volume is published")


def test_what_is_left_can_be_removed_without_the_driver(
    driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """An administrator who does not want it back takes the volumes of ended pods, restarts kubelet, and may remove the store."""
    model = registry.push("demo/byhand", random_files("byhand", 4 * MIB))
    kubectl.apply(pod("leaving", inline(model.at(registry.host)), **_PATIENT))
    kubectl.wait_until_ready("leaving")
    driver.uninstall()
    kubectl("delete", "pod", "leaving", "--wait=false")
    kubectl.wait("pod/leaving", "jsonpath={.status.phase}=Failed")
    subprocess.run(["bash", "-euc", _TAKE_VOLUMES], check=True, timeout=30)
    node.restart("kubelet")
    kubectl.wait("pod/leaving", "delete", seconds=_GO_SECONDS)

    assert [] == node.volumes()
    assert [] == list((KUBELET / "plugins_registry").glob(f"{SERVICE_NAME}*"))
    assert [] == list((KUBELET / "plugins" / SERVICE_NAME).iterdir())

    subprocess.run(
        ["find", str(STORE), "-mindepth", "1", "-delete"], check=True, timeout=30
    )  # here it is a mount itself
    traffic = registry.traffic()
    driver.ensure()
    kubectl.apply(pod("first", inline(model.at(registry.host))))
    kubectl.wait_until_ready("first", seconds=_GO_SECONDS)

    assert promised(model.files) == seen(kubectl.exec("first", *hashing()))
    assert {str(layer) for layer in model.layers} <= set(traffic.served(model.repository))


def test_upgrade_and_rollback(driver: Release, registry: ClusterRegistry, node: Node, kubectl: Kubectl) -> None:
    """`helm upgrade` and `helm rollback` replace the driver below volumes in use; what was mounted with one goes with the other."""
    model = registry.push("demo/upgrade", random_files("upgrade", 4 * MIB))
    reference = model.at(registry.host)
    reader = Reader.start(kubectl, "reader", reference, model.files)
    traffic = registry.traffic()
    first = driver.pod
    driver.ensure({"podAnnotations": {"example.com/release": "next"}, "csiDriver": {"requiresRepublish": True}})
    second = driver.pod
    reader.assert_goes_on()
    kubectl.apply(pod("upgraded", inline(reference)))
    kubectl.wait_until_ready("upgraded", seconds=_GO_SECONDS)
    driver.rollback()
    reader.assert_goes_on()
    kubectl.delete("pod", "upgraded")
    kubectl.apply(pod("again", inline(reference)))
    kubectl.wait_until_ready("again", seconds=_GO_SECONDS)

    assert 3 == len({first, second, driver.pod})
    assert 0 == reader.restarts
    assert not traffic.served(model.repository)

    kubectl.delete("pod", "reader", "again")
    node.assert_nothing_left()
    eventually(lambda: not driver.status()["publications"], "no volume is published")
