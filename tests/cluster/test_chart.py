"""The chart's manifests: valid for every set of values, with readable errors for what cannot be."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.cluster.chart import CHART, NEEDS_HELM, ROOT, Manifests, Refused, helm, render, values_of

pytestmark = NEEDS_HELM

_SETS = {"default": {}, "upstream": values_of("upstream"), "everything": values_of("everything")}
_FOREIGN = {"PodMonitor", "ServiceMonitor", "PrometheusRule", "SecurityContextConstraints"}
"""Kinds of other projects, which Kubernetes does not know."""
_KUBE_VERSIONS = ("1.30", "1.34", "1.35", "1.36")


@pytest.fixture(params=list(_SETS))
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Values of users who want little, who come from upstream, and who want all."""
    return _SETS[request.param]


def test_lint_finds_nothing(values: dict[str, Any]) -> None:
    """`helm lint --strict` has neither an error nor a warning."""
    found = helm("lint", "--strict", str(CHART), values=values)

    assert "1 chart(s) linted, 0 chart(s) failed" in found
    assert "[WARNING]" not in found


@pytest.mark.parametrize("version", _KUBE_VERSIONS)
def test_every_object_has_the_api_servers_form(values: dict[str, Any], version: str) -> None:
    """No field is unknown, of a wrong type, or missing, in any supported Kubernetes."""
    manifests = render(values, kube_version=version)

    for item in manifests.objects:
        if item["kind"] not in _FOREIGN:
            kubernetes_validate.validate(item, version, strict=True)


def test_helm_renders_without_being_told_a_version() -> None:
    """A helm that believes in an old Kubernetes refuses the chart; hack/cluster builds one of the cluster's."""
    assert "kind: DaemonSet" in helm("template", "release", str(CHART))


def test_nothing_is_there_twice(values: dict[str, Any]) -> None:
    """Two objects of one name overwrite each other, two keys of a mapping too."""
    manifests = render(values)
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in manifests.objects]
    mounts = [mount["mountPath"] for mount in manifests.driver()["volumeMounts"]]

    assert sorted(set(names), key=str) == sorted(names, key=str)
    assert sorted(set(mounts)) == sorted(mounts)


def test_labels_and_annotations_of_users_replace_none_of_ours(values: dict[str, Any]) -> None:
    """A key that is there twice is an error of YAML for some tools, and a surprise with the others."""
    ours = {
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/version",
        "app.kubernetes.io/managed-by",
        "helm.sh/chart",
        "security.openshift.io/csi-ephemeral-volume-profile",
    }
    labels = {**dict.fromkeys(ours, "mine"), "release": "mine"}
    pods = {"podAnnotations": {"checksum/restart": "mine", "kubectl.kubernetes.io/default-container": "mine"}}
    monitors = {name: {**value, "labels": labels} for name, value in values.get("monitoring", {}).items()}
    changed: dict[str, Any] = {
        **values,
        **pods,
        "commonLabels": {**labels, "example.com/part": "kept"},
        "podLabels": labels,
    }
    changed["controller"] = {**values.get("controller", {}), **pods, "podLabels": labels}
    changed["monitoring"] = monitors
    before, after = render(values).objects, render(changed).objects

    for old, new in zip(before, after, strict=True):
        there = {key: value for key, value in old["metadata"]["labels"].items() if key in ours}

        assert there.items() <= new["metadata"]["labels"].items()
        assert "kept" == new["metadata"]["labels"]["example.com/part"]


def test_every_mount_has_its_volume(values: dict[str, Any]) -> None:
    """Each container mounts volumes that its pod has, and no volume is there for nothing."""
    for kind in ("DaemonSet", "Deployment", "Pod"):
        for item in render(values).of(kind):
            pod = item["spec"]["template"]["spec"] if kind != "Pod" else item["spec"]
            mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}

            assert {volume["name"] for volume in pod["volumes"]} == mounted


