"""The chart as a user gets it: rendered by helm, read back as objects."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelcsi.config.values import StrictLoader

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "model-csi-driver"
_HELM = ROOT / "hack" / "helm"
_VALUES = Path(__file__).with_name("values")
_SECONDS = 60.0

Values = Mapping[str, Any]
Object = dict[str, Any]


class Refused(Exception):
    """helm does not take the values; the text is what the user sees."""


def helm(*arguments: str, values: Values | None = None) -> str:
    """Standard output of a helm command; `values` go to it as a values file."""
    command = [str(_HELM), *arguments, *(["--values", "-"] if values is not None else [])]
    document = json.dumps(values) if values is not None else ""
    done = subprocess.run(command, input=document, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode != 0:
        raise Refused(done.stdout + done.stderr)
    return done.stdout


def _is_there() -> bool:
    return subprocess.run([_HELM, "version"], capture_output=True, timeout=_SECONDS, check=False).returncode == 0


NEEDS_HELM = pytest.mark.skipif(not _is_there(), reason="helm is not there: hack/cluster build")


def values_of(name: str) -> dict[str, Any]:
    """One of the files below values/."""
    document = yaml.safe_load((_VALUES / f"{name}.yaml").read_text())
    assert isinstance(document, dict)
    return document


@dataclass(frozen=True)
class Manifests:
    """What an install would create."""

    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        """All of a kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        """The only one of a kind, or of a kind and name."""
        (found,) = [item for item in self.of(kind) if name in {None, item["metadata"]["name"]}]
        return found

    def daemonset(self, container: str = "model-csi-driver") -> Object:
        """The DaemonSet with a container of that name: the driver's, unless told otherwise."""
        (found,) = [
            item
            for item in self.of("DaemonSet")
            if container in {running["name"] for running in item["spec"]["template"]["spec"]["containers"]}
        ]
        return found

    def config(self) -> str:
        """The driver's configuration file."""
        text = self.one("ConfigMap", f"{self.daemonset()['metadata']['name']}-config")["data"]["config.yaml"]
        assert isinstance(text, str)
        return text

    def node_pod(self) -> Object:
        """The pod spec of the driver's DaemonSet."""
        spec = self.daemonset()["spec"]["template"]["spec"]
        assert isinstance(spec, dict)
        return spec

    def driver(self) -> Object:
        """The driver's container on nodes."""
        (found,) = [item for item in self.node_pod()["containers"] if item["name"] == "model-csi-driver"]
        assert isinstance(found, dict)
        return found

    def rules(self, kind: str, name: str) -> set[tuple[str, str]]:
        """The rights of a role, as (resource, verb)."""
        rules = self.one(kind, name)["rules"]
        return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def render(
    values: Values | None = None,
    *,
    release: str = "model-csi-driver",
    namespace: str = "model-csi",
    kube_version: str = "1.36.0",
    is_upgrade: bool = False,
) -> Manifests:
    """Every object of an install, or an upgrade, with these values."""
    where = ("--namespace", namespace, "--kube-version", kube_version, *(["--is-upgrade"] if is_upgrade else []))
    text = helm("template", release, str(CHART), *where, values=values or {})
    return Manifests(tuple(item for item in yaml.load_all(text, Loader=StrictLoader) if isinstance(item, dict)))
