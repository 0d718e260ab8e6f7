"""Pods, secrets and volumes of the scenarios, as a user would write them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tests.integration.driver import SERVICE_NAME

MOUNT_PATH = "/models"
IMAGE = os.environ.get("MODELCSI_POD_IMAGE", "localhost/busybox:1")
_READER = "reader"
_HASH_ALL = f"cd {MOUNT_PATH} && find . -type f | sort | xargs sha256sum"


def inline(reference: str, *, secret: str = "", **attributes: str) -> dict[str, Any]:
    """An inline volume of a model; `secret` is the name of its nodePublishSecretRef."""
    volume: dict[str, Any] = {
        "driver": SERVICE_NAME,
        "readOnly": True,
        "volumeAttributes": {"modelRef": reference, **attributes},
    }
    if secret:
        volume["nodePublishSecretRef"] = {"name": secret}
    return {"name": "model", "csi": volume}


def claimed(claim: str) -> dict[str, Any]:
    """A volume of a PersistentVolumeClaim."""
    return {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}


def pod(name: str, volume: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod that shows a volume at MOUNT_PATH and stays; `spec` is added to its spec."""
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec(volume, **spec)}


def pod_spec(volume: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """The spec of such a pod, also for the template of a Deployment."""
    container = {
        "name": _READER,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "86400"],
        "volumeMounts": [{"name": volume["name"], "mountPath": MOUNT_PATH, "readOnly": True}],
    }
    return {
        "containers": [container],
        "volumes": [dict(volume)],
        "terminationGracePeriodSeconds": 0,  # process 1 ignores SIGTERM
        "automountServiceAccountToken": False,
        **spec,
    }


def deployment(name: str, volume: Mapping[str, Any], replicas: int, **spec: Any) -> dict[str, Any]:
    """A Deployment of such pods."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod_spec(volume, **spec)},
        },
    }


def registry_secret(name: str, data: Mapping[str, str]) -> dict[str, Any]:
    """A secret of registry credentials; `docker_secret` of tests/integration/credentials.py makes the data."""
    kind = "kubernetes.io/dockerconfigjson"
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "stringData": dict(data)}


def hashing() -> Sequence[str]:
    """The command that hashes all that a pod sees: `seen(kubectl.exec(name, *hashing()))`."""
    return ("sh", "-c", _HASH_ALL)


def seen(output: str) -> dict[str, str]:
    """Path -> sha256, to be compared with `promised` of tests/integration/models.py."""
    lines = (line.split(maxsplit=1) for line in output.splitlines())
    return {path.removeprefix("./"): digest for digest, path in lines}


def as_json(document: object) -> str:
    """For commands that take JSON as an argument (`kubectl patch --patch`)."""
    return json.dumps(document)