@pytest.mark.parametrize(
    ("typo", "words"),
    [
        ({"imag": {"tag": "v1"}}, ["imag"]),
        ({"image": {"tagg": "v1"}}, ["/image", "tagg"]),
        ({"config": {"rootdir": "/x"}}, ["/config", "rootdir"]),
        ({"config": {"pullConfig": {"concurency": 5}}}, ["/config/pullConfig", "concurency"]),
        ({"config": {"kubernetes": {"watchPods": True}}}, ["/config/kubernetes", "watchPods"]),
        (
            {"config": {"registryAuths": {"example.com": {"token": "x"}}}},
            ["/config/registryAuths/example.com", "token"],
        ),
        ({"hostNetwork": "yes"}, ["/hostNetwork", "boolean"]),
        ({"image": {"pullPolicy": "always"}}, ["/image/pullPolicy", "Always"]),
        ({"kubeletDir": "var/lib/kubelet"}, ["/kubeletDir"]),
        ({"config": {"extra": {"publish_slotz": 3}}}, ["/config/extra", "publish_slotz"]),
        ({"config": {"extra": {"publish_slots": 0}}}, ["/config/extra/publish_slots"]),
        ({"config": {"extra": {"pull_config": {"concurency": 5}}}}, ["/config/extra/pull_config", "concurency"]),
        ({"config": {"features": {"disk_usage_limit": "2Terabyte"}}}, ["/config/features/disk_usage_limit"]),
        ({"config": {"features": {"disk_usage_limit": -1}}}, ["/config/features/disk_usage_limit"]),
        ({"config": {"pullConfig": {"memory_budget": 4096}}}, ["/config/pullConfig/memory_budget"]),
        ({"config": {"pullConfig": {"proxy_url": "proxy:3128"}}}, ["/config/pullConfig/proxy_url"]),
        ({"config": {"kubernetes": {"node_labels": 100}}}, ["/config/kubernetes/node_labels"]),
        ({"config": {"kubernetes": {"node_labels": -1}}}, ["/config/kubernetes/node_labels"]),
        ({"config": {"serviceName": "Bad_Name"}}, ["/config/serviceName"]),
        ({"config": {"serviceName": "a..example.com"}}, ["/config/serviceName"]),
        ({"config": {"metricsAddr": "tcp://$POD_IP:99999"}}, ["/config/metricsAddr"]),
        ({"config": {"metricsAddr": "$POD_IP:5244"}}, ["/config/metricsAddr"]),
    ],
)
def test_mistyped_value_is_refused_by_its_name(typo: dict[str, Any], words: list[str]) -> None:
    """The error says which value is wrong, before anything is installed."""
    with pytest.raises(Refused) as refusal:
        render(typo)

    assert [word for word in words if word not in str(refusal.value)] == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"config": {"extra": {"root_dir": "/x"}}},
            "config.extra.root_dir: other objects depend on it; set config.rootDir instead",
        ),
        ({"config": {"extra": {"csi_endpoint": "x"}}}, "config.extra.csi_endpoint: the chart decides it"),
        ({"config": {"rootDir": "/var/lib/kubelet/pods"}}, "config.rootDir: /var/lib/kubelet/pods is kubelet's"),
        ({"config": {"rootDir": "/x/plugins/a"}, "kubeletDir": "/x"}, "config.rootDir: /x/plugins is kubelet's"),
        ({"config": {"rootDir": "/var/lib"}}, "config.rootDir: kubeletDir, /var/lib/kubelet, is within it"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "updateStrategy.rollingUpdate.maxSurge must be 0"),
        (
            {"credentialProvider": {"binDir": "/opt"}},
            "credentialProvider.configFile and credentialProvider.binDir need each other",
        ),
        (
            {
                "registryHosts": {"a.example.com": {"ca.crt": ""}},
                "config": {"registry": {"config_path": "/etc/certs.d"}},
            },
            "registryHosts and config.registry.config_path: set one of them",
        ),
        (
            {
                "registryHosts": {"a.example.com": {"ca.crt": ""}},
                "config": {"extra": {"registry": {"config_path": "/etc/certs.d"}}},
            },
            "config.extra.registry.config_path: other values decide it: registryHosts",
        ),
        (
            {
                "credentialProvider": {"binDir": "/opt/bin", "configFile": "/opt/config"},
                "config": {"extra": {"registry": {"credential_provider_bin_dir": "/opt/other"}}},
            },
            "config.extra.registry.credential_provider_bin_dir: other values decide it: credentialProvider",
        ),
        (
            {"config": {"registryAuths": {"a.example.com": {}}, "dockerConfigSecret": "mine"}},
            "config.registryAuths and config.dockerConfigSecret: set one of them",
        ),
        (
            {"config": {"metricsAddr": "tcp://127.0.0.1:5244"}, "monitoring": {"podMonitor": {"enabled": True}}},
            "monitoring: nobody outside of the pod reaches config.metricsAddr",
        ),
    ],
)
def test_values_that_exclude_each_other_are_refused(values: dict[str, Any], words: str) -> None:
    """What can be seen to fail later fails at the install, with what to do."""
    with pytest.raises(Refused) as refusal:
        render(values)

    assert words in str(refusal.value)


