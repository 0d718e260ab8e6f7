"""The upstream driver's release, with our image in it: what an admin has who changed nothing but the image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from tests.cluster.chart import helm
from tests.cluster.release import NAME, NAMESPACE, default_values

_HERE = Path(__file__).parent
_PYTHON = "/opt/venv/bin/python"
_CHART = {"apiVersion": "v2", "name": NAME, "version": "0.1.2", "description": "upstream's objects"}
_SELECTOR = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME}
_LABELS = {**_SELECTOR, "helm.sh/chart": f"{NAME}-0.1.2", "app.kubernetes.io/managed-by": "Helm"}


def install(directory: Path) -> None:
    """`helm install` of upstream's objects, as the release that ours upgrades."""
    values = default_values()
    image = f"{values['image']['repository']}:{values['image']['tag']}"
    words = {
        "LABELS": json.dumps(_LABELS),
        "SELECTOR": json.dumps(_SELECTOR),
        "DOCKER_CONFIG": json.dumps({"auths": values["config"]["registryAuths"]}),
        "DRIVER_IMAGE": image,
        "REGISTRAR_IMAGE": image,
        "REGISTRAR": json.dumps([_PYTHON, "-c", (_HERE / "registrar.py").read_text()]),
    }
    templates = directory / "templates"
    templates.mkdir()
    (directory / "Chart.yaml").write_text(json.dumps(_CHART))
    (templates / "all.yaml").write_text(Template((_HERE / "manifests.yaml").read_text()).substitute(words))
    helm("install", NAME, str(directory), "--namespace", NAMESPACE, "--create-namespace")


def rollback() -> None:
    """`helm rollback` to these objects."""
    helm("rollback", NAME, "1", "--namespace", NAMESPACE)


def values(users: Mapping[str, Any]) -> dict[str, Any]:
    """A user's values for the upstream chart, with what these tests cannot do without: the image and the registries."""
    ours = default_values()
    config = {**users["config"], "registryAuths": ours["config"]["registryAuths"]}
    return {**users, "image": ours["image"], "config": config}
