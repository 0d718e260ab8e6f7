"""The other ways to a model: volumes that an admin made, parts of a volume, users that are not root, and what kubelet measures."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from modelcsi.mount.table import read_mount_table
from tests.cluster.claims import claim, static_volume
from tests.cluster.kubectl import Kubectl, Object, eventually, run
from tests.cluster.node import KUBELET, Node
from tests.cluster.pods import IMAGE, MOUNT_PATH, claimed, hashing, inline, pod, seen
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import Release
from tests.integration.models import MIB, Model, promised

_STATS_SECONDS = 150.0
"""kubelet measures volumes once a minute, give or take."""
_KUBELET_CONFIG = Path("/run/node/kubelet.yaml")
_RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 2000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CHANGES = ("touch new", "rm tokenizer/vocab.txt", "chmod 0777 tokenizer", "mkdir tokenizer/new")
_CHANGE = f"cd {MOUNT_PATH}; " + "; ".join(f"{change} 2>&1 | grep -c 'Read-only file system'" for change in _CHANGES)
_REFUSALS = "1\n" * len(_CHANGES)

MakeVolume = Callable[..., str]


@pytest.fixture
def make_volume(driver: Release) -> Iterator[MakeVolume]:
    """Makes static PersistentVolumes of these attributes, which go with the test. Name it before `kubectl`."""
    with ExitStack() as stack:

        def make(name: str, attributes: dict[str, str], **options: Any) -> str:
            Kubectl().apply(static_volume(name, attributes, **options))
            stack.callback(Kubectl().delete, "persistentvolume", name)
            return name

        yield make


def test_pods_and_claims_of_one_model_share_it(
    driver: Release, make_volume: MakeVolume, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """Five pods at once, three by one volume and two by another: each sees the model, which comes once."""
    model = registry.push_new(kubectl.namespace, 4 * MIB, MIB)
    traffic, where = registry.traffic(), driver.its_node
    names = {"a": ("a1", "a2", "a3"), "b": ("b1", "b2")}
    objects: list[Object] = []
    for suffix, pods in names.items():
        volume = make_volume(f"{kubectl.namespace}-{suffix}", {"modelRef": model.at(registry.host)})
        objects += [claim(suffix, volume=volume), *(pod(name, claimed(suffix), **where) for name in pods)]
    kubectl.apply(*objects)
    all_pods = [name for pods in names.values() for name in pods]
    kubectl.wait_until_ready(*all_pods)

    assert [promised(model.files)] * 5 == [seen(kubectl.exec(name, *hashing())) for name in all_pods]
    assert Counter(map(str, model.layers)) == traffic.served(model.repository)


def test_pod_of_a_shared_volume_leaves_the_others_alone(
    driver: Release, make_volume: MakeVolume, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """The volume of the pod that goes is unpublished at its own place only; after the last, nothing is left."""
    model = registry.push_new(kubectl.namespace, MIB)
    volume = make_volume(kubectl.namespace, {"modelRef": model.at(registry.host)})
    kubectl.apply(claim("model", volume=volume), pod("goes", claimed("model")), pod("stays", claimed("model")))
    kubectl.wait_until_ready("goes", "stays")
    both = len(node.volumes())
    kubectl.delete("pod", "goes")
    eventually(lambda: len(node.volumes()) < both, "the volume of the pod that goes is gone")

    assert promised(model.files) == seen(kubectl.exec("stays", *hashing()))

    kubectl.delete("pod", "stays")
    node.assert_nothing_left()


def _mounts(**spec: Any) -> dict[str, Any]:
    return {"name": "model", "mountPath": MOUNT_PATH, "readOnly": True, **spec}


def _container(name: str, *mounts: dict[str, Any], **spec: Any) -> dict[str, Any]:
    command = ["sleep", "86400"]
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "volumeMounts": list(mounts),
        **spec,
    }


def _volumes(model: Model, registry: ClusterRegistry, make_volume: MakeVolume, kubectl: Kubectl) -> dict[str, Object]:
    """One model as an inline volume and as a claim."""
    reference = model.at(registry.host)
    kubectl.apply(claim("model", volume=make_volume(kubectl.namespace, {"modelRef": reference})))
    return {"inline": inline(reference), "claimed": claimed("model")}


def test_containers_show_parts_of_a_volume(
    driver: Release, make_volume: MakeVolume, registry: ClusterRegistry, node: Node, kubectl: Kubectl
) -> None:
    """Each container of a pod has its own `subPath`, `subPathExpr` or all of the model; kubelet takes the parts away with the pod."""
    model = registry.push_new(kubectl.namespace, MIB)
    directory = {"vocab.txt": model.files["tokenizer/vocab.txt"]}
    variable = {"name": "PART", "value": "tokenizer"}
    containers = [
        _container("all", _mounts()),
        _container("directory", _mounts(subPath="tokenizer")),
        _container("file", _mounts(subPath="tokenizer/vocab.txt", mountPath=f"{MOUNT_PATH}/vocab.txt")),
        _container("expression", _mounts(subPathExpr="$(PART)"), env=[variable]),
    ]
    volumes = _volumes(model, registry, make_volume, kubectl)
    kubectl.apply(*(pod(name, volume, containers=containers) for name, volume in volumes.items()))
    kubectl.wait_until_ready(*volumes)
    shown = {
        (name, part): seen(kubectl.exec(name, *hashing(), container=part))
        for name in volumes
        for part in ("all", "directory", "file", "expression")
    }
    expected = {"all": model.files, "directory": directory, "file": directory, "expression": directory}

    assert {(name, part): promised(files) for name in volumes for part, files in expected.items()} == shown

    kubectl.delete("pod", *volumes)
    node.assert_nothing_left()

    assert [] == [mount.mount_point for mount in read_mount_table() if "/volume-subpaths/" in mount.mount_point]
    assert [] == list((KUBELET / "pods").glob("*/volume-subpaths/*"))


def test_part_that_is_not_there_is_named(driver: Release, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """kubelet cannot make a directory in a model: the pod's event names the mount."""
    model = registry.push_new(kubectl.namespace, MIB)
    container = _container("reader", _mounts(subPath="tokeniser"))
    kubectl.apply(pod("reader", inline(model.at(registry.host)), containers=[container]))
    event = kubectl.eventually_event("reader", "Failed")

    assert 'volumeMount "model"' in event.message


