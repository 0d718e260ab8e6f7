"""One layer at a time: the cases of `pull/layers.py`, told apart by what arrives in the view."""

from __future__ import annotations

import gzip
import random
import tarfile
from collections.abc import Mapping
from typing import Any

import pytest
import zstandard

from modelcsi.artifact.selection import Selection
from modelcsi.errors import CorruptContent, StoreFull, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.pull.layers import KEEP_COMPRESSED_ABOVE_BYTES
from modelcsi.pull.puller import Puller, PullLimits
from modelcsi.registry.credentials import Keychain
from modelcsi.store.store import Store
from tests.fakes.content import FILE_PATH, MODEL_ARTIFACT, RAW_WEIGHT
from tests.fakes.registry import FakeRegistry
from tests.unit.artifact.builders import files_tar, tar_info, tar_of
from tests.unit.pull.conftest import Pod, tree_of, wait_until

TAR = "application/vnd.cncf.model.weight.v1.tar"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
FILES = {"config.json": b"{}", "weights/a.safetensors": b"a" * 100_000, "weights/b.bin": b"b" * 5000}


def push(
    registry: FakeRegistry, *layers: tuple[str, bytes, Mapping[str, str]], tag: str = "v1", model: bool = True
) -> Digest:
    """An artifact with these layers: media type, bytes, annotations."""
    items: list[dict[str, Any]] = []
    for media_type, content, notes in layers:
        descriptor = registry.content.add_blob("models/tiny", content, media_type)
        items.append(
            {
                "mediaType": media_type,
                "digest": str(descriptor.digest),
                "size": descriptor.size,
                "annotations": dict(notes),
            }
        )
    manifest: dict[str, Any] = {"schemaVersion": 2, "layers": items}
    if model:
        manifest["artifactType"] = MODEL_ARTIFACT
    return registry.content.add_manifest("models/tiny", manifest, tag)


@pytest.fixture
def pod(puller: Puller, fake: FakeRegistry) -> Pod:
    """Wants models/tiny:v1."""
    return Pod(puller, f"{fake.host}/models/tiny:v1")


@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), ("+gzip", gzip.compress), ("+zstd", zstandard.compress), ("", gzip.compress)]
)
def test_tars(pod: Pod, fake: FakeRegistry, store: Store, suffix: str, compress: Any) -> None:
    """Members become files; the tar itself is not kept."""
    push(fake, (TAR + suffix, compress(files_tar(FILES)), {}))
    view = pod.pull()

    assert FILES == tree_of(view.path)
    assert ([], []) == (list(store.layout.ingests.iterdir()), list(store.layout.blobs.glob("*/*")))


def test_a_selection_and_then_all(pod: Pod, fake: FakeRegistry) -> None:
    """The wider wish reads the tar again; the narrow one stays as it was."""
    push(fake, (TAR, files_tar(FILES), {}))
    narrow = Pod(pod.puller, pod.reference, selection=Selection(exclude_weights=True)).pull()
    wide = pod.pull()

    assert ({"config.json": b"{}"}, FILES) == (tree_of(narrow.path), tree_of(wide.path))
    assert wide.path.joinpath("config.json").samefile(narrow.path / "config.json")


def test_all_and_then_a_selection(pod: Pod, fake: FakeRegistry) -> None:
    """What is here is enough: no byte is moved."""
    push(fake, (TAR, files_tar(FILES), {}))
    pod.pull()
    before = fake.bytes_served.total()
    narrow = Pod(pod.puller, pod.reference, selection=Selection(exclude_weights=True)).pull()

    assert ({"config.json": b"{}"}, before) == (tree_of(narrow.path), fake.bytes_served.total())


