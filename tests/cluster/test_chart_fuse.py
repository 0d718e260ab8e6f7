"""The chart's second DaemonSet, which keeps lazy mounts alive while the driver is replaced."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.cluster.chart import NEEDS_HELM, Manifests, Object, Refused, render, values_of

pytestmark = NEEDS_HELM

_FUSE = "model-csi-fuse"
_EVERYTHING = values_of("everything")


def _pod(manifests: Manifests) -> Object:
    spec = manifests.daemonset(_FUSE)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def _labels_of_pods(manifests: Manifests, container: str) -> dict[str, str]:
    labels = manifests.daemonset(container)["spec"]["template"]["metadata"]["labels"]
    assert isinstance(labels, dict)
    return labels


def test_its_pods_are_replaced_by_hand_only() -> None:
    """An upgrade of the driver must not touch what readers depend on, whatever strategy the driver has."""
    manifests = render({"updateStrategy": {"type": "RollingUpdate"}})

    assert {"type": "OnDelete"} == manifests.daemonset(_FUSE)["spec"]["updateStrategy"]


@pytest.mark.parametrize("kind", ["driver", "controller"])
def test_no_selector_takes_pods_of_the_other(kind: str) -> None:
    """Two DaemonSets, a Deployment: whoever selects by the labels of one means that one."""
    manifests = render({"controller": {"enabled": True}, "nameOverride": "n" * 63})
    other = manifests.daemonset() if kind == "driver" else manifests.one("Deployment")
    ours = manifests.daemonset(_FUSE)["spec"]
    selectors = [spec["selector"]["matchLabels"] for spec in (other["spec"], ours)]
    labels = [spec["template"]["metadata"]["labels"] for spec in (ours, other["spec"])]

    assert [False, False] == [a.items() <= b.items() for a, b in zip(selectors, labels, strict=True)]
    assert selectors[1].items() <= labels[0].items()


@pytest.mark.parametrize("values", [{}, _EVERYTHING], ids=["default", "everything"])
def test_it_is_wherever_the_driver_is(values: dict[str, Any]) -> None:
    """A node with the driver and without its companion would mount nothing lazily."""
    manifests = render(values)
    names = ("nodeSelector", "tolerations", "affinity", "priorityClassName", "imagePullSecrets", "serviceAccountName")
    driver = manifests.node_pod()

    assert {name: driver.get(name) for name in names} == {name: _pod(manifests).get(name) for name in names}
    assert manifests.driver()["image"] == _pod(manifests)["containers"][0]["image"]


@pytest.mark.parametrize("values", [{}, _EVERYTHING], ids=["default", "everything"])
def test_it_sees_the_store_where_the_driver_does(values: dict[str, Any]) -> None:
    """Both find sockets and content by the same path of the same configuration; nothing else of the node is there."""
    manifests = render(values)
    volumes = [{volume["name"]: volume for volume in pod["volumes"]} for pod in (manifests.node_pod(), _pod(manifests))]
    mounts = [
        {mount["name"]: mount for mount in container["volumeMounts"]}
        for container in (manifests.driver(), _pod(manifests)["containers"][0])
    ]
    root = yaml.safe_load(manifests.config())["root_dir"]

    assert {"root-dir", "config-dir"} == set(volumes[1])
    assert volumes[1].items() <= volumes[0].items()
    assert mounts[0]["config-dir"] == mounts[1]["config-dir"]
    assert root == mounts[1]["root-dir"]["mountPath"] == volumes[1]["root-dir"]["hostPath"]["path"]


def test_it_has_no_token_no_port_and_no_network() -> None:
    """It is told what to do by the driver alone, through a socket in the store."""
    manifests = render(_EVERYTHING)
    (container,) = _pod(manifests)["containers"]
    policies = {item["metadata"]["name"]: item["spec"] for item in manifests.of("NetworkPolicy")}
    policy = policies[manifests.daemonset(_FUSE)["metadata"]["name"]]

    assert _pod(manifests)["automountServiceAccountToken"] is False
    assert not {"ports", "hostNetwork"} & (container.keys() | _pod(manifests).keys())
    assert {"policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []}.items() <= policy.items()
    assert policy["podSelector"]["matchLabels"].items() <= _labels_of_pods(manifests, _FUSE).items()
    assert not policy["podSelector"]["matchLabels"].items() <= _labels_of_pods(manifests, "model-csi-driver").items()


def test_driver_never_runs_it_in_its_own_pod() -> None:
    """There it would end with the driver, and every lazy mount with it."""
    assert "external" == yaml.safe_load(render().config())["fuse"]["holder"]


def test_without_it_the_driver_mounts_nothing_lazily() -> None:
    """Rather than wait for a holder that never comes; whatever adapter was asked for."""
    manifests = render({"lazy": {"enabled": False}, "config": {"fuse": {"adapter": "pyfuse3"}}})

    assert ["model-csi-driver"] == [item["metadata"]["name"] for item in manifests.of("DaemonSet")]
    assert "none" == yaml.safe_load(manifests.config())["fuse"]["adapter"]


def test_section_arrives_as_it_is() -> None:
    """`config.fuse` and `config.extra.fuse` are config.yaml's `fuse`."""
    values = {
        "config": {"fuse": {"adapter": "pyfuse3", "verify": "complete"}, "extra": {"fuse": {"read_timeout": "60s"}}}
    }
    section = {"adapter": "pyfuse3", "verify": "complete", "read_timeout": "60s", "holder": "external"}

    assert section == yaml.safe_load(render(values).config())["fuse"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"fuse": {"holder": "managed"}}, "config.fuse.holder: the chart decides it"),
        ({"extra": {"fuse": {"holder": "managed"}}}, "config.fuse.holder: the chart decides it"),
        ({"fuse": {"adapter": "nfs"}}, "/config/fuse/adapter"),
        ({"fuse": {"read_timeout": "soon"}}, "/config/fuse/read_timeout"),
    ],
)
def test_section_that_cannot_be_is_refused(config: dict[str, Any], words: str) -> None:
    """Before anything is installed, by its name."""
    with pytest.raises(Refused) as refusal:
        render({"config": config})

    assert words in str(refusal.value)


def test_constraints_of_openshift_follow() -> None:
    """No capability is allowed for what is not there."""
    values = {"openshift": {"enabled": True}, "lazy": {"enabled": False}}

    assert [] == render(values).one("SecurityContextConstraints")["allowedCapabilities"]