def test_volume_is_read_only_whatever_the_pod_says(
    driver: Release, make_volume: MakeVolume, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """`readOnly` missing, false or true, in the volume and in the mount: root reads the model, and can change nothing of it."""
    model = registry.push_new(kubectl.namespace, MIB)
    volumes = _volumes(model, registry, make_volume, kubectl)
    pods = [
        _pod_that_says(said, kind, volume)
        for kind, volume in volumes.items()
        for said in ({}, {"readOnly": False}, {"readOnly": True})
    ]
    kubectl.apply(*pods)
    names = [item["metadata"]["name"] for item in pods]
    kubectl.wait_until_ready(*names)

    assert [promised(model.files)] * len(names) == [seen(kubectl.exec(name, *hashing())) for name in names]
    assert dict.fromkeys(names, _REFUSALS) == {name: kubectl.exec(name, "sh", "-c", _CHANGE) for name in names}


def _pod_that_says(said: Mapping[str, bool], kind: str, volume: Mapping[str, Any]) -> dict[str, Any]:
    """A pod with a volume whose readOnly, and that of its mount, is as `said`."""
    key = {"inline": "csi", "claimed": "persistentVolumeClaim"}[kind]
    source = {name: value for name, value in volume[key].items() if name != "readOnly"}
    mount = {"name": "model", "mountPath": MOUNT_PATH, **said}
    name = "-".join([kind, *(str(value).lower() for value in said.values())])
    return pod(name, {"name": "model", key: {**source, **said}}, containers=[_container("reader", mount)])


def test_every_access_mode_reads(
    driver: Release, make_volume: MakeVolume, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """Volumes written for the upstream driver, or by habit, have modes that write; they are mounted, read-only."""
    model = registry.push_new(kubectl.namespace, MIB)
    attributes = {"modelRef": model.at(registry.host)}
    modes = {"rwo": "ReadWriteOnce", "rwx": "ReadWriteMany", "rwop": "ReadWriteOncePod", "rox": "ReadOnlyMany"}
    for name, mode in modes.items():
        volume = make_volume(f"{kubectl.namespace}-{name}", attributes, mode=mode, readOnly=False)
        kubectl.apply(claim(name, volume=volume, mode=mode), pod(name, claimed(name)))
    kubectl.wait_until_ready(*modes)

    assert [promised(model.files)] * len(modes) == [seen(kubectl.exec(name, *hashing())) for name in modes]


def test_user_that_is_not_root_reads(
    driver: Release, make_volume: MakeVolume, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """A pod of the restricted profile, with an fsGroup that kubelet leaves alone: files are everybody's to read."""
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted")
    model = registry.push_new(kubectl.namespace, MIB)
    volumes = _volumes(model, registry, make_volume, kubectl)
    unprivileged = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    containers = [_container("reader", _mounts(), securityContext=unprivileged)]
    kubectl.apply(
        *(pod(name, volume, containers=containers, securityContext=_RESTRICTED) for name, volume in volumes.items())
    )
    kubectl.wait_until_ready(*volumes)

    for name in volumes:
        assert kubectl.exec(name, "id", "-u").strip() == "65532"
        assert promised(model.files) == seen(kubectl.exec(name, *hashing()))


def _measured(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """What kubelet says of the volume of a pod; empty before it has measured it."""
    summary = json.loads(_kubelet_says(kubectl, name, "stats/summary"))
    reference = {"name": name, "namespace": kubectl.namespace}
    volumes = [
        volume
        for item in summary["pods"]
        if reference.items() <= item["podRef"].items()
        for volume in item.get("volume", [])
    ]
    found = [volume for volume in volumes if volume["name"] == "model"]
    return found[0] if found else {}


def _kubelet_says(kubectl: Kubectl, name: str, path: str) -> str:
    """What the kubelet of a pod's node serves."""
    node = kubectl.get("pod", name)["spec"]["nodeName"]
    return Kubectl()("get", "--raw", f"/api/v1/nodes/{node}/proxy/{path}")


def test_kubelet_measures_the_model(
    driver: Release, make_volume: MakeVolume, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """The volume statistics of kubelet (and so `kubelet_volume_stats_*` of a claim) are the model's size and number of inodes."""
    model = registry.push_new(kubectl.namespace, 3 * MIB)
    volumes = _volumes(model, registry, make_volume, kubectl)
    kubectl.apply(*(pod(name, volume) for name, volume in volumes.items()))
    kubectl.wait_until_ready(*volumes)
    eventually(lambda: all(_measured(kubectl, name) for name in volumes), "kubelet measures both", _STATS_SECONDS)
    sizes = {name: _measured(kubectl, name) for name in volumes}
    metrics = _kubelet_says(kubectl, "claimed", "metrics")
    inodes = len(model.files) + 1  # and a directory
    labels = f'{{namespace="{kubectl.namespace}",persistentvolumeclaim="model"}}'

    assert {(model.size_bytes, inodes)} == {(volume["usedBytes"], volume["inodesUsed"]) for volume in sizes.values()}
    assert {"name": "model", "namespace": kubectl.namespace} == sizes["claimed"]["pvcRef"]
    assert re.search(rf"^kubelet_volume_stats_inodes_used{re.escape(labels)} {inodes}$", metrics, re.MULTILINE)


@pytest.fixture
def kubelet_that_asks_for_conditions(node: Node) -> Iterator[None]:
    """Its alpha gate for the health of volumes, for one test."""
    text = _KUBELET_CONFIG.read_text()
    node.stop("kubelet")
    _KUBELET_CONFIG.write_text(f"{text}featureGates: {{CSIVolumeHealth: true}}\n")
    node.start("kubelet")
    yield
    node.stop("kubelet")
    _KUBELET_CONFIG.write_text(text)
    node.start("kubelet")


def test_kubelet_tells_the_pod_of_an_abnormal_volume(
    driver: Release,
    registry: ClusterRegistry,
    node: Node,
    kubelet_that_asks_for_conditions: None,
    kubectl: Kubectl,
) -> None:
    """Where kubelet asks for the condition of volumes, the pod's events say that somebody took its mount away."""
    model = registry.push_new(kubectl.namespace, MIB)
    kubectl.apply(pod("reader", inline(model.at(registry.host))))
    kubectl.wait_until_ready("reader")
    (target,) = [path for path in node.volumes() if path.endswith("/mount")]
    run("umount", target)
    event = kubectl.eventually_event("reader", "VolumeConditionAbnormal", _STATS_SECONDS)

    assert "not mounted" in event.message
