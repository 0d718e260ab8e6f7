"""What the chart's pods may do: at the API server, and on the node."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.chart import NEEDS_HELM, Object, render, values_of

pytestmark = NEEDS_HELM

_ALWAYS = {("csidrivers", "get")}
"""Of a driver that asks the API server anything."""
_EVENTS = {("events", "create"), ("events", "patch")}
_PODS = {("pods", "get")}
_SECRETS = {("secrets", "get"), ("serviceaccounts", "get")}
_NODES = {("nodes", "get"), ("nodes", "patch")}
_PROVISIONED = ("persistentvolumes", "persistentvolumeclaims", "storageclasses")


@pytest.mark.parametrize(
    ("kubernetes", "rights"),
    [
        ({}, _ALWAYS | _EVENTS | _PODS),
        ({"watch_pods": False}, _ALWAYS | _EVENTS),
        ({"events": False}, _ALWAYS | _PODS),
        ({"events": False, "watch_pods": False, "pull_secrets": True}, _ALWAYS | _PODS | _SECRETS),
        ({"events": False, "watch_pods": False, "node_labels": 3}, _ALWAYS | _NODES),
    ],
)
def test_rights_of_the_node_are_those_of_the_features(kubernetes: dict[str, Any], rights: set[tuple[str, str]]) -> None:
    """Each feature that is on adds what it needs; nobody lists or watches anything."""
    manifests = render({"config": {"kubernetes": kubernetes}})

    assert rights == manifests.rules("ClusterRole", "model-csi-driver")
    assert [] == manifests.of("Role")


@pytest.mark.parametrize("kubernetes", [{"events": False, "watch_pods": False}, {"kubeconfig": "/etc/kubeconfig"}])
def test_account_that_asks_nothing_has_no_rights(kubernetes: dict[str, Any]) -> None:
    """With everything off, or asked as somebody else, there is no role."""
    manifests = render({"config": {"kubernetes": kubernetes}})

    assert [] == manifests.of("ClusterRole") == manifests.of("ClusterRoleBinding")


def test_right_to_patch_nodes_comes_with_the_policy_that_narrows_it() -> None:
    """Bound, denying, for the account that has the right; tests/cluster/test_rights.py shows what it lets through."""
    manifests = render({"config": {"kubernetes": {"node_labels": 3}}, "serviceAccount": {"name": "driver"}})
    policy, binding = manifests.one("ValidatingAdmissionPolicy"), manifests.one("ValidatingAdmissionPolicyBinding")
    (condition,) = policy["spec"]["matchConditions"]

    assert 'request.userInfo.username == "system:serviceaccount:model-csi:driver"' == condition["expression"]
    assert (policy["metadata"]["name"], ["Deny"]) == (
        binding["spec"]["policyName"],
        binding["spec"]["validationActions"],
    )
    assert [] == render().of("ValidatingAdmissionPolicy")


def test_feature_that_is_switched_on_by_extra_gets_its_rights() -> None:
    """Rights follow the file that the driver reads, not the value it came from."""
    manifests = render({"config": {"extra": {"kubernetes": {"pull_secrets": True}}}})

    assert manifests.rules("ClusterRole", "model-csi-driver") >= _SECRETS


def test_only_its_own_csidriver_is_readable() -> None:
    """The one right that comes with every feature is for one object."""
    rules = render({"config": {"serviceName": "a.example.com"}}).one("ClusterRole")["rules"]

    assert [["a.example.com"]] == [rule["resourceNames"] for rule in rules if rule["resources"] == ["csidrivers"]]


def test_controller_has_what_the_provisioner_uses() -> None:
    """What its sources ask for; tests/cluster/test_rights.py shows that it suffices. Secrets only when asked for."""
    values = {"controller": {"enabled": True}}
    name = "model-csi-driver-controller"
    rights = render(values).rules("ClusterRole", name)
    values["controller"]["provisioner"] = {"secrets": True}  # type: ignore[assignment]
    read = {(what, verb) for what in _PROVISIONED for verb in ("list", "watch")}
    written = {("persistentvolumes", verb) for verb in ("create", "patch", "delete")}

    assert read | written | _EVENTS == rights
    assert {("secrets", "get")} == render(values).rules("ClusterRole", name) - rights
    assert {("leases", verb) for verb in ("get", "create", "update")} == render(values).rules("Role", name)


def test_every_binding_is_of_an_account_that_a_pod_has() -> None:
    """Subjects of the bindings and the pods' service accounts are the same."""
    manifests = render(values_of("everything"))
    bindings = [*manifests.of("ClusterRoleBinding"), *manifests.of("RoleBinding")]
    bound = {(subject["namespace"], subject["name"]) for item in bindings for subject in item["subjects"]}
    pods = [item["spec"]["template"]["spec"] for kind in ("DaemonSet", "Deployment") for item in manifests.of(kind)]
    made = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in manifests.of("ServiceAccount")}

    assert {("model-csi", "driver"), ("model-csi", "controller")} == bound
    assert {"driver", "controller"} == {pod["serviceAccountName"] for pod in pods}
    assert bound == made


