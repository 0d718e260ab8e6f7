"""Real artifacts of real producers mount exactly as their producers meant."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest, parse_manifest
from tests.examples import EXPECTED, MOUNTABLE, blob, manifest_bytes
from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.driver import Driver


def described(path: Path) -> dict[str, Any]:
    """One entry of a mounted tree, in the words of expected.json; the mode as far as it is shown."""
    if path.is_symlink():
        return {"type": "symlink", "target": str(path.readlink())}
    mode = path.stat().st_mode & 0o7777
    if path.is_dir():
        return {"type": "directory", "mode": mode}
    content = path.read_bytes()
    return {"type": "file", "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "mode": mode}


def mounted_tree(target: Path) -> dict[str, dict[str, Any]]:
    """All entries below a target."""
    paths = [Path(parent, name) for parent, directories, files in os.walk(target) for name in (*directories, *files)]
    return {str(path.relative_to(target)): described(path) for path in paths}


def expected_tree(name: str) -> dict[str, dict[str, Any]]:
    """The tree in expected.json, with the modes that are shown (design, D15)."""
    tree: dict[str, dict[str, Any]] = {}
    for path, entry in EXPECTED[name]["tree"].items():
        mode = 0o555 if entry["type"] == "directory" else int(entry.get("mode", "0444"), 8) & 0o555 | 0o444
        tree[path] = entry if entry["type"] == "symlink" else {**entry, "mode": mode}
    return tree


@pytest.mark.parametrize("name", MOUNTABLE)
def test_example_mounts_as_expected(driver: Driver, registry: FakeRegistry, name: str) -> None:
    """Files, sizes, digests and modes are those of expected.json."""
    content = manifest_bytes(name)
    manifest = parse_manifest(content)
    assert isinstance(manifest, Manifest)
    for layer in manifest.layers:
        registry.content.blobs["examples"][str(layer.digest)] = blob(layer.digest)
    registry.content.add_manifest("examples", content, name)
    volume = PodVolume(name, {"modelRef": f"{registry.host}/examples:{name}"})
    answer = driver.kubelet.publish(volume)

    assert answer.is_ok, answer.text
    assert expected_tree(name) == mounted_tree(driver.kubelet.target(volume))
    assert EXPECTED[name]["manifest"] == str(Digest.of(content))