def test_a_wanted_link_to_an_unwanted_file(pod: Pod, fake: FakeRegistry) -> None:
    """The tree is told what the link means; the progress counts the second reading once."""
    stream = tar_of(
        (tar_info("model.bin", b"w" * 1000), b"w" * 1000),
        (tar_info("readme", type=tarfile.LNKTYPE, target="model.bin"), b""),
        (tar_info("other", b"o"), b"o"),
    )
    push(fake, (TAR, stream, {}))
    view = Pod(pod.puller, pod.reference, selection=Selection(exclude_weights=True)).pull()

    assert "other" in tree_of(view.path)


@pytest.mark.parametrize("is_tar", [True, False])
def test_undecided_layers(pod: Pod, fake: FakeRegistry, is_tar: bool) -> None:
    """An image layer's type does not tell whether it is a tar: the bytes do."""
    content = files_tar(FILES) if is_tar else b"just a file"
    push(fake, (OCI_LAYER, content, {FILE_PATH: "model.bin"}))

    assert (FILES if is_tar else {"model.bin": content}) == tree_of(pod.pull().path)


@pytest.mark.parametrize("first", ["raw", "undecided"])
def test_one_digest_in_two_forms(pod: Pod, fake: FakeRegistry, first: str) -> None:
    """What an artifact means does not depend on what another one left on the node."""
    content = files_tar(FILES)
    push(fake, (RAW_WEIGHT, content, {FILE_PATH: "model.tar"}), tag="raw")
    push(fake, (OCI_LAYER, content, {FILE_PATH: "model.tar"}), tag="undecided")
    second = "undecided" if first == "raw" else "raw"
    trees = {
        tag: tree_of(Pod(pod.puller, pod.reference.replace("v1", tag), owner=tag).pull().path)
        for tag in (first, second)
    }

    assert {"raw": {"model.tar": content}, "undecided": FILES} == trees


@pytest.mark.parametrize("first", ["file", "directory"])
def test_a_tar_gzip_that_is_a_file_here_and_a_directory_there(pod: Pod, fake: FakeRegistry, first: str) -> None:
    """oras-py pushes directories under the type and title that others give to an archive."""
    content = gzip.compress(files_tar({"model/a": b"1"}), mtime=0)
    title = "org.opencontainers.image.title"
    push(fake, (f"{OCI_LAYER}+gzip", content, {title: "model"}), tag="directory", model=False)
    push(fake, (f"{OCI_LAYER}+gzip", content, {title: "model.tar.gz"}), tag="file", model=False)
    order = [first, "directory" if first == "file" else "file"]
    trees = {tag: tree_of(Pod(pod.puller, pod.reference.replace("v1", tag), owner=tag).pull().path) for tag in order}

    assert {"file": {"model.tar.gz": content}, "directory": {"model/a": b"1"}} == trees


def test_a_large_compressed_tar_is_resumed(pod: Pod, fake: FakeRegistry, make_puller: Any, store: Store) -> None:
    """Its received bytes are kept until the commit: a killed pull goes on where it was."""
    noise = {f"file-{number}": random.Random(number).randbytes(6 << 20) for number in range(4)}  # noqa: S311 - noise
    content = gzip.compress(files_tar(noise), 1)
    assert len(content) > KEEP_COMPRESSED_ABOVE_BYTES
    push(fake, (f"{TAR}+gzip", content, {}))
    digest = str(Digest.of(content))
    fake.faults.stall_after_bytes = 16 << 20
    resolved = pod.resolve()
    pod.puller._join(resolved, "pod")
    wait_until(lambda: kept_bytes(store) > 12 << 20)
    pod.puller.leave("pod")
    wait_until(lambda: not pod.puller.running())
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    view = pod.pull()

    assert noise == tree_of(view.path)
    assert fake.bytes_served[digest] < 1.4 * len(content)


def kept_bytes(store: Store) -> int:
    """What is in the ingests, as their chunk maps say."""
    return sum(path.read_bytes()[24:].count(1) << 20 for path in store.layout.ingests.glob("*/*/chunks"))


