"""What the chart's accounts may do at a real API server: enough for all that they do, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.claims import Classes, claim
from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.pods import claimed, inline, pod
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import NAME, NAMESPACE, Release
from tests.integration.driver import SERVICE_NAME
from tests.integration.models import MIB

_TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_PATCH_NODE = """
import json, os, ssl, sys, urllib.error, urllib.request
directory = "/var/run/secrets/kubernetes.io/serviceaccount"
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
request = urllib.request.Request(
    f"https://{host}:{port}/api/v1/nodes/{sys.argv[1]}", sys.argv[2].encode(), method="PATCH", headers={
        "Authorization": "Bearer " + open(f"{directory}/token").read(),
        "Content-Type": "application/merge-patch+json",
    })
try:
    urllib.request.urlopen(request, context=ssl.create_default_context(cafile=f"{directory}/ca.crt"), timeout=20)
    print("done")
except urllib.error.HTTPError as error:
    print(json.load(error)["message"])
"""
"""What somebody with the driver's token would run."""
_OTHER_NODE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "test-other-node"},
    "spec": {"unschedulable": True},
}
_KEY = f"{SERVICE_NAME}/{32 * '0'}"
_CONTROLLER = f"{NAME}-controller"


def test_tokens_are_only_where_they_are_used(classes: Classes) -> None:
    """The provisioner and the driver on nodes have one; the controller beside the provisioner has none."""
    on_nodes = Kubectl(NAMESPACE).exec(classes.driver.pod, "cat", _TOKEN_FILE, container=NAME)
    (beside,) = Kubectl(NAMESPACE).listed("pods", f"app.kubernetes.io/name={_CONTROLLER}")
    script = f"test -e {_TOKEN_FILE} && echo there || echo absent"
    found = Kubectl(NAMESPACE).exec(beside["metadata"]["name"], "sh", "-c", script, container="model-csi-controller")

    assert on_nodes.count(".") == 2
    assert "absent" == found.strip()


@pytest.mark.parametrize("binding", ["Immediate", "WaitForFirstConsumer"])
def test_rights_suffice_from_claim_to_end(
    classes: Classes, registry: ClusterRegistry, kubectl: Kubectl, binding: str
) -> None:
    """A volume is made, said to be made, used and deleted, and nothing was forbidden meanwhile."""
    model = registry.push_new(kubectl.namespace, MIB)
    name = classes.make(f"{kubectl.namespace}-rights", {"modelRef": model.at(registry.host)}, binding=binding)
    kubectl.apply(claim("model", name), pod("reader", claimed("model")))
    kubectl.wait_until_ready("reader")
    kubectl.eventually_event("model", "ProvisioningSucceeded")
    kubectl.delete("pod", "reader")
    kubectl.delete("pvc", "model")
    classes.wait_until_no_volumes(name)
    controller = Kubectl(NAMESPACE)
    (lease,) = controller.listed("leases")
    log = controller("logs", f"deployment/{_CONTROLLER}", "--container=csi-provisioner")

    assert lease["spec"]["holderIdentity"]
    assert "forbidden" not in log


@pytest.fixture
def labelling(release: Release) -> Iterator[Release]:
    """The driver with the right to label nodes, and a node where it is not."""
    release.ensure({"config": {"kubernetes": {"node_labels": 4}}})
    Kubectl().apply(_OTHER_NODE)
    yield release
    Kubectl().delete("node", _OTHER_NODE["metadata"]["name"])


def test_driver_labels_its_node(labelling: Release, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """The policy lets through what the driver does by itself."""
    model = registry.push_new(kubectl.namespace, MIB)
    kubectl.apply(pod("reader", inline(model.at(registry.host))))
    kubectl.wait_until_ready("reader")
    node, key = kubectl.get("pod", "reader")["spec"]["nodeName"], f"{SERVICE_NAME}/{model.digest.hex[:32]}"

    eventually(lambda: Kubectl().get("node", node)["metadata"]["labels"].get(key) == "true", f"the label {key}", 90)


@pytest.mark.parametrize(
    ("patch", "answer"),
    [
        ({"metadata": {"labels": {_KEY: "true"}}}, "done"),
        ({"metadata": {"labels": {_KEY: None}}}, "done"),
        ({"metadata": {"labels": {"example.com/gpu": "true"}}}, "sets only labels with its own prefix"),
        ({"metadata": {"labels": {f"{SERVICE_NAME}/other": "true"}}}, "sets only labels with its own prefix"),
        ({"metadata": {"labels": {"kubernetes.io/hostname": "x"}}}, "sets only labels with its own prefix"),
        ({"metadata": {"labels": {"kubernetes.io/hostname": None}}}, "removes only labels with its own prefix"),
        ({"metadata": {"annotations": {"example.com/a": "b"}}}, "changes labels of nodes and nothing else"),
        ({"metadata": {"finalizers": ["example.com/a"]}}, "changes labels of nodes and nothing else"),
        ({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}, "changes labels of nodes and nothing else"),
        ({"spec": {"unschedulable": True}}, "changes labels of nodes and nothing else"),
    ],
)
def test_token_of_the_driver_changes_its_own_labels_only(
    labelling: Release, patch: dict[str, Any], answer: str
) -> None:
    """Of all that the right to patch nodes would allow."""
    node = labelling.kubectl.get("pod", labelling.pod)["spec"]["nodeName"]

    assert answer in _patched(labelling, node, patch)


def test_token_of_the_driver_changes_no_other_node(labelling: Release) -> None:
    """Not even a label of the driver's own."""
    answer = _patched(labelling, _OTHER_NODE["metadata"]["name"], {"metadata": {"labels": {_KEY: "true"}}})

    assert "changes its own node only" in answer


def _patched(driver: Release, node: str, patch: dict[str, Any]) -> str:
    return driver.kubectl.exec(driver.pod, "python3", "-c", _PATCH_NODE, node, json.dumps(patch), container=NAME)


def test_driver_without_features_works_without_token(
    release: Release, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """With everything off that asks the API server, the account has no rights, the pod no token, and volumes are mounted."""
    release.ensure({"config": {"kubernetes": {"events": False, "watch_pods": False}}})
    model = registry.push_new(kubectl.namespace, MIB)
    kubectl.apply(pod("reader", inline(model.at(registry.host))))
    kubectl.wait_until_ready("reader")
    account = f"system:serviceaccount:{NAMESPACE}:{NAME}"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": account,
            "resourceAttributes": {"group": "storage.k8s.io", "resource": "csidrivers", "verb": "get"},
        },
    }
    answer = json.loads(Kubectl()("create", "-f", "-", "-o", "json", text=json.dumps(review)))
    there = release.kubectl.exec(
        release.pod, "sh", "-c", f"test -e {_TOKEN_FILE} && echo yes || echo no", container=NAME
    )

    assert "no" == there.strip()
    assert not answer["status"]["allowed"]
