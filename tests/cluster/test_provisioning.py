"""Claims of a StorageClass, with the real external-provisioner: nothing is made but names, and any node can pull."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.cluster.claims import READ_ONLY_MANY, SIZE, Classes, claim
from tests.cluster.conftest import MakeNamespace
from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.pods import claimed, deployment, hashing, pod, registry_secret, seen
from tests.cluster.registries import ClusterRegistry, Registries
from tests.cluster.release import Release
from tests.integration.credentials import HTPASSWD, PASSWORD, docker_secret
from tests.integration.driver import SERVICE_NAME
from tests.integration.models import MIB, promised

_WITH_SECRETS = {"controller": {"enabled": True, "provisioner": {"secrets": True}}}
_SECRET = {"name": "registry", "namespace": "${pvc.namespace}"}
_PROVISIONER_SECRET = {f"csi.storage.k8s.io/provisioner-secret-{key}": value for key, value in _SECRET.items()}
_NODE_SECRET = {f"csi.storage.k8s.io/node-publish-secret-{key}": value for key, value in _SECRET.items()}


@pytest.mark.parametrize("binding", ["Immediate", "WaitForFirstConsumer"])
def test_claim_shows_the_model_of_its_class(
    classes: Classes, registry: ClusterRegistry, kubectl: Kubectl, binding: str
) -> None:
    """By our parameters and by upstream's, bound at once or with the first pod; the volume is of any node, and of the claim's size."""
    model = registry.push_new(kubectl.namespace, MIB)
    reference = model.at(registry.host)
    upstreams = {"type": "image", "reference": reference, "check-disk-quota": "true"}
    parameters = {
        "ours": {"modelRef": reference, "pullPolicy": "IfNotPresent"},
        "upstreams": {f"{SERVICE_NAME}/{key}": value for key, value in upstreams.items()},
    }
    names = {key: classes.make(f"{kubectl.namespace}-{key}", parameters[key], binding=binding) for key in parameters}
    kubectl.apply(*(claim(key, name) for key, name in names.items()))
    for key in names:
        if binding == "Immediate":
            kubectl.wait(f"pvc/{key}", "jsonpath={.status.phase}=Bound")
        else:
            kubectl.eventually_event(key, "WaitForFirstConsumer")
    volumes_without_pod = [len(classes.volumes(name)) for name in names.values()]
    kubectl.apply(*(pod(key, claimed(key)) for key in names))
    kubectl.wait_until_ready(*names)
    volumes = [volume["spec"] for name in names.values() for volume in classes.volumes(name)]

    assert [1 if binding == "Immediate" else 0] * 2 == volumes_without_pod
    assert [promised(model.files)] * 2 == [seen(kubectl.exec(key, *hashing())) for key in names]
    assert [([READ_ONLY_MANY], {"storage": SIZE}, None)] * 2 == [
        (volume["accessModes"], volume["capacity"], volume.get("nodeAffinity")) for volume in volumes
    ]


def test_class_chooses_files(classes: Classes, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """Upstream's filters are parameters too; what they leave out is neither shown nor downloaded."""
    model = registry.push_new(kubectl.namespace, MIB)
    parameters = {
        f"{SERVICE_NAME}/type": "image",
        f"{SERVICE_NAME}/reference": model.at(registry.host),
        f"{SERVICE_NAME}/exclude-file-patterns": '["*.safetensors"]',
    }
    kubectl.apply(claim("model", classes.make(kubectl.namespace, parameters)), pod("reader", claimed("model")))
    kubectl.wait_until_ready("reader")
    vocabulary = {"tokenizer/vocab.txt": model.files["tokenizer/vocab.txt"]}

    assert promised(vocabulary) == seen(kubectl.exec("reader", *hashing()))
    assert registry.wire.delivered_bytes < MIB


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({}, "the StorageClass has no modelRef"),
        ({"modelReference": "r.example.com/m:v1"}, "did you mean modelRef?"),
        ({"modelRef": "r.example.com/Models/M:v1"}, "r.example.com/Models/M:v1"),
        ({"modelRef": "r.example.com/m:v1", f"{SERVICE_NAME}/type": "file"}, "must be one of image"),
        ({"modelRef": "r.example.com/m:v1", f"{SERVICE_NAME}/mount-id": "m1"}, "docs/dynamic-mounts.md"),
    ],
)
def test_claim_says_what_is_wrong_with_its_class(
    classes: Classes, kubectl: Kubectl, parameters: dict[str, str], complaint: str
) -> None:
    """`kubectl describe pvc` has the answer, before any pod waits for it."""
    kubectl.apply(claim("model", classes.make(kubectl.namespace, parameters)))
    event = kubectl.eventually_event("model", "ProvisioningFailed")

    assert complaint in event.message
    assert complaint in kubectl.describe("pvc", "model")


