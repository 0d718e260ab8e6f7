"""`helm upgrade` from the upstream chart: what the API server or helm would refuse or lose. The facts about it are data here."""

from __future__ import annotations

import pytest

from tests.cluster.chart import NEEDS_HELM, Manifests, Refused, render, values_of

pytestmark = NEEDS_HELM

_UPSTREAM_OBJECTS = {
    ("ServiceAccount", "model-csi-driver"),
    ("ConfigMap", "model-csi-driver-config"),
    ("DaemonSet", "model-csi-driver"),
    ("CSIDriver", "model.csi.modelpack.org"),
    ("StorageClass", "model-image"),
}
"""Of its release `model-csi-driver`; helm deletes what the new chart does not name, and its docker config is to go."""
_UPSTREAM_MOUNTS = {
    "plugin-dir": "/csi",
    "root-dir": "/var/lib/model-csi",
    "pods-mount-dir": "/var/lib/kubelet/pods",
    "config-dir": "/etc/model-csi-driver",
    "docker-config-dir": "/root/.docker",
}


_IMAGE = {"repository": "registry.example.com/model-csi-driver", "tag": "v1"}


def _upgraded() -> Manifests:
    """What docs/migrating.md says: upstream's values, and this driver's image."""
    values = values_of("upstream")
    return render({**values, "image": {**values["image"], **_IMAGE}}, is_upgrade=True)


def test_upstreams_own_image_is_refused() -> None:
    """It answers no probe of this chart: one node after the other would lose its driver."""
    with pytest.raises(Refused) as refusal:
        render(values_of("upstream"), is_upgrade=True)

    assert "set image.repository and image.tag to this driver's image" in str(refusal.value)


def test_every_object_keeps_its_name() -> None:
    """helm changes objects in place, so that no volume loses its driver meanwhile."""
    names = {(item["kind"], item["metadata"]["name"]) for item in _upgraded().objects}

    assert set() == _UPSTREAM_OBJECTS - names


@pytest.mark.parametrize(
    ("release", "overrides", "name", "label"),
    [
        ("model-csi-driver", {}, "model-csi-driver", "model-csi-driver"),
        ("models", {}, "models-model-csi-driver", "model-csi-driver"),
        ("models", {"nameOverride": "csi"}, "models-csi", "csi"),
        ("models", {"fullnameOverride": "csi"}, "csi", "model-csi-driver"),
    ],
)
def test_selector_of_the_daemonset_is_upstreams(release: str, overrides: dict[str, str], name: str, label: str) -> None:
    """A selector is immutable; no label of ours may get into it."""
    values = {**overrides, "commonLabels": {"example.com/ours": "yes"}}
    daemonset = render(values, release=release).daemonset()
    selector = {"app.kubernetes.io/name": label, "app.kubernetes.io/instance": release}

    assert name == daemonset["metadata"]["name"]
    assert {"matchLabels": selector} == daemonset["spec"]["selector"]
    assert selector.items() <= daemonset["spec"]["template"]["metadata"]["labels"].items()


def test_labels_of_users_do_not_break_the_selector() -> None:
    """A pod label of a selector's name would make the DaemonSet invalid."""
    values = {"podLabels": {"app.kubernetes.io/name": "mine"}, "commonLabels": {"app.kubernetes.io/instance": "mine"}}
    labels = render(values).daemonset()["spec"]["template"]["metadata"]["labels"]

    assert ("model-csi-driver", "model-csi-driver") == (
        labels["app.kubernetes.io/name"],
        labels["app.kubernetes.io/instance"],
    )


def test_daemonset_does_not_select_the_controllers_pods() -> None:
    """A PodMonitor, a NetworkPolicy or a person that selects by the DaemonSet's labels means node pods."""
    manifests = render({"controller": {"enabled": True}})
    selector = manifests.daemonset()["spec"]["selector"]["matchLabels"]
    labels = manifests.one("Deployment")["spec"]["template"]["metadata"]["labels"]

    assert not selector.items() <= labels.items()


def test_immutable_fields_are_upstreams() -> None:
    """attachRequired and volumeLifecycleModes, in its order; of the StorageClass everything but the metadata."""
    manifests = _upgraded()
    driver = manifests.one("CSIDriver")["spec"]
    storage_class = {key: value for key, value in manifests.one("StorageClass").items() if key != "metadata"}

    assert driver["attachRequired"] is False
    assert ["Persistent", "Ephemeral"] == driver["volumeLifecycleModes"]
    assert {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "provisioner": "model.csi.modelpack.org",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    } == storage_class


def test_what_upstreams_users_rely_on_in_the_pod_is_there() -> None:
    """Command, environment, the names of volumes (which `volumeMounts` may use) and their places."""
    driver = _upgraded().driver()
    mounts = {(mount["name"], mount["mountPath"]) for mount in driver["volumeMounts"]}

    assert ["/usr/bin/model-csi-driver", "--config", "/etc/model-csi-driver/config.yaml"] == driver["command"]
    assert ["--log-level", "debug"] == driver["args"]
    assert ["X_CSI_MODE", "CSI_NODE_ID", "POD_IP", "EXAMPLE"] == [variable["name"] for variable in driver["env"]]
    assert _UPSTREAM_MOUNTS.items() <= mounts
    assert ("root-dir", "/mnt/models") in mounts


def test_upstreams_values_have_their_effect() -> None:
    """Image, resources, labels, scheduling, network and update strategy are as the user set them."""
    manifests = _upgraded()
    daemonset, pod = manifests.daemonset(), manifests.node_pod()
    template = daemonset["spec"]["template"]["metadata"]

    assert "registry.example.com/model-csi-driver:v1" == manifests.driver()["image"]
    assert {"cpu": 1, "memory": "1Gi", "ephemeral-storage": "1Gi"} == manifests.driver()["resources"]["limits"]
    assert {"maxUnavailable": "10%", "maxSurge": 0} == daemonset["spec"]["updateStrategy"]["rollingUpdate"]
    assert ("kept", "ml") == (template["annotations"]["example.com/note"], template["labels"]["example.com/team"])
    assert (True, "ClusterFirstWithHostNet") == (pod["hostNetwork"], pod["dnsPolicy"])
    assert ["model-csi-driver"] == [container["name"] for container in pod["containers"]]
    assert "tolerations" not in pod
    assert "hostAliases" not in pod
