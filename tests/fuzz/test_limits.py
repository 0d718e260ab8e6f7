"""As much of everything as is allowed, and one more: time grows with the number, and what is refused names its limit.

Times are those of the processor, and only compared with each other: ten times as many may take not much over ten times as long,
and would take a hundred times as long if each looked at all others.
"""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelcsi.artifact.artifact import recognise
from modelcsi.artifact.index import Platform, walk
from modelcsi.artifact.members import MAX_MEMBERS, Member, MemberType
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import build_tree, wanted_layers
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import MAX_LAYERS, Index, Manifest, parse_manifest
from tests.fuzz.archives import MEDIA_TYPES, Archive
from tests.fuzz.unpacking import Sandbox
from tests.unit.artifact.builders import END, header

_MODELPACK = "application/vnd.cncf.model"
_KIT = "application/vnd.kitops.modelkit"
_OLLAMA = "application/vnd.ollama.image"
_DOCKER = "application/vnd.docker.ai"
_QUADRATIC = 40
"""Between 10 and 100 (or 40, where only a part of the work is quadratic); the machine is never idle."""


@pytest.fixture
def make_sandbox() -> Iterator[Callable[[], Sandbox]]:
    """Makes stores, each with nothing in it; in memory where that is possible."""
    shared_memory = Path("/dev/shm")
    made: list[Sandbox] = []
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as top:

        def make() -> Sandbox:
            directory = Path(top, str(len(made)))
            directory.mkdir()
            made.append(Sandbox(directory))
            return made[-1]

        yield make
        for sandbox in made:
            sandbox.store.close()


def _layers(count: int, media_type: str, *, title: str = "", **annotations: str) -> list[dict[str, Any]]:
    """Layers of a byte or more; `#` in an annotation is the layer's number."""
    named = {**annotations, "org.opencontainers.image.title": title} if title else annotations
    result: list[dict[str, Any]] = []
    for number in range(count):
        content = str(number).encode()
        told = {key.replace("_", "."): value.replace("#", str(number)) for key, value in named.items()}
        digest = str(Digest.of(content))
        result.append({"mediaType": media_type, "digest": digest, "size": len(content), "annotations": told})
    return result


def _config(media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(b"{}")), "size": 2}


def _kit(count: int, *, is_old: bool) -> tuple[dict[str, Any], bytes]:
    layers = _layers(count, f"{_KIT}.code.v1.tar")
    code = [{"path": f"c/{layer['size']}"} | ({} if is_old else {"digest": layer["digest"]}) for layer in layers]
    kitfile = json.dumps({"code": code}).encode()
    config = {"mediaType": f"{_KIT}.config.v1+json", "digest": str(Digest.of(kitfile)), "size": len(kitfile)}
    return {"artifactType": f"{_KIT}.manifest.v1+json", "config": config, "layers": layers}, kitfile


