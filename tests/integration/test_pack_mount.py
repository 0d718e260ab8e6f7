"""What `modelcsi pack` makes of a directory, and what the driver shows of that: the same files."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from modelcsi.artifact.layer import RAW, TAR, TAR_GZIP, TAR_ZSTD, Codec
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import open_layout
from modelcsi.pack.pack import PackSettings, pack
from modelcsi.pack.push import Pusher
from modelcsi.pack.walk import walk
from modelcsi.pull.progress import Progress
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.kubelet import PodVolume
from tests.integration.driver import Driver
from tests.integration.publishing import published
from tests.integration.registry import DockerRegistry
from tests.integration.test_pack_push import answer

Tree = Mapping[str, tuple[bytes, int]]
"""Content and permission bits by path."""

CODECS = {"raw": RAW, "tar": TAR, "tar+gzip": TAR_GZIP, "tar+zstd": TAR_ZSTD}
# Nothing that is left out on purpose, and no control characters, which no artifact may have.
_NAMES = st.one_of(
    st.sampled_from(["config.json", "model.gguf", "a b", "-x", "é", "e\u0301", "\\", "%2e", "..x", "x" * 200, "語" * 85, "*.bin", "#"]),
    st.text(st.characters(exclude_categories=["C"], exclude_characters="/"), min_size=1, max_size=20).filter(
        lambda name: not name.startswith(".") and not name.startswith("__") and len(name.encode()) <= 255
    ),
)  # fmt: skip
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_FILES = st.tuples(
    st.binary(max_size=1500), st.sampled_from([0o644, 0o755, 0o600, 0o444, 0o640, 0o711, 0o777, 0o400, 0o020])
)
_TREES = st.dictionaries(_PATHS, _FILES, min_size=1, max_size=8)
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is noted in the home directory of who runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write_tree(root: Path, tree: Tree) -> None:
    """The directory."""
    for path, (content, mode) in tree.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)


def promised(tree: Tree) -> Tree:
    """What a pod sees: docs/semantics.md, everybody may read, nobody may write."""
    return {path: (content, mode & 0o555 | 0o444) for path, (content, mode) in tree.items()}


def shown(root: Path) -> Tree:
    """What is there."""
    files = [path for path in root.rglob("*") if not path.is_dir()]
    return {
        str(path.relative_to(root)): (path.read_bytes(), stat.S_IMODE(path.lstat().st_mode))
        for path in files
        if stat.S_ISREG(path.lstat().st_mode)
    }


def is_directory_of(tree: Tree) -> bool:
    """Whether no file is where another has a directory."""
    return not any(other.startswith(f"{path}/") for path in tree for other in tree)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40, deadline=None
)
@given(tree=_TREES, codec=st.sampled_from(list(CODECS.values())))
def test_any_directory_mounts_as_it_was_packed(
    driver: Driver, docker_registry: DockerRegistry, tmp_path_factory: pytest.TempPathFactory, tree: Tree, codec: Codec
) -> None:
    """What `modelcsi pack` writes comes back bit for bit, whatever the names, contents and modes, in each of its formats."""
    assume(is_directory_of(tree))
    directory, number = tmp_path_factory.mktemp("tree"), next(_numbers)
    write_tree(directory / "model", tree)
    reference = Reference.parse(f"{docker_registry.host}/any/tree{number}:v1")
    pack(walk(directory / "model"), directory / "layout", PackSettings(reference, codec))
    transport = HttpTransport()
    Pusher(transport, Hosts(), Keychain(None)).push(
        open_layout(directory / "layout", reference), reference, Progress(0)
    )
    transport.close()
    volume = PodVolume(f"tree-{number}", {"modelRef": str(reference)})
    found = shown(published(driver, volume))
    driver.kubelet.unpublish(volume)

    assert promised(tree) == found


@pytest.mark.parametrize("layer_format", list(CODECS))
def test_commands_and_driver_agree(
    driver: Driver, docker_registry: DockerRegistry, tmp_path: Path, layer_format: str
) -> None:
    """`pack --push`, then a pod and `modelcsi pull`: the same files, of which the puller may write his."""
    tree = {
        "config.json": (b"{}", 0o644),
        "run.sh": (b"#!/bin/sh\n", 0o750),
        "a/b/weights.bin": (os.urandom(3 << 20), 0o600),
        "a/copy.bin": (b"same", 0o644),
        "a/copy.sh": (b"same", 0o755),
    }
    write_tree(tmp_path / "model", tree)
    reference = f"{docker_registry.host}/any/commands-{layer_format.replace('+', '-')}:v1"
    packed = answer("pack", tmp_path / "model", reference, "--push", "--format", layer_format)
    pulled = answer("pull", reference, tmp_path / "pulled")
    volume = PodVolume(f"commands-{layer_format.replace('+', '-')}", {"modelRef": reference})

    assert promised(tree) == shown(published(driver, volume))
    assert {path: (content, mode | 0o200) for path, (content, mode) in promised(tree).items()} == shown(
        tmp_path / "pulled"
    )
    assert packed["digest"] == pulled["digest"]
    assert {"modelcsi", "modelpack"} == {answer("inspect", reference)[key] for key in ("producer", "kind")}


def test_weights_of_zeros_are_no_bomb(driver: Driver, docker_registry: DockerRegistry, tmp_path: Path) -> None:
    """What shrinks so much that the driver would refuse it is packed without compression, and mounts."""
    size = (1 << 30) + 1
    write_tree(tmp_path / "model", {"config.json": (b"{}", 0o644), "model.bin": (b"", 0o644)})
    os.truncate(tmp_path / "model" / "model.bin", size)
    reference = f"{docker_registry.host}/any/zeros:v1"
    answer("pack", tmp_path / "model", reference, "--push", "--format", "tar+zstd")
    target = published(driver, PodVolume("zeros", {"modelRef": reference}))

    assert size == (target / "model.bin").stat().st_size
    assert {"tar+zstd", "tar"} == {layer["codec"] for layer in answer("inspect", reference)["layers"]}


def test_digest_does_not_depend_on_who_packs(tmp_path: Path) -> None:
    """Neither the process' umask nor its locale, time zone, or working directory."""
    write_tree(tmp_path / "model", {"é/ß.json": (b"{}", 0o640), "weights.bin": (b"1234", 0o600)})
    reference = "registry.test/a/b:v1"
    packed = answer("pack", tmp_path / "model", reference, "--format", "tar+gzip")
    # ASCII as far as Python lets one choose
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Pacific/Kiritimati"}
    before = os.umask(0o077)
    try:
        again = answer(
            "pack", tmp_path / "model", reference, "--format", "tar+gzip", "--output", tmp_path / "again", **locale
        )
    finally:
        os.umask(before)

    assert packed["digest"] == again["digest"]
