"""Layers that are one compressed file: shown decompressed, and never taken for a tar of the same bytes."""

from __future__ import annotations

import gzip
import random
from typing import Any

import pytest
import zstandard

from modelcsi.artifact.selection import Selection
from modelcsi.errors import CorruptContent, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.pull.layers import KEEP_COMPRESSED_ABOVE_BYTES
from modelcsi.pull.puller import Puller
from modelcsi.store.store import Store
from tests.fakes.registry import FakeRegistry
from tests.unit.artifact.builders import FILEPATH, METADATA, files_tar
from tests.unit.pull.conftest import FILES, Pod, tree_of, wait_until

KIT = "application/vnd.kitops.modelkit"
WEIGHTS = FILES["model.safetensors"]


def push_kit(registry: FakeRegistry, *layers: tuple[str, bytes, dict[str, str]], tag: str = "v1") -> Digest:
    """A ModelKit of layers given as (end of the media type, bytes, annotations)."""
    found = [
        (
            registry.content.add_blob(
                "models/kit", content, f"{KIT}.{suffix if '.v1.' in suffix else f'model.v1.{suffix}'}"
            ),
            annotations,
        )
        for suffix, content, annotations in layers
    ]
    items = [
        {"mediaType": item.media_type, "digest": str(item.digest), "size": item.size, "annotations": annotations}
        for item, annotations in found
    ]
    manifest: dict[str, Any] = {"schemaVersion": 2, "artifactType": f"{KIT}.manifest.v1+json", "layers": items}
    return registry.content.add_manifest("models/kit", manifest, tag)


def pod_of(puller: Puller, registry: FakeRegistry, tag: str = "v1", **fields: Any) -> Pod:
    """Somebody who wants the ModelKit."""
    return Pod(puller, f"{registry.host}/models/kit:{tag}", tag, **fields)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("raw+gzip", gzip.compress(WEIGHTS)),
        ("raw+gzip", gzip.compress(WEIGHTS[:1000]) + gzip.compress(WEIGHTS[1000:])),
        ("raw+zstd", zstandard.compress(WEIGHTS)),
    ],
)
def test_file_is_shown_decompressed(puller: Puller, fake: FakeRegistry, suffix: str, content: bytes) -> None:
    """With its mode and time; fetched once."""
    metadata = '{"mode":493,"mtime":"2001-09-09T01:46:40Z"}'
    push_kit(fake, (suffix, content, {FILEPATH: "d/model.bin", METADATA: metadata}))
    path = pod_of(puller, fake).pull().path
    pod_of(puller, fake).pull()
    status = (path / "d" / "model.bin").stat()

    assert {"d/model.bin": WEIGHTS} == tree_of(path)
    assert (0o555, 10**18, 1) == (status.st_mode & 0o777, status.st_mtime_ns, fake.blob_gets.total())


def test_large_file_goes_on_where_it_stopped(puller: Puller, fake: FakeRegistry) -> None:
    """What was received is kept, as of a compressed tar."""
    noise = bytes(range(256)) * ((KEEP_COMPRESSED_ABOVE_BYTES >> 8) + 4096)
    content = gzip.compress(noise, 0)
    push_kit(fake, ("raw+gzip", content, {FILEPATH: "x"}))
    fake.faults.cut_every_bytes = len(content) // 2

    assert {"x": noise} == tree_of(pod_of(puller, fake).pull().path)
    assert fake.bytes_served.total() < 1.2 * len(content)


def test_same_file_at_two_paths(puller: Puller, fake: FakeRegistry) -> None:
    """Downloaded once, and one inode."""
    content = gzip.compress(WEIGHTS)
    push_kit(fake, ("raw+gzip", content, {FILEPATH: "a"}), ("raw+gzip", content, {FILEPATH: "b"}))
    path = pod_of(puller, fake).pull().path

    assert (path / "a").samefile(path / "b")
    assert 1 == fake.blob_gets.total()


def test_file_that_is_not_wanted_is_not_fetched(puller: Puller, fake: FakeRegistry) -> None:
    """Its path is told by the manifest."""
    other = ("docs.v1.raw+gzip", gzip.compress(b"# model"), {FILEPATH: "README.md"})
    push_kit(fake, ("raw+gzip", gzip.compress(WEIGHTS), {FILEPATH: "model.safetensors"}), other)
    path = pod_of(puller, fake, selection=Selection(exclude_weights=True)).pull().path

    assert ({"README.md": b"# model"}, 1) == (tree_of(path), fake.blob_gets.total())