def test_damage_is_tried_three_times(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """Then it is CorruptContent; nothing is visible, nothing half-written stays."""
    content = files_tar(FILES)
    push(fake, (TAR, content, {}))
    fake.faults.flip_bit_of.add(str(Digest.of(content)))
    with pytest.raises(CorruptContent):
        pod.pull()

    assert 3 == fake.blob_gets[str(Digest.of(content))]
    assert ([], [], None) == (
        list(store.layout.views.iterdir()),
        list(store.layout.ingests.iterdir()),
        store.content.members(Digest.of(content)),
    )


def test_damage_that_passes(pod: Pod, fake: FakeRegistry) -> None:
    """The second try is right: nobody notices."""
    content = files_tar(FILES)
    push(fake, (TAR, content, {}))
    fake.faults.flip_bit_of.add(str(Digest.of(content)))
    fake.faults.bytes_per_second = 400_000
    resolved = pod.resolve()
    job = pod.puller._join(resolved, "pod")
    wait_until(lambda: fake.blob_gets[str(Digest.of(content))] > 1 or fake.bytes_served.total() == len(content))
    fake.faults.flip_bit_of.clear()
    fake.faults.bytes_per_second = 0

    assert FILES == tree_of(pod.pull().path)
    assert 0 == job.progress.remaining_bytes


def test_a_hostile_tar(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """FAILED_PRECONDITION naming path and layer, once: nothing is tried again."""
    stream = tar_of((tar_info("../escape", b"x"), b"x"))
    push(fake, (TAR, stream, {}))
    with pytest.raises(UnsupportedArtifact, match=f"escape.*layer {Digest.of(stream)}"):
        pod.pull()

    assert (1, []) == (fake.blob_gets[str(Digest.of(stream))], list(store.layout.ingests.iterdir()))


def test_a_full_store(fake: FakeRegistry, tmp_path: Any, client: Any) -> None:
    """StoreFull before a byte of a layer is asked for; other models are untouched."""
    store = Store(tmp_path / "small", lambda: 150_000)
    small = Puller(store, client, Keychain(None), PullLimits())
    fake.content.push("models/small", "v1", {"model": b"s" * 50_000})
    push(fake, (RAW_WEIGHT, bytes(120_000), {FILE_PATH: "model.bin"}))
    first = Pod(small, f"{fake.host}/models/small:v1", owner="first").pull()
    with pytest.raises(StoreFull, match=r"models/tiny:v1 needs 1200.. bytes .* are free"):
        Pod(small, f"{fake.host}/models/tiny:v1").pull()
    served = fake.bytes_served[str(Digest.of(bytes(120_000)))]
    store.close()

    assert (0, {"model": b"s" * 50_000}) == (served, tree_of(first.path))


def test_embedded_data_needs_no_blob(pod: Pod, fake: FakeRegistry) -> None:
    """A descriptor may carry its content; and the empty file is never asked for."""
    manifest = {
        "schemaVersion": 2,
        "artifactType": MODEL_ARTIFACT,
        "layers": [
            {
                "mediaType": RAW_WEIGHT,
                "digest": str(Digest.of(content)),
                "size": len(content),
                "annotations": {FILE_PATH: path},
                **data,
            }
            for path, content, data in (("a", b"inline", {"data": "aW5saW5l"}), ("b", b"", {}))
        ],
    }
    fake.content.add_manifest("models/tiny", manifest, "v1")

    assert {"a": b"inline", "b": b""} == tree_of(pod.pull().path)
    assert 0 == fake.blob_gets.total()


def test_gzip_of_one_byte_more_than_promised(pod: Pod, fake: FakeRegistry) -> None:
    """A stream with something after its end is refused."""
    stream = gzip.compress(files_tar(FILES)) + b"something else altogether"
    push(fake, (f"{TAR}+gzip", stream, {}))
    with pytest.raises(UnsupportedArtifact, match="not valid gzip"):
        pod.pull()
