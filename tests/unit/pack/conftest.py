"""A small model, and how it is packed."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelcsi.artifact.layer import RAW, Codec
from modelcsi.oci.manifest import Manifest, parse_manifest
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import PackedArtifact, open_layout
from modelcsi.pack.pack import PackSettings, pack
from modelcsi.pack.walk import walk
from modelcsi.registry.transport import HttpTransport
from tests.fakes.push_registry import PushRegistry

MTIME_NS = 1_700_000_000_123_456_789
REFERENCE = Reference.parse("registry.test/models/tiny:v1")
# Long enough for pax, beyond ASCII, empty, just over a block, executable: what a tar may get wrong.
FILES = {
    "config.json": (b'{"model_type": "tiny", "architectures": ["Tiny"], "torch_dtype": "float16"}', 0o644),
    "empty.txt": (b"", 0o644),
    "run.py": (b"print()\n" * 65, 0o755),
    "tokenizer_é.json": (b"{}", 0o600),
    f"text_encoder/{'long' * 30}/weights.bin": (bytes(range(256)) * 5000, 0o444),
    "README.md": (b"# tiny\n", 0o640),
}

Packer = Callable[..., PackedArtifact]


def safetensors(shape: list[int], dtype: str = "BF16", name: str = "weight") -> bytes:
    """A file of one tensor of zeros."""
    width = {"BF16": 2, "F32": 4, "I32": 4}[dtype]
    size = width
    for dimension in shape:
        size *= dimension
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}, "__metadata__": {"a": "b"}})
    return struct.pack("<Q", len(header)) + header.encode() + bytes(size)


def gguf(
    metadata: dict[str, str | int | float | bool | list[str] | list[int]],
    tensors: dict[str, tuple[list[int], int]],
    *,
    version: int = 3,
    order: str = "<",
) -> bytes:
    """The head of a file: metadata, and tensors by name with shape and type."""
    length = "I" if version == 1 else "Q"

    def text(value: str) -> bytes:
        return struct.pack(f"{order}{length}", len(value.encode())) + value.encode()

    def tagged(value: object) -> bytes:
        if isinstance(value, bool):
            return struct.pack(f"{order}I?", 7, value)
        if isinstance(value, int):
            return struct.pack(f"{order}II", 4, value)
        if isinstance(value, float):
            return struct.pack(f"{order}If", 6, value)
        if isinstance(value, str):
            return struct.pack(f"{order}I", 8) + text(value)
        assert isinstance(value, list)
        items = b"".join(text(item) if isinstance(item, str) else struct.pack(f"{order}I", item) for item in value)
        kind = 8 if value and isinstance(value[0], str) else 4
        return struct.pack(f"{order}II{length}", 9, kind, len(value)) + items

    parts = [b"GGUF", struct.pack(f"{order}I{length}{length}", version, len(tensors), len(metadata))]
    parts += [text(key) + tagged(value) for key, value in metadata.items()]
    for name, (shape, kind) in tensors.items():
        parts.append(text(name) + struct.pack(f"{order}I{len(shape)}{length}IQ", len(shape), *shape, kind, 0))
    return b"".join(parts)


def write(root: Path, path: str, content: bytes = b"content", mode: int = 0o644) -> Path:
    """A file with a time of its own."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    os.utime(file, ns=(MTIME_NS, MTIME_NS))
    return file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with one file of each difficulty."""
    root = tmp_path / "model"
    for path, (content, mode) in FILES.items():
        write(root, path, content, mode)
    write(root, "model.safetensors", safetensors([100, 10]))
    return root


@pytest.fixture
def packed(tmp_path: Path) -> Packer:
    """`packed(directory, codec)` is the artifact that packing gives, read back from its layout."""

    def run(
        directory: Path,
        codec: Codec = RAW,
        *,
        output: str = "packed.oci",
        epoch: int | None = None,
        keeps_times: bool = False,
    ) -> PackedArtifact:
        layout = tmp_path / output
        pack(walk(directory), layout, PackSettings(REFERENCE, codec, epoch, keeps_times))
        return open_layout(layout, REFERENCE)

    return run


def manifest_of(artifact: PackedArtifact) -> Manifest:
    """Its manifest, parsed from its bytes."""
    manifest = parse_manifest(artifact.content)
    assert isinstance(manifest, Manifest)
    return manifest


@pytest.fixture(scope="module")
def transport() -> Iterator[HttpTransport]:
    """One for all."""
    transport = HttpTransport()
    yield transport
    transport.close()


@pytest.fixture
def registry() -> Iterator[PushRegistry]:
    """An empty registry."""
    with PushRegistry() as running:
        yield running
