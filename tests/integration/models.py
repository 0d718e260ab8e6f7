"""Models for tests: random files from a seed, in every format of a layer, for the fake registry or a real one."""

from __future__ import annotations

import enum
import gzip
import hashlib
import http.client
import io
import os
import random
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import OCI_MANIFEST
from tests.fakes.content import FILE_PATH, MODEL_ARTIFACT, MODEL_CONFIG, RAW_WEIGHT, Content
from tests.fakes.kubelet import PodVolume

MIB = 1 << 20
_WEIGHT = "application/vnd.cncf.model.weight.v1"
_RAW_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
_EPOCH = 1_700_000_000


class Format(enum.Enum):
    """How a layer packs files."""

    RAW = "raw"
    TAR = "tar"
    TAR_GZIP = "tar+gzip"
    TAR_ZSTD = "tar+zstd"

    @property
    def media_type(self) -> str:
        return f"{_WEIGHT}.{self.value}"


@dataclass(frozen=True)
class Model:
    """An artifact in some registry's repository."""

    repository: str
    tag: str
    digest: Digest
    layers: tuple[Digest, ...]
    size_bytes: int
    """Of all layers."""
    files: Mapping[str, bytes]

    def at(self, host: str) -> str:
        """Its reference."""
        return f"{host}/{self.repository}:{self.tag}"

    def volume(self, host: str, pod: str, **attributes: str) -> PodVolume:
        """A pod's inline volume of it."""
        return PodVolume(pod, {"modelRef": self.at(host), **attributes})


def random_bytes(seed: object, size: int) -> bytes:
    """The same for the same seed, and incompressible."""
    return random.Random(str(seed)).randbytes(size)  # noqa: S311 - not a secret


def random_files(seed: object, *sizes: int) -> dict[str, bytes]:
    """A model's files: weights of these sizes, and a small text in a directory."""
    weights = {
        f"model-{number:05d}.safetensors": random_bytes((seed, number), size) for number, size in enumerate(sizes)
    }
    return {**weights, "tokenizer/vocab.txt": random_bytes((seed, "vocab"), 1000)}


def push(
    content: Content, repository: str, files: Mapping[str, bytes], packed: Format = Format.RAW, tag: str = "v1"
) -> Model:
    """A ModelPack artifact: a raw layer for each file, or one tar with all of them."""
    if packed is Format.RAW:
        layers = [
            (data, RAW_WEIGHT if path.endswith(".safetensors") else _RAW_CONFIG, {FILE_PATH: path})
            for path, data in files.items()
        ]
    else:
        layers = [(compressed(tar_of(files), packed), packed.media_type, dict[str, str]())]
    return push_layers(content, repository, layers, files, tag)


def push_layers(
    content: Content,
    repository: str,
    layers: Iterable[tuple[bytes, str, Mapping[str, str]]],
    files: Mapping[str, bytes] | None = None,
    tag: str = "v1",
) -> Model:
    """A ModelPack artifact of layers given as (bytes, media type, annotations)."""
    descriptors = [
        (content.add_blob(repository, data, media_type), annotations) for data, media_type, annotations in layers
    ]
    config = content.add_blob(repository, b"{}", MODEL_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": MODEL_ARTIFACT,
        "config": {"mediaType": MODEL_CONFIG, "digest": str(config.digest), "size": config.size},
        "layers": [
            {
                "mediaType": layer.media_type,
                "digest": str(layer.digest),
                "size": layer.size,
                "annotations": dict(annotations),
            }
            for layer, annotations in descriptors
        ],
    }
    digest = content.add_manifest(repository, manifest, tag)
    size = sum(layer.size for layer, _ in descriptors)
    return Model(repository, tag, digest, tuple(layer.digest for layer, _ in descriptors), size, files or {})


def tar_of(files: Mapping[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    """A tar of these files, then of `extra` members without data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(data), 0o644, _EPOCH
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()


def compressed(data: bytes, packed: Format) -> bytes:
    """The bytes of a layer of this format whose tar is `data`."""
    if packed is Format.TAR_GZIP:
        return gzip.compress(data, 1, mtime=0)
    if packed is Format.TAR_ZSTD:
        return zstandard.ZstdCompressor(level=1).compress(data)
    return data


def shown(target: Path) -> dict[str, str]:
    """What a pod sees: each file's path and sha256."""
    return {
        str(Path(parent, name).relative_to(target)): _sha256(Path(parent, name))
        for parent, _, names in os.walk(target)
        for name in names
    }


def promised(files: Mapping[str, bytes]) -> dict[str, str]:
    """What `shown` gives for these files."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def upload(content: Content, host: str, authorization: str = "") -> None:
    """Push all repositories of `content` to a real registry."""
    headers = {"Authorization": authorization} if authorization else {}
    for repository, blobs in content.blobs.items():
        connection = http.client.HTTPConnection(host, timeout=60)
        for digest, data in blobs.items():
            location = _ask(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", headers)
            separator = "&" if "?" in location else "?"
            path = location.removeprefix(f"http://{host}")
            _ask(connection, "PUT", f"{path}{separator}digest={digest}", data, headers)
        for name, (media_type, manifest) in content.manifests[repository].items():
            typed = {**headers, "Content-Type": media_type}
            _ask(connection, "PUT", f"/v2/{repository}/manifests/{name}", manifest, typed)
        connection.close()


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> str:
    connection.request(method, path, body, {"Content-Type": "application/octet-stream", **headers})
    response = connection.getresponse()
    text = response.read()
    assert response.status in {201, 202}, f"{method} {path}: {response.status} {text[:500]!r}"
    return response.getheader("Location") or ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