_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def test_token_is_where_it_is_used() -> None:
    """Of all containers only the driver on nodes and the provisioner ask the API server."""
    values = values_of("everything")
    holders = {
        name
        for name, container in _containers(values).items()
        if _TOKEN in {mount["mountPath"] for mount in container["volumeMounts"]}
    }
    pods = [
        item["spec"]["template"]["spec"] for kind in ("DaemonSet", "Deployment") for item in render(values).of(kind)
    ]

    assert {"model-csi-driver", "csi-provisioner"} == holders
    assert 3 * [False] == [pod["automountServiceAccountToken"] for pod in pods]


@pytest.mark.parametrize(
    ("config", "is_there"),
    [
        ({"kubernetes": {"events": False, "watch_pods": False}}, False),
        ({"kubernetes": {"events": True, "watch_pods": False}}, True),
        ({"kubernetes": {"events": True, "kubeconfig": "/etc/kubeconfig"}}, False),
        ({"kubernetes": {"events": False, "watch_pods": False}, "registry": {"node_credentials": {}}}, True),
        (
            {
                "kubernetes": {"events": False, "watch_pods": False},
                "registry": {"service_account_tokens": [{"registries": ["a.example.com"]}]},
            },
            True,
        ),
    ],
)
def test_driver_that_asks_nothing_has_no_token(config: dict[str, Any], is_there: bool) -> None:
    """With every feature off, or another way to the API server, there is nothing to steal."""
    manifests = render({"config": config})

    assert is_there == (_TOKEN in {mount["mountPath"] for mount in manifests.driver()["volumeMounts"]})
    assert is_there == ("api-access" in {volume["name"] for volume in manifests.node_pod()["volumes"]})


def test_only_the_driver_on_nodes_is_privileged() -> None:
    """Every other container runs without capabilities, but for what passthrough takes; no container writes to its own root."""
    containers = _containers(values_of("everything"))
    contexts = {name: container["securityContext"] for name, container in containers.items()}
    on_nodes = {"model-csi-driver", "model-csi-fuse"}
    others = {name: context for name, context in contexts.items() if name not in on_nodes}

    assert {"model-csi-controller", "csi-provisioner", "model-csi-driver-registrar", "liveness-probe", "test"} == set(
        others
    )
    assert contexts["model-csi-driver"]["privileged"] is True
    assert {"drop": ["ALL"], "add": ["SYS_ADMIN"]} == contexts["model-csi-fuse"]["capabilities"]
    assert "privileged" not in contexts["model-csi-fuse"]
    assert all(context["readOnlyRootFilesystem"] for context in contexts.values())
    assert all(["ALL"] == context["capabilities"]["drop"] for context in others.values())
    assert not any(context["allowPrivilegeEscalation"] for context in others.values())


def test_controller_is_a_user_without_rights_who_owns_the_socket() -> None:
    """Both containers are the same user, not root: the socket opens for its owner alone."""
    pod = render({"controller": {"enabled": True}}).one("Deployment")["spec"]["template"]["spec"]
    sockets = [mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] != 0
    assert not any("runAsUser" in container["securityContext"] for container in pod["containers"])
    assert 2 == sockets.count("socket-dir")


def test_mounts_reach_the_node_from_one_directory_only() -> None:
    """Bidirectional is kubelet's directory of pods; no host path but those of the driver is there."""
    manifests = render()
    shared = [mount for mount in manifests.driver()["volumeMounts"] if "mountPropagation" in mount]
    paths = {volume["hostPath"]["path"] for volume in manifests.node_pod()["volumes"] if "hostPath" in volume}

    assert [("/var/lib/kubelet/pods", "Bidirectional")] == [
        (mount["mountPath"], mount["mountPropagation"]) for mount in shared
    ]
    assert {
        "/var/lib/kubelet/pods",
        "/var/lib/kubelet/plugins/model.csi.modelpack.org",
        "/var/lib/kubelet/plugins_registry",
        "/var/lib/model-csi",
    } == paths


def test_openshift_lets_the_drivers_account_be_privileged() -> None:
    """The constraints name the node pods' account, and allow every kind of volume that these have."""
    manifests = render(values_of("everything"))
    constraints = manifests.one("SecurityContextConstraints")
    kinds = {kind for volume in manifests.node_pod()["volumes"] for kind in volume if kind != "name"}

    assert ["system:serviceaccount:model-csi:driver"] == constraints["users"]
    assert constraints["allowPrivilegedContainer"] is True
    assert ["SYS_ADMIN"] == constraints["allowedCapabilities"]
    assert kinds <= set(constraints["volumes"])


def test_sidecars_open_the_socket_where_selinux_is_enforced() -> None:
    """OpenShift's policy lets no container_t open a socket that a privileged container made in a host path."""
    values = {"registrar": {"enabled": True}, "livenessprobe": {"enabled": True}}
    plain, openshift = (
        [
            container["securityContext"].get("seLinuxOptions")
            for name, container in _containers({**values, "openshift": {"enabled": enabled}}).items()
            if name not in {"model-csi-driver", "model-csi-fuse"}
        ]
        for enabled in (False, True)
    )

    assert [None, None] == plain
    assert 2 * [{"type": "spc_t"}] == openshift


def _containers(values: dict[str, Any]) -> dict[str, Object]:
    manifests = render(values)
    pods = [item["spec"]["template"]["spec"] for kind in ("DaemonSet", "Deployment") for item in manifests.of(kind)]
    pods += [item["spec"] for item in manifests.of("Pod")]
    return {container["name"]: container for pod in pods for container in pod["containers"]}
