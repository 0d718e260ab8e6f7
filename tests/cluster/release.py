"""The driver as `helm install` brings it, and what can be asked of it."""

from __future__ import annotations

import json
import os
from typing import Any

from tests.cluster.chart import CHART, Values, helm
from tests.cluster.kubectl import Kubectl
from tests.cluster.registries import ADDRESS, PORTS

NAMESPACE = "model-csi"
NAME = "model-csi-driver"
"""Of the release, the DaemonSet, and the container."""
IMAGE = os.environ.get("MODELCSI_IMAGE_REF", "localhost/model-csi-driver:dev")
"""The driver's, for its pods and for pods that want what is in it."""
_PROVISIONER_IMAGE = os.environ.get("MODELCSI_PROVISIONER_IMAGE_REF", "localhost/csi-provisioner:dev")
_READY_SECONDS = 50
_POD_SECONDS = 60.0


def _image(reference: str) -> dict[str, str]:
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}


def default_values() -> dict[str, Any]:
    """Only what these tests cannot do without: the images, and that the registries of the tests are plain HTTP."""
    return {
        "image": _image(IMAGE),
        "controller": {"provisioner": {"image": _image(_PROVISIONER_IMAGE)}},
        "config": {
            "logLevel": "debug",
            "registryAuths": {f"{ADDRESS}:{port}": {"serverscheme": "http"} for port in PORTS},
        },
    }


class Release:
    """The chart, installed once for all tests and upgraded for those that want other values."""

    def __init__(self) -> None:
        self.kubectl = Kubectl(NAMESPACE)
        self._values: Values | None = None

    def ensure(self, values: Values | None = None) -> None:
        """Install or upgrade to the defaults and `values` over them, and wait until the driver is ready; quick if it is so."""
        wanted = _merged(default_values(), values or {})
        if self._values != wanted:
            self._values = None  # unknown, should this fail
            where = ("--namespace", NAMESPACE, "--create-namespace", "--reset-values")
            limit = ("--wait", "--timeout", f"{_READY_SECONDS}s")
            helm("upgrade", "--install", NAME, str(CHART), *where, *limit, values=wanted)
            self._values = wanted
        self.wait_until_ready()

    def uninstall(self) -> None:
        """`helm uninstall`, and until its pods are gone; what it kept on the node stays."""
        self._values = None
        helm(
            "uninstall",
            NAME,
            "--namespace",
            NAMESPACE,
            "--ignore-not-found",
            "--wait",
            "--timeout",
            f"{_READY_SECONDS}s",
        )
        self.kubectl("wait", "pods", "--all", "--for=delete", f"--timeout={_READY_SECONDS}s", seconds=_POD_SECONDS)

    def rollback(self) -> None:
        """`helm rollback` to what was installed before, and until the driver is ready."""
        self._values = None
        helm("rollback", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", f"{_READY_SECONDS}s")
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until each node's driver is there in its newest form."""
        limit = f"--timeout={_READY_SECONDS}s"
        self.kubectl("rollout", "status", f"daemonset/{NAME}", limit, seconds=_POD_SECONDS)

    def rollout(self) -> None:
        """Replace the driver's pods, as an upgrade does, and wait."""
        self.kubectl("rollout", "restart", f"daemonset/{NAME}")
        self.wait_until_ready()

    @property
    def pod(self) -> str:
        """The name of the driver's pod on the (first) node."""
        running = [item for item in self.kubectl.listed("pods", f"app.kubernetes.io/name={NAME}") if _is_node_pod(item)]
        assert running, "no pod of the driver"
        return str(running[0]["metadata"]["name"])

    @property
    def its_node(self) -> dict[str, Any]:
        """For the spec of pods that shall run where `pod` does: what is counted there counts on a cluster of several nodes too."""
        name = self.kubectl.get("pod", self.pod)["spec"]["nodeName"]
        label = "kubernetes.io/hostname"
        return {"nodeSelector": {label: Kubectl().get("node", name)["metadata"]["labels"][label]}}

    def modelcsi(self, *arguments: str) -> str:
        """What a person gets from `kubectl exec ... modelcsi ARGUMENTS`."""
        return self.kubectl.exec(self.pod, "modelcsi", *arguments, container=NAME)

    def status(self) -> dict[str, Any]:
        """`modelcsi status --json`: pulls, publications, failures."""
        found = json.loads(self.modelcsi("status", "--json"))
        assert isinstance(found, dict)
        return found

    def cache(self) -> dict[str, Any]:
        """`modelcsi cache du --json`: artifacts and bytes."""
        found = json.loads(self.modelcsi("cache", "du", "--json"))
        assert isinstance(found, dict)
        return found

    def log(self, *, lines: int = -1) -> str:
        """What the driver on the (first) node wrote."""
        return self.kubectl.logs(self.pod, NAME, lines=lines)


def _is_node_pod(item: dict[str, Any]) -> bool:
    owners = {owner["kind"] for owner in item["metadata"].get("ownerReferences", [])}
    return owners == {"DaemonSet"} and "deletionTimestamp" not in item["metadata"]


def _merged(base: Values, over: Values) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