@pytest.mark.parametrize("kind", [dict, list])
def test_key_with_nothing_behind_it_is_accepted(kind: type) -> None:
    """In YAML that is null, which is what a values file with everything commented out below a key has."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    empty = {
        name: None for name, value in defaults.items() if isinstance(value, kind) and "properties" not in schema[name]
    }
    sections = {name: None for name, value in defaults["config"].items() if isinstance(value, kind)}

    assert empty
    assert [] == [
        volume["name"]
        for volume in render({**empty, "config": sections}).node_pod()["volumes"]
        if volume["name"] == "registry-hosts"
    ]


@pytest.mark.parametrize("name", ["probes", "kubeletDir"])
def test_value_that_templates_rely_on_is_required(name: str) -> None:
    """null takes a default away, as does `--reuse-values` from an older chart: said by name, not by a nil pointer."""
    with pytest.raises(Refused, match=rf"missing propert(y|ies).*'{name}'"):
        render({name: None})


def test_every_value_is_used_by_a_template() -> None:
    """A value without effect misleads; `namespace` is upstream's, and says so."""
    templates = "\n".join(path.read_text() for path in CHART.glob("templates/**/*.*"))

    def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in tree.items():
            yield f"{prefix}{key}"
            if prefix + key in {"probes", "image", "controller", "monitoring", "config", "csiDriver", "test"}:
                yield from leaves(value, f"{prefix}{key}.")

    names = set(leaves(yaml.safe_load((CHART / "values.yaml").read_text()))) - {"namespace"}
    unused = [name for name in names if not re.search(rf"\.{re.escape(name.rpartition('.')[2])}\b", templates)]

    assert sorted(unused) == []


def test_pod_of_helm_test_goes_where_the_driver_is() -> None:
    """On a node without a driver it would wait for ever."""
    manifests = render(values_of("everything"))
    (pod,) = manifests.of("Pod")
    wanted = {name: manifests.node_pod()[name] for name in ("nodeSelector", "tolerations", "affinity")}

    assert wanted == {name: pod["spec"][name] for name in wanted}


def test_pod_of_helm_test_is_whom_openshift_lets_it_be() -> None:
    """Elsewhere a user of its own: the image's is root."""
    plain, openshift = (
        render({"test": {"modelRef": "a.example.com/b:v1"}, "openshift": {"enabled": enabled}})
        .one("Pod")["spec"]["securityContext"]
        .get("runAsUser")
        for enabled in (False, True)
    )

    assert (65532, None) == (plain, openshift)


def test_version_is_the_projects() -> None:
    """The chart of a release installs the image of that release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (project, project) == (chart["version"], chart["appVersion"])


def test_generated_files_are_up_to_date() -> None:
    """The schema and the table of values follow values.yaml, deploy/ follows the chart."""
    for script in ("gen-chart", "gen-deploy"):
        subprocess.run([ROOT / "hack" / script, "--check"], check=True, timeout=60)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", list(_SETS))
def test_api_server_accepts_every_object(name: str) -> None:
    """A dry run at a real API server, under names that nothing else there has."""
    values = {**_SETS[name], "fullnameOverride": "dry-run", "storageClass": {"name": "dry-run"}}
    values["config"] = {**values.get("config", {}), "serviceName": "dry-run.csi.example.com"}
    values["priorityClassName"] = "system-node-critical"
    manifests = render(values, release="dry-run", namespace="default")

    assert "" == _dry_run(manifests)


def _dry_run(manifests: Manifests) -> str:
    """What the API server has against the objects."""
    known = [item for item in manifests.objects if item["kind"] not in _FOREIGN]
    command = ["kubectl", "create", "--dry-run=server", "--validate=strict", "-f", "-"]
    text = yaml.safe_dump_all(known)
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False).stderr
