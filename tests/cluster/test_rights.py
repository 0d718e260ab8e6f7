"""What the chart's accounts may do at a real API server: enough for all that they do, and no more."""

from __future__ import annotations

import json

import pytest

from tests.cluster.claims import Classes, claim
from tests.cluster.kubectl import Kubectl
from tests.cluster.pods import claimed, inline, pod
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import NAME, NAMESPACE, Release
from tests.integration.models import MIB

_TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
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


def test_driver_without_features_works_without_token(
    driver: Release, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """With everything off that asks the API server, the account has no rights, the pod no token, and volumes are mounted."""
    driver.ensure({"config": {"kubernetes": {"events": False, "watch_pods": False}}})
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
    there = driver.kubectl.exec(driver.pod, "sh", "-c", f"test -e {_TOKEN_FILE} && echo yes || echo no", container=NAME)

    assert "no" == there.strip()
    assert not answer["status"]["allowed"]