MANIFESTS: dict[str, Callable[[int], tuple[dict[str, Any], bytes | None]]] = {
    "files": lambda n: ({"layers": _layers(n, f"{_MODELPACK}.weight.v1.raw", org_cncf_model_filepath="d/#")}, None),
    "one path": lambda n: ({"layers": _layers(n, f"{_MODELPACK}.weight.v1.raw", org_cncf_model_filepath="x")}, None),
    "tars": lambda n: ({"layers": _layers(n, f"{_MODELPACK}.weight.v1.tar")}, None),
    "titles": lambda n: ({"artifactType": "x/y", "layers": _layers(n, "a/b", title="#")}, None),
    "Docker": lambda n: ({"config": _config(f"{_DOCKER}.model.config.v0.1+json"), "layers": _layers(n, f"{_DOCKER}.gguf.v3")}, None),
    "Ollama": lambda n: (
        {"config": _config("application/vnd.docker.container.image.v1+json"), "layers": _layers(n, f"{_OLLAMA}.license")},
        None,
    ),
    "ModelKit": lambda n: _kit(n, is_old=False),
    "old ModelKit": lambda n: _kit(n, is_old=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
def test_ten_thousand_layers_take_ten_times_as_long_as_a_thousand(kind: str) -> None:
    """From the bytes of the manifest to the tree, in every kind."""
    few, many = MANIFESTS[kind](MAX_LAYERS // 10), MANIFESTS[kind](MAX_LAYERS)
    few_seconds = min(_seconds_of_recognising(*few) for _ in range(5))
    many_seconds = min(_seconds_of_recognising(*many) for _ in range(5))

    assert many_seconds < few_seconds * _QUADRATIC


def _seconds_of_recognising(document: dict[str, Any], config: bytes | None) -> float:
    content = json.dumps({"schemaVersion": 2, **document}).encode()
    file = Member("a/b", MemberType.FILE, 1, 0o644, 1, sha256="00")
    began = time.process_time()
    parsed = parse_manifest(content)
    assert isinstance(parsed, Manifest)
    artifact = recognise(parsed, Digest.of(content), config)
    assert len(parsed.layers) == len(artifact.layers)
    wanted = wanted_layers(artifact, Selection())
    build_tree(artifact, {layer.digest: [file] for layer in wanted if layer.codec.is_tar}, Selection())
    return time.process_time() - began


@pytest.mark.parametrize("field", ["layers", "manifests"])
def test_one_layer_more_is_refused(field: str) -> None:
    """Before any of them is looked at."""
    document = {"schemaVersion": 2, field: _layers(MAX_LAYERS + 1, "a/b")}
    with pytest.raises(UnsupportedArtifact, match=f"{MAX_LAYERS + 1} {field}; {MAX_LAYERS} are the limit"):
        parse_manifest(json.dumps(document).encode())


def test_index_of_ten_thousand_is_refused_without_reading_them() -> None:
    """The error lists a few; nothing is asked of the registry for the others."""
    parsed = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": _layers(MAX_LAYERS, "")}).encode())
    assert isinstance(parsed, Index)
    read: list[Descriptor] = []

    def fetch(entry: Descriptor) -> Index:
        read.append(entry)
        return parsed

    with pytest.raises(UnsupportedArtifact, match="name one of them by its digest") as caught:
        list(walk(parsed, Platform("linux", "amd64"), fetch))

    assert [] == read
    assert len(str(caught.value)) < 4000


@pytest.mark.timeout(180)
def test_pull_of_ten_thousand_files(make_sandbox: Callable[[], Sandbox]) -> None:
    """Ten times as many layers, ten times as long, to the view."""
    seconds = []
    for count in (MAX_LAYERS // 10, MAX_LAYERS):
        layers = _layers(count, f"{_MODELPACK}.weight.v1.raw", org_cncf_model_filepath="d/#")
        for number, layer in enumerate(layers):
            layer["data"] = base64.b64encode(str(number).encode()).decode()
        sandbox, began = make_sandbox(), time.process_time()
        view = sandbox.pull_manifest(json.dumps({"schemaVersion": 2, "layers": layers}).encode())
        seconds.append(time.process_time() - began)
        assert count == len(list((view / "d").iterdir()))

    assert seconds[1] < seconds[0] * _QUADRATIC


def _tar(count: int) -> Archive:
    """So many members, of which a hundredth are directories; compressed, it fits into a manifest."""
    blocks = [
        header(f"{number // 100:06d}/" + ("" if number % 100 == 0 else f"{number:06d}"), _type_of(number))
        for number in range(count)
    ]
    return Archive(gzip.compress(b"".join(blocks) + END, 6, mtime=0), MEDIA_TYPES[1])


def _type_of(number: int) -> bytes:
    return tarfile.DIRTYPE if number % 100 == 0 else tarfile.REGTYPE


@pytest.mark.timeout(240)
def test_pull_of_a_tar_of_a_hundred_thousand_members(make_sandbox: Callable[[], Sandbox]) -> None:
    """Ten times as many members, ten times as long, to the view."""
    seconds = []
    for count in (MAX_MEMBERS // 10, MAX_MEMBERS):
        archive, sandbox = _tar(count), make_sandbox()
        began = time.process_time()
        view = sandbox.pull(archive)
        seconds.append(time.process_time() - began)
        assert count // 100 == len(list(view.iterdir()))

    assert seconds[1] < seconds[0] * _QUADRATIC


def test_one_member_more_is_refused(make_sandbox: Callable[[], Sandbox]) -> None:
    """By number, and nothing of the tar is kept."""
    sandbox = make_sandbox()
    with pytest.raises(UnsupportedArtifact, match=f"over {MAX_MEMBERS} members"):
        sandbox.pull(_tar(MAX_MEMBERS + 1))

    assert [] == list(sandbox.store.content.digests())
    assert [] == list(sandbox.store.layout.ingests.iterdir())
