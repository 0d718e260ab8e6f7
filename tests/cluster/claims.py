"""StorageClasses, PersistentVolumeClaims and PersistentVolumes of the scenarios, as an admin and a user would write them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.release import NAMESPACE, Release
from tests.integration.driver import SERVICE_NAME

READ_ONLY_MANY = "ReadOnlyMany"
SIZE = "1Gi"
"""Any: a claim's size says nothing of the model's."""
_CONTROLLER_PODS = "app.kubernetes.io/name=model-csi-driver-controller"
_CONTROLLER = "deployment/model-csi-driver-controller"


def claim(name: str, storage_class: str = "", *, volume: str = "", mode: str = READ_ONLY_MANY) -> dict[str, Any]:
    """A claim: of a class, or (with `volume`) of that PersistentVolume."""
    spec: dict[str, Any] = {
        "accessModes": [mode],
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": SIZE}},
    }
    if volume:
        spec["volumeName"] = volume
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def static_volume(
    name: str, attributes: Mapping[str, str], *, mode: str = READ_ONLY_MANY, **source: Any
) -> dict[str, Any]:
    """A PersistentVolume that an admin made; `source` is added to its `csi`."""
    csi = {"driver": SERVICE_NAME, "volumeHandle": f"handle-of-{name}", "volumeAttributes": dict(attributes), **source}
    spec = {
        "capacity": {"storage": SIZE},
        "accessModes": [mode],
        "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain",
        "csi": csi,
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


class Classes:
    """Makes StorageClasses of a test's own, which go with it, and so do the volumes that were made of them."""

    def __init__(self, driver: Release, stack: ExitStack) -> None:
        self.driver = driver
        self._stack = stack
        self._cluster = Kubectl()

    def wait_until_ready(self) -> None:
        """Until the controller is there in its newest form."""
        Kubectl(NAMESPACE)("rollout", "status", _CONTROLLER, "--timeout=60s", seconds=75)

    def stop_controller(self) -> None:
        """No controller, until `start_controller`."""
        self._scale(0)
        Kubectl(NAMESPACE)(
            "wait", "pods", f"--selector={_CONTROLLER_PODS}", "--for=delete", "--timeout=60s", seconds=75
        )

    def start_controller(self) -> None:
        """And ready."""
        self._scale(1)
        self.wait_until_ready()

    def _scale(self, replicas: int) -> None:
        Kubectl(NAMESPACE)("scale", _CONTROLLER, f"--replicas={replicas}")

    def make(
        self,
        name: str,
        parameters: Mapping[str, str],
        *,
        binding: str = "Immediate",
        reclaim: str = "Delete",
    ) -> str:
        """Its name is the cluster's: choose one that no other test has."""
        storage_class = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": name},
            "provisioner": SERVICE_NAME,
            "parameters": dict(parameters),
            "volumeBindingMode": binding,
            "reclaimPolicy": reclaim,
        }
        self._cluster.apply(storage_class)
        self._stack.callback(self._remove, name)
        return name

    def volumes(self, name: str) -> list[dict[str, Any]]:
        """The PersistentVolumes of a class."""
        found = self._cluster.listed("persistentvolumes")
        return [volume for volume in found if volume["spec"].get("storageClassName") == name]

    def wait_until_no_volumes(self, name: str) -> None:
        """Until the provisioner has deleted them."""
        eventually(lambda: not self.volumes(name), f"no PersistentVolume of {name}")

    def _remove(self, name: str) -> None:
        """The claims went with their namespace; what is left of the volumes, or for ever kept, goes here."""
        for volume in self.volumes(name):
            if volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain":
                self._cluster.delete("persistentvolume", volume["metadata"]["name"])
        self.wait_until_no_volumes(name)
        self._cluster.delete("storageclass", name)
