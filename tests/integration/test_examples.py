"""Real artifacts of real producers mount exactly as their producers meant."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.examples import EXPECTED, MOUNTABLE, serve
from tests.fakes.content import Content
from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import Driver
from tests.integration.models import upload
from tests.integration.registry import DockerRegistry


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


def file_times(target: Path) -> dict[str, int]:
    """Of all files below a target, in nanoseconds."""
    files = (path for path in target.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(target)): path.stat().st_mtime_ns for path in files}


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
    serve(registry.content, "examples", name)
    volume = PodVolume(name, {"modelRef": f"{registry.host}/examples:{name}"})
    answer = driver.kubelet.publish(volume)

    assert answer.is_ok, answer.text
    assert expected_tree(name) == mounted_tree(driver.kubelet.target(volume))


def test_examples_from_a_real_registry(driver: Driver, docker_registry: DockerRegistry) -> None:
    """Its answers are not those of the fake: indexes, configs and Docker's manifests are asked for as it wants them."""
    content = Content()
    for name in MOUNTABLE:
        serve(content, "examples", name)
    upload(content, docker_registry.host)
    volumes = [PodVolume(f"real-{name}", {"modelRef": f"{docker_registry.host}/examples:{name}"}) for name in MOUNTABLE]
    answers = [driver.kubelet.publish(volume) for volume in volumes]

    assert [""] * len(MOUNTABLE) == ["" if answer.is_ok else answer.text for answer in answers]
    assert {name: expected_tree(name) for name in MOUNTABLE} == {
        name: mounted_tree(driver.kubelet.target(volume)) for name, volume in zip(MOUNTABLE, volumes, strict=True)
    }


@pytest.mark.parametrize("name", MOUNTABLE)
def test_example_is_the_same_lazily(make_driver: MakeDriver, registry: FakeRegistry, name: str) -> None:
    """Before it is complete, and beside the bind mount of what is, times included; on a node where nothing is from before."""
    driver = make_driver()
    serve(registry.content, "lazy", name)
    registry.faults.bytes_per_second = 200_000
    reference = f"{registry.host}/lazy:{name}"
    lazy = PodVolume(f"lazy-{name}", {"modelRef": reference, "mountMode": "lazy"})
    bind = PodVolume(f"bind-{name}", {"modelRef": reference})
    answers = [driver.kubelet.publish(volume) for volume in (lazy, bind)]
    targets = [driver.kubelet.target(volume) for volume in (lazy, bind)]

    assert [""] * 2 == ["" if answer.is_ok else answer.text for answer in answers]
    assert expected_tree(name) == mounted_tree(targets[0]) == mounted_tree(targets[1])
    assert file_times(targets[0]) == file_times(targets[1])


@pytest.mark.parametrize("name", MOUNTABLE)
def test_second_mount_of_an_example_asks_nobody(driver: Driver, registry: FakeRegistry, name: str) -> None:
    """Whatever was read to know it, an index, its entries, a config, is kept with it."""
    serve(registry.content, "again", name)
    volumes = [PodVolume(f"{name}-{pod}", {"modelRef": f"{registry.host}/again:{name}"}) for pod in ("a", "b")]
    first = driver.kubelet.publish(volumes[0])
    asked = len(registry.seen)
    second = driver.kubelet.publish(volumes[1])

    assert (True, True, asked) == (first.is_ok, second.is_ok, len(registry.seen)), (first.text, second.text)
    assert mounted_tree(driver.kubelet.target(volumes[0])) == mounted_tree(driver.kubelet.target(volumes[1]))


@pytest.mark.parametrize("name", [name for name in EXPECTED if "error" in EXPECTED[name]])
def test_example_is_refused_as_expected(driver: Driver, registry: FakeRegistry, name: str) -> None:
    """The answer names the path and the layer."""
    serve(registry.content, "refused", name)
    answer = driver.kubelet.publish(PodVolume(name, {"modelRef": f"{registry.host}/refused:{name}"}))
    path, _, digest = EXPECTED[name]["because"].removeprefix("unsafe path ").partition(" in ")

    assert not answer.is_ok
    assert path in answer.text
    assert digest in answer.text
