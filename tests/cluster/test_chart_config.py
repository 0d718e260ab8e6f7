"""The driver's configuration file in the ConfigMap, and what of it reaches other objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from modelcsi.config.file import load_config, parse_size
from modelcsi.config.model import Config, SizeBytes
from modelcsi.errors import InvalidRequest
from tests.cluster.chart import NEEDS_HELM, Manifests, Refused, render, values_of

pytestmark = NEEDS_HELM


def _loaded(manifests: Manifests, directory: Path) -> Config:
    path = directory / "config.yaml"
    path.write_text(manifests.config())
    return load_config(path, {"POD_IP": "10.0.0.1"})


def _checksum(values: dict[str, Any]) -> str:
    checksum = render(values).daemonset()["spec"]["template"]["metadata"]["annotations"]["checksum/restart"]
    assert isinstance(checksum, str)
    return checksum


@pytest.mark.parametrize("name", ["upstream", "everything"])
def test_driver_accepts_the_file(name: str, tmp_path: Path) -> None:
    """The loader of the driver takes every key that the chart can write."""
    config = _loaded(render(values_of(name)), tmp_path)

    assert 5 == config.pull_config.concurrency


def test_default_file_registers_the_driver_and_asks_for_little(tmp_path: Path) -> None:
    """Events and the watch of pods are on; what needs more rights is off."""
    config = _loaded(render(), tmp_path)

    assert "/var/lib/kubelet/plugins/model.csi.modelpack.org/csi.sock" == config.kubelet_registration_path
    assert Path("/var/lib/kubelet/plugins_registry") == config.registration_dir
    assert (True, True, False, 0) == (
        config.kubernetes.events,
        config.kubernetes.watch_pods,
        config.kubernetes.pull_secrets,
        config.kubernetes.node_labels,
    )


def test_values_arrive_as_they_are(tmp_path: Path) -> None:
    """No number becomes a text, and `extra` wins over the sections."""
    values = values_of("everything")
    values["config"]["extra"]["pull_config"] = {"parallel_pulls": 7}
    config = _loaded(render(values), tmp_path)

    assert SizeBytes(5_000_000_000_000) == config.features.disk_usage_limit
    assert (7, 5) == (config.pull_config.parallel_pulls, config.pull_config.concurrency)
    assert Path("/etc/model-csi-driver-hosts") == config.registry.config_path
    assert Path("/etc/kubernetes/credentials.yaml") == config.registry.credential_provider_config


@pytest.mark.parametrize(
    "size",
    ["10TiB", "10 Ti", "500gb", "1,000 kB", "1.5GiB", "7", 7, "7b", "7i", "2Terabyte", "TiB", "-1", "1e9", ".5GiB"],
)
def test_chart_takes_the_sizes_that_the_driver_takes(size: str | int) -> None:
    """Else a node finds out at its next start."""
    outcomes = []
    for take in (
        lambda: parse_size(size, "size"),
        lambda: render({"config": {"features": {"disk_usage_limit": size}}}),
    ):
        try:
            outcomes.append(take() is not None)
        except (InvalidRequest, Refused):
            outcomes.append(False)

    assert 2 * [outcomes[0]] == outcomes


def test_classic_registrar_registers_instead_of_the_driver(tmp_path: Path) -> None:
    """Two registrations of one name would be refused by kubelet."""
    manifests = render({"registrar": {"enabled": True}})
    registrar = next(item for item in manifests.node_pod()["containers"] if item["name"].endswith("-registrar"))

    assert _loaded(manifests, tmp_path).registration_dir is None
    assert not [mount for mount in manifests.driver()["volumeMounts"] if mount["name"] == "registration-dir"]
    assert "--kubelet-registration-path=/var/lib/kubelet/plugins/model.csi.modelpack.org/csi.sock" in registrar["args"]


def test_kubelets_root_is_taken_everywhere(tmp_path: Path) -> None:
    """Another kubelet root changes every path of it, and the paths in the pod are those of the node."""
    root = "/var/snap/microk8s/common/var/lib/kubelet"
    manifests = render({"kubeletDir": root})
    paths = {mount["name"]: mount["mountPath"] for mount in manifests.driver()["volumeMounts"]}
    on_node = {item["name"]: item["hostPath"]["path"] for item in manifests.node_pod()["volumes"] if "hostPath" in item}

    assert f"{root}/plugins_registry" == str(_loaded(manifests, tmp_path).registration_dir)
    assert f"{root}/pods" == paths["pods-mount-dir"] == on_node["pods-mount-dir"]
    assert f"{root}/plugins_registry" == paths["registration-dir"] == on_node["registration-dir"]
    assert f"{root}/plugins/model.csi.modelpack.org" == on_node["plugin-dir"]
    assert not [path for path in (*paths.values(), *on_node.values()) if path.startswith("/var/lib/kubelet")]


def test_pods_wait_for_a_disk_of_their_own_where_told() -> None:
    """Else kubelet makes the directory, on whatever disk is there."""
    types = [
        next(item["hostPath"]["type"] for item in render(values).node_pod()["volumes"] if item["name"] == "root-dir")
        for values in ({}, {"rootDirType": "Directory"})
    ]

    assert ["DirectoryOrCreate", "Directory"] == types


@pytest.mark.parametrize(
    "config",
    [
        {"logLevel": "debug"},
        {"features": {"disk_usage_limit": "1TiB"}},
        {"pullConfig": {"concurrency": 9}},
        {"registryAuths": {"registry.example.com": {"auth": "eDp5"}}},
        {"registry": {"node_credentials": {"registry.example.com": ["team"]}}},
    ],
)
def test_change_of_a_key_that_is_read_again_rolls_no_pod(config: dict[str, Any]) -> None:
    """The DaemonSet stays as it is, so `helm upgrade` restarts nothing."""
    assert render().daemonset() == render({"config": config}).daemonset()


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"extra": {"publish_slots": 3}}},
        {"config": {"pullConfig": {"memory_budget": "256MiB"}}},
        {"config": {"kubernetes": {"node_labels": 8}}},
        {"caBundle": "-----BEGIN CERTIFICATE-----"},
    ],
)
def test_change_of_a_key_that_is_read_once_rolls_the_pods(values: dict[str, Any]) -> None:
    """Without it the new value would count for new nodes only."""
    assert _checksum({}) != _checksum(values)


def test_registry_credentials_are_in_a_secret_in_dockers_form() -> None:
    """`registryAuths` is the `auths` of a docker config.json, and in no ConfigMap."""
    auths = {"registry.example.com:5000": {"auth": "dXNlcjpwYXNzd29yZA==", "serverscheme": "http"}}
    manifests = render({"config": {"registryAuths": auths}})
    secret = manifests.one("Secret")
    (volume,) = [item["secret"] for item in manifests.node_pod()["volumes"] if item["name"] == "docker-config-dir"]

    assert {"auths": auths} == yaml.safe_load(secret["stringData"][".dockerconfigjson"])
    assert secret["metadata"]["name"] == volume["secretName"]
    assert [{"key": ".dockerconfigjson", "path": "config.json"}] == volume["items"]
    assert "dXNlcjpwYXNzd29yZA==" not in str(manifests.of("ConfigMap"))


def test_registry_hosts_are_laid_out_as_containerd_does() -> None:
    """`HOST/hosts.toml` and `HOST/ca.crt` below `registry.config_path`, also for a host with a port."""
    manifests = render(values_of("everything"))
    (volume,) = [item["configMap"] for item in manifests.node_pod()["volumes"] if item["name"] == "registry-hosts"]
    contents = manifests.one("ConfigMap", volume["name"])["data"]
    files = {item["path"]: contents[item["key"]] for item in volume["items"]}

    assert {"registry.example.com:5000/hosts.toml", "registry.example.com:5000/ca.crt", "_default/hosts.toml"} == set(
        files
    )
    assert "-----BEGIN CERTIFICATE-----\n" == files["registry.example.com:5000/ca.crt"]


@pytest.mark.parametrize("address", ["tcp://$POD_IP:9100", "tcp://${POD_IP}:9100", "tcp://0.0.0.0:9100", "tcp://:9100"])
def test_probes_ask_the_configured_port(address: str) -> None:
    """kubelet comes to the pod's address, at the port of `metrics_addr`."""
    driver = render({"config": {"metricsAddr": address}}).driver()

    assert [9100] == [port["containerPort"] for port in driver["ports"]]
    assert ["/healthz", "/healthz", "/readyz"] == [
        driver[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")
    ]


@pytest.mark.parametrize("address", ["", "tcp://127.0.0.1:9100"])
def test_probes_look_at_the_socket_where_kubelet_reaches_no_port(address: str) -> None:
    """The socket is there only while the driver answers."""
    driver = render({"config": {"metricsAddr": address}}).driver()

    assert "ports" not in driver
    assert 3 * [["stat", "/csi/csi.sock"]] == [
        driver[f"{probe}Probe"]["exec"]["command"] for probe in ("startup", "liveness", "readiness")
    ]


@pytest.mark.parametrize("monitor", ["podMonitor", "serviceMonitor"])
def test_names_of_models_are_told_to_a_monitor_that_wants_them(monitor: str, tmp_path: Path) -> None:
    """And otherwise to nobody outside of the pod."""
    shown = [
        _loaded(render({"monitoring": {monitor: {"enabled": enabled, "detail": detail}}}), tmp_path).metrics_detail
        for enabled, detail in ((True, True), (True, False), (False, True))
    ]

    assert [True, False, False] == shown


def test_variables_that_the_file_names_are_in_both_pods() -> None:
    """`metrics_addr: tcp://$HOST_IP:5244` ends a driver that has no HOST_IP; the controller reads the same file."""
    variable = {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
    values = {
        "config": {"metricsAddr": "tcp://$HOST_IP:5244"},
        "env": [variable],
        "controller": {"enabled": True},
    }
    manifests = render(values)
    (controller,) = [
        container
        for container in manifests.one("Deployment")["spec"]["template"]["spec"]["containers"]
        if container["name"] == "model-csi-controller"
    ]

    assert variable in manifests.driver()["env"]
    assert variable in controller["env"]


def test_token_requests_follow_the_configuration() -> None:
    """Each audience that a registry takes is asked of kubelet, once; tokens travel as secrets where the cluster can do that."""
    values = values_of("everything")
    new, old = (render(values, kube_version=version).one("CSIDriver")["spec"] for version in ("1.35.0", "1.34.0"))
    wanted = [
        {"audience": "registry.example.com", "expirationSeconds": 3600},
        {"audience": "further"},
        {"audience": ""},
    ]

    assert wanted == new["tokenRequests"] == old["tokenRequests"]
    assert new["serviceAccountTokenInSecrets"] is True
    assert "serviceAccountTokenInSecrets" not in old
    assert (
        "serviceAccountTokenInSecrets" not in render().one("CSIDriver")["spec"]
    )  # the API refuses it without requests