@pytest.mark.parametrize(("suffix", "message"), [("raw+gzip", "gzip"), ("raw+zstd", "zstd")])
def test_file_that_is_not_compressed(puller: Puller, fake: FakeRegistry, suffix: str, message: str) -> None:
    """The type is believed: showing other bytes than the producer's tool unpacks would be worse."""
    push_kit(fake, (suffix, b"plain text", {FILEPATH: "x"}))
    with pytest.raises(UnsupportedArtifact, match=message):
        pod_of(puller, fake).pull()


def test_damaged_file(puller: Puller, fake: FakeRegistry, store: Store) -> None:
    """Nothing of it is kept under its name."""
    content = zstandard.ZstdCompressor(write_checksum=False).compress(bytes(1000))
    push_kit(fake, ("raw+zstd", content, {FILEPATH: "x"}))
    fake.faults.flip_bit_of.add(str(Digest.of(content)))
    with pytest.raises((CorruptContent, UnsupportedArtifact)):
        pod_of(puller, fake).pull()

    assert [] == list(store.layout.layers.glob("*/*"))


def test_bomb(puller: Puller, fake: FakeRegistry) -> None:
    """A file that grows without end is refused as a tar is."""
    content = zstandard.ZstdCompressor().compress(bytes((1 << 30) + (1 << 20)))
    push_kit(fake, ("raw+zstd", content, {FILEPATH: "x"}))
    with pytest.raises(UnsupportedArtifact, match="decompression bomb"):
        pod_of(puller, fake).pull()


def test_killed_pull_goes_on_where_it_was(puller: Puller, fake: FakeRegistry, store: Store) -> None:
    """Also when nobody waited for it in between."""
    noise = random.Random(1).randbytes(KEEP_COMPRESSED_ABOVE_BYTES + (8 << 20))  # noqa: S311 - noise
    content = gzip.compress(noise, 1)
    push_kit(fake, ("raw+gzip", content, {FILEPATH: "x"}))
    pod = pod_of(puller, fake)
    fake.faults.stall_after_bytes = 16 << 20
    resolved = pod.resolve()
    puller._join(resolved, "pod")
    wait_until(lambda: sum(path.read_bytes()[24:].count(1) for path in store.layout.ingests.glob("*/*/chunks")) > 12)
    puller.leave("pod")
    wait_until(lambda: not puller.running())
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()

    assert {"x": noise} == tree_of(pod.pull().path)
    assert fake.bytes_served.total() < 1.4 * len(content)


@pytest.mark.parametrize("order", [("raw+gzip", "tar+gzip"), ("tar+gzip", "raw+gzip")])
def test_same_bytes_as_a_tar_of_another_artifact(puller: Puller, fake: FakeRegistry, order: tuple[str, str]) -> None:
    """What an artifact means does not depend on what another one called the same bytes; what is mounted stays."""
    tar = files_tar({"a": b"1", "b/c": b"2"})
    expected = {"raw+gzip": {"x.tar": tar}, "tar+gzip": {"a": b"1", "b/c": b"2"}}
    for suffix in order:
        push_kit(fake, (suffix, gzip.compress(tar, mtime=0), {FILEPATH: "x.tar"}), tag=suffix.replace("+", "-"))
    pods = [pod_of(puller, fake, suffix.replace("+", "-")) for suffix in order]
    paths = [pod.pull().path for pod in (*pods, *pods)]

    assert [expected[suffix] for suffix in (*order, *order)] == [tree_of(path) for path in paths]


def test_one_digest_in_two_forms_is_refused(puller: Puller, fake: FakeRegistry) -> None:
    """Within one artifact."""
    content = gzip.compress(WEIGHTS)
    push_kit(fake, ("raw+gzip", content, {FILEPATH: "a"}), ("raw", content, {FILEPATH: "b"}))
    with pytest.raises(UnsupportedArtifact, match="in two forms"):
        pod_of(puller, fake).pull()