def test_claim_of_a_block_device_is_refused(classes: Classes, kubectl: Kubectl) -> None:
    """A model is files."""
    wanted = claim("model", classes.make(kubectl.namespace, {"modelRef": "r.example.com/m:v1"}))
    wanted["spec"]["volumeMode"] = "Block"
    kubectl.apply(wanted)

    assert "volumeMode: Filesystem" in kubectl.eventually_event("model", "ProvisioningFailed").message


def test_pod_says_that_the_model_of_its_claim_is_missing(
    classes: Classes, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """The controller asks no registry, so a claim of a model that is not there is bound; the pod says what is missing."""
    reference = f"{registry.host}/{kubectl.namespace}/missing:v1"
    kubectl.apply(claim("model", classes.make(kubectl.namespace, {"modelRef": reference})))
    kubectl.wait("pvc/model", "jsonpath={.status.phase}=Bound")
    kubectl.apply(pod("reader", claimed("model")))
    event = kubectl.eventually_event("reader", "FailedMount")

    assert "NotFound" in event.message
    assert reference in event.message


def _private_model(registries: Registries, kubectl: Kubectl) -> tuple[ClusterRegistry, str, dict[str, str]]:
    registry = registries.docker(htpasswd=HTPASSWD, password=PASSWORD)
    model = registry.push_new(kubectl.namespace, MIB)
    return registry, model.at(registry.host), promised(model.files)


def test_secret_of_the_class_is_the_volumes(
    classes: Classes, registries: Registries, make_namespace: MakeNamespace, kubectl: Kubectl
) -> None:
    """The namespace of the claim has the secret: its pods read a private model. A namespace without it gets nothing, although the
    bytes are on the node, and is told so.
    """
    registry, reference, files = _private_model(registries, kubectl)
    name = classes.make(kubectl.namespace, {"modelRef": reference, **_NODE_SECRET})
    kubectl.apply(registry_secret("registry", docker_secret(registry.host, PASSWORD)), claim("model", name))
    kubectl.apply(pod("reader", claimed("model")))
    kubectl.wait_until_ready("reader")
    stranger = make_namespace()
    stranger.apply(claim("model", name), pod("reader", claimed("model")))
    event = stranger.eventually_event("reader", "FailedMount")
    (volume,) = [v for v in classes.volumes(name) if v["spec"]["claimRef"]["namespace"] == kubectl.namespace]

    assert files == seen(kubectl.exec("reader", *hashing()))
    assert 'secrets "registry" not found' in event.message
    assert volume["spec"]["csi"]["volumeAttributes"].get("modelRef") == reference
    assert PASSWORD not in str(volume)


def test_wrong_secret_of_the_class_is_refused(classes: Classes, registries: Registries, kubectl: Kubectl) -> None:
    """The pod of the claim says what the registry said."""
    registry, reference, _ = _private_model(registries, kubectl)
    name = classes.make(kubectl.namespace, {"modelRef": reference, **_NODE_SECRET})
    kubectl.apply(registry_secret("registry", docker_secret(registry.host, "wrong")), claim("model", name))
    kubectl.apply(pod("reader", claimed("model")))

    assert "Unauthenticated" in kubectl.eventually_event("reader", "FailedMount").message


def test_secret_of_the_provisioner(classes: Classes, registries: Registries, kubectl: Kubectl) -> None:
    """A class may name a secret for the provisioner, where its admin lets it read secrets; without that the claim says what to allow."""
    registry, reference, files = _private_model(registries, kubectl)
    name = classes.make(kubectl.namespace, {"modelRef": reference, **_PROVISIONER_SECRET, **_NODE_SECRET})
    kubectl.apply(registry_secret("registry", docker_secret(registry.host, PASSWORD)), claim("model", name))
    refused = kubectl.eventually_event("model", "ProvisioningFailed")
    classes.driver.ensure(_WITH_SECRETS)
    kubectl.apply(pod("reader", claimed("model")))
    kubectl.wait_until_ready("reader")

    assert "cannot get resource" in refused.message
    assert "secrets" in refused.message
    assert files == seen(kubectl.exec("reader", *hashing()))


def _pods(kubectl: Kubectl, app: str) -> set[str]:
    return {item["metadata"]["name"] for item in kubectl.listed("pods", f"app={app}")}


def _roll_out(kubectl: Kubectl, app: str) -> None:
    kubectl("rollout", "status", f"deployment/{app}", "--timeout=90s", seconds=120)


def test_rollout_of_a_deployment_downloads_nothing(
    classes: Classes, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """Three replicas of one claim: one download. Rolled over, the claim deleted, and a new one made: none."""
    model = registry.push_new(kubectl.namespace, 4 * MIB, MIB)
    name = classes.make(kubectl.namespace, {"modelRef": model.at(registry.host)}, binding="WaitForFirstConsumer")
    first_traffic, where = registry.traffic(), classes.driver.its_node
    kubectl.apply(claim("model", name), deployment("server", claimed("model"), replicas=3, **where))
    _roll_out(kubectl, "server")
    first = _pods(kubectl, "server")

    assert Counter(map(str, model.layers)) == first_traffic.served(model.repository)

    later_traffic = registry.traffic()
    kubectl("rollout", "restart", "deployment/server")
    _roll_out(kubectl, "server")
    eventually(lambda: sorted(_pods(kubectl, "server")) == _users(classes.driver, kubectl), "the old pods are gone")
    second = _pods(kubectl, "server")

    assert set() == first & second
    assert [promised(model.files)] * 3 == [seen(kubectl.exec(pod_name, *hashing())) for pod_name in second]
    assert len(second) == 3

    stored_bytes = classes.driver.cache()["stored_bytes"]
    kubectl.delete("deployment", "server")
    kubectl.delete("pvc", "model")
    classes.wait_until_no_volumes(name)
    left_bytes = classes.driver.cache()["stored_bytes"]
    kubectl.apply(claim("again", name), pod("again", claimed("again"), **where))
    kubectl.wait_until_ready("again")

    assert stored_bytes == left_bytes  # a claim's end takes nothing from the node's store
    assert Counter() == later_traffic.served(model.repository)


def _users(driver: Release, kubectl: Kubectl) -> list[str]:
    """The pods of a namespace that have a volume, by the account of the driver on their node."""
    rows: list[dict[str, Any]] = driver.status()["publications"]
    found = [row["pod"].rpartition("/") for row in rows]
    return sorted(name for namespace, _, name in found if namespace == kubectl.namespace)


def test_claim_waits_for_the_controller_and_finds_it(
    classes: Classes, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """The controller keeps nothing: a new one serves claims made while there was none, and deletes volumes that the last one made."""
    model = registry.push_new(kubectl.namespace, MIB)
    name = classes.make(kubectl.namespace, {"modelRef": model.at(registry.host)})
    kubectl.apply(claim("old", name))
    kubectl.wait("pvc/old", "jsonpath={.status.phase}=Bound")
    classes.stop_controller()
    kubectl.apply(claim("new", name))
    kubectl.delete("pvc", "old")
    classes.start_controller()
    kubectl.wait("pvc/new", "jsonpath={.status.phase}=Bound")
    eventually(lambda: len(classes.volumes(name)) == 1, "the volume of the old claim is gone")

    assert [("new", "Bound")] == [
        (volume["spec"]["claimRef"]["name"], volume["status"]["phase"]) for volume in classes.volumes(name)
    ]


def test_kept_volume_stays_when_its_claim_goes(classes: Classes, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """With `reclaimPolicy: Retain` the volume is released, and is the admin's to delete."""
    model = registry.push_new(kubectl.namespace, MIB)
    name = classes.make(kubectl.namespace, {"modelRef": model.at(registry.host)}, reclaim="Retain")
    kubectl.apply(claim("model", name))
    kubectl.wait("pvc/model", "jsonpath={.status.phase}=Bound")
    kubectl.delete("pvc", "model")
    eventually(
        lambda: ["Released"] == [volume["status"]["phase"] for volume in classes.volumes(name)],
        "the volume is released",
    )
