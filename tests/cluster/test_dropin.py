"""A deployment of the upstream driver moves over: by the image alone, then by `helm upgrade`, with volumes in use all the time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.chart import values_of
from tests.cluster.claims import claim, static_volume
from tests.cluster.kubectl import CommandFailed, Kubectl, eventually
from tests.cluster.pods import claimed, hashing, pod, seen
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import IMAGE, NAME, Release
from tests.cluster.upstream import chart as upstream
from tests.integration.driver import SERVICE_NAME
from tests.integration.models import MIB, Model, promised


@pytest.fixture
def upstreams(release: Release, tmp_path: Path) -> Iterator[Release]:
    """Upstream's release with our image, ready. Name it before `kubectl`."""
    release.uninstall()
    directory = tmp_path / "chart"
    directory.mkdir()
    upstream.install(directory)
    release.wait_until_ready()
    yield release
    release.uninstall()


def _inline(**attributes: str) -> dict[str, Any]:
    """An inline volume as upstream's users write it; attributes in kebab-case, with `_` for `-`."""
    prefixed = {f"{SERVICE_NAME}/{name.replace('_', '-')}": value for name, value in attributes.items()}
    return {"name": "model", "csi": {"driver": SERVICE_NAME, "volumeAttributes": prefixed}}


def _provisioned(name: str, reference: str, of_node: Mapping[str, Any]) -> dict[str, Any]:
    """A PersistentVolume as upstream's provisioner made it: of one node, with the class's parameters and the node's address."""
    attributes = {"type": "image", "reference": reference, "node-ip": "192.0.2.1"}
    volume = static_volume(
        name,
        {f"{SERVICE_NAME}/{key}": value for key, value in attributes.items()}
        | {"storage.kubernetes.io/csiProvisionerIdentity": f"1-2-{SERVICE_NAME}"},
        volumeHandle=name,
    )
    ((label, node),) = of_node["nodeSelector"].items()
    terms = [{"matchExpressions": [{"key": label, "operator": "In", "values": [node]}]}]
    volume["spec"]["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
    return volume


@pytest.fixture
def old_volume(upstreams: Release) -> Iterator[str]:
    """The name for a PersistentVolume of the test, which goes with it."""
    name = "pvc-8d6c7ef4-0000-4000-8000-000000000000"
    yield name
    Kubectl().delete("persistentvolume", name)


def _reads(kubectl: Kubectl, name: str, model: Model) -> bool:
    return promised(model.files) == seen(kubectl.exec(name, *hashing()))


def test_image_in_upstreams_deployment(
    upstreams: Release, old_volume: str, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """Upstream's command line, configuration, docker config, probe and registrar: inline volumes and its PersistentVolumes are mounted;
    what would be a dynamic volume there says what to enable here.
    """
    model = registry.push_new(kubectl.namespace, MIB)
    reference = model.at(registry.host)
    kubectl.apply(_provisioned(old_volume, reference, upstreams.its_node), claim("old", volume=old_volume))
    volumes = {
        "inline": _inline(reference=reference),
        "filtered": _inline(reference=reference, exclude_model_weights="true", exclude_file_patterns='["*.bin"]'),
        "claimed": claimed("old"),
    }
    kubectl.apply(*(pod(name, volume) for name, volume in volumes.items()), pod("dynamic", _inline()))
    kubectl.wait_until_ready(*volumes)
    vocabulary = {"tokenizer/vocab.txt": model.files["tokenizer/vocab.txt"]}
    (driver,) = upstreams.kubectl.get("pod", upstreams.pod)["spec"]["containers"][1:]

    assert (NAME, {"stat", "/csi/csi.sock"}) == (driver["name"], set(driver["livenessProbe"]["exec"]["command"]))
    assert _reads(kubectl, "inline", model)
    assert promised(vocabulary) == seen(kubectl.exec("filtered", *hashing()))
    assert _reads(kubectl, "claimed", model)
    assert "the volume has no modelRef" in kubectl.eventually_event("dynamic", "FailedMount").message


def test_upgrade_with_volumes_in_use(
    upstreams: Release, old_volume: str, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """`helm upgrade` with a user's values for the upstream chart, and `helm rollback`: pods keep reading, new ones mount, all can go."""
    model = registry.push_new(kubectl.namespace, MIB)
    reference = model.at(registry.host)
    kubectl.apply(_provisioned(old_volume, reference, upstreams.its_node), claim("old", volume=old_volume))
    where = upstreams.its_node
    kubectl.apply(pod("inline", _inline(reference=reference), **where), pod("claimed", claimed("old")))
    kubectl.wait_until_ready("inline", "claimed")
    daemonset = upstreams.kubectl.get("daemonset", NAME)["metadata"]["uid"]

    upstreams.ensure(upstream.values(values_of("upstream")))
    kubectl.apply(pod("new", _inline(reference=reference), **where))
    kubectl.wait_until_ready("new")

    assert [True] * 3 == [_reads(kubectl, name, model) for name in ("inline", "claimed", "new")]
    assert daemonset == upstreams.kubectl.get("daemonset", NAME)["metadata"]["uid"]

    upstream.rollback()
    upstreams.wait_until_ready()
    kubectl.apply(pod("newest", _inline(reference=reference), **where))
    kubectl.wait_until_ready("newest")

    assert [True] * 4 == [_reads(kubectl, name, model) for name in ("inline", "claimed", "new", "newest")]

    kubectl.delete("pod", "inline", "claimed", "new", "newest")
    eventually(lambda: not upstreams.status()["publications"], "the driver has no publication")


_WORKDIR = "/models-volume"
_USER = {"runAsNonRoot": True, "runAsUser": 65532}


def _dynamic_pod(name: str, **spec: Any) -> dict[str, Any]:
    """A pod with a dynamic volume, where an ordinary user has `model-csi-cli`."""
    document = pod(name, _inline(), securityContext=_USER, **spec)
    (container,) = document["spec"]["containers"]
    container["image"] = IMAGE
    container["volumeMounts"] = [{"name": "model", "mountPath": _WORKDIR}]
    return document


class _Cli:
    """`model-csi-cli` in a pod."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self._kubectl = kubectl
        self._name = name

    def __call__(self, *arguments: str) -> str:
        return self._kubectl.exec(self._name, "/usr/bin/model-csi-cli", "--workdir", _WORKDIR, *arguments)

    def mount(self, mount_id: str, reference: str) -> str:
        return self("mount", "--reference", reference, "--mount-id", mount_id)

    def listed(self) -> list[list[str]]:
        """The rows of the table: mount id, reference, state."""
        return [line.split() for line in self("list").splitlines()[1:]]

    def files(self, mount_id: str) -> dict[str, str]:
        """What the pod sees of a model."""
        command = f"cd {_WORKDIR}/models/{mount_id}/model && find . -type f | sort | xargs sha256sum"
        return seen(self._kubectl.exec(self._name, "sh", "-c", command))


def test_pod_mounts_models_while_it_runs(release: Release, registry: ClusterRegistry, kubectl: Kubectl) -> None:
    """With dynamic mounts enabled a pod's user mounts, reads, lists and unmounts models by upstream's verbs; models stay when the
    driver's pods are replaced, and the verbs work again.
    """
    release.ensure({"config": {"features": {"dynamic_mounts": True}}})
    first = registry.push_new(f"{kubectl.namespace}/first", MIB)
    second = registry.push_new(f"{kubectl.namespace}/second", MIB)
    kubectl.apply(_dynamic_pod("server", **release.its_node))
    kubectl.wait_until_ready("server")
    cli = _Cli(kubectl, "server")

    assert ["m1\n", "m2\n"] == [cli.mount("m1", first.at(registry.host)), cli.mount("m2", second.at(registry.host))]
    assert [promised(first.files), promised(second.files)] == [cli.files("m1"), cli.files("m2")]
    assert [
        ["m1", first.at(registry.host), "PULL_SUCCEEDED"],
        ["m2", second.at(registry.host), "PULL_SUCCEEDED"],
    ] == sorted(cli.listed())

    missing = f"{registry.host}/{kubectl.namespace}/missing:v1"
    with pytest.raises(CommandFailed, match=f"{missing}.*INTERNAL"):
        cli.mount("m3", missing)
    cli("umount", "--mount-id", "m1")
    release.rollout()

    assert promised(second.files) == cli.files("m2")
    assert [["m2", second.at(registry.host), "PULL_SUCCEEDED"]] == cli.listed()
    assert cli.mount("m1", second.at(registry.host)) == "m1\n"
    assert promised(second.files) == cli.files("m1")
    assert "PULL_SUCCEEDED" in kubectl.exec("server", "cat", f"{_WORKDIR}/models/m1/status.json")

    kubectl.delete("pod", "server")
    eventually(lambda: not release.status()["publications"], "the driver has no publication")
