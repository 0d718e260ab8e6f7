"""Container images: what is fetched, what is written, and what others find of it."""

from __future__ import annotations

import functools
import gzip
import random
from typing import Any

import pytest

from modelcsi.artifact.members import Form, Reading
from modelcsi.artifact.selection import ROOT, Selection
from modelcsi.errors import CorruptContent, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.pull.layers import KEEP_COMPRESSED_ABOVE_BYTES
from modelcsi.pull.puller import Puller
from modelcsi.store.store import Store
from tests.fakes.registry import FakeRegistry
from tests.images import (
    CODECS,
    OCI_LAYER,
    Change,
    directory,
    file,
    hardlink,
    opaque,
    push_image,
    symlink,
    tar,
    whiteout,
)
from tests.unit.pull.conftest import Pod, tree_of, wait_until
from tests.unit.pull.test_layers import push

_REPOSITORY = "models/tiny"
_MIB = 1 << 20


@pytest.fixture
def pod(puller: Puller, fake: FakeRegistry) -> Pod:
    """Wants models/tiny:v1."""
    return Pod(puller, f"{fake.host}/{_REPOSITORY}:v1")


def another(pod: Pod, tag: str = "v1", **selection: Any) -> Pod:
    """A pod with another wish."""
    reference = pod.reference.rpartition(":")[0]
    return Pod(pod.puller, f"{reference}:{tag}", owner=f"{tag}{selection}", selection=Selection(**selection))


@functools.cache
def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no compression makes fewer."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - noise


BASE = [
    directory("etc"),
    file("etc/passwd", b"root"),
    symlink("etc/mtab", "/proc/mounts"),
    file("usr/bin/sh", b"#" * 5000),
]
MODEL = [directory("models"), file("models/model.gguf", b"w" * 10_000), symlink("models/model.file", "model.gguf")]
SHOWN = {"model.gguf": b"w" * 10_000, "model.file": b"w" * 10_000}


def on_disk(store: Store) -> int:
    """Bytes of all that the store has of contents and ingests, records not counted."""
    files = [*store.layout.ingests.rglob("*"), *store.layout.layers.rglob("*"), *store.layout.blobs.rglob("*")]
    written = [path for path in files if path.is_file() and path.suffix != ".json" and path.name != "chunks"]
    return sum(path.stat().st_blocks * 512 for path in written)


def received_bytes(store: Store, codec: str) -> int:
    """How far a layer is written: its bytes as they came, or the members of an uncompressed one. Its blocks are taken before."""
    written = store.layout.ingests.glob("*/*/data" if codec else "*/*/tar/members/*")
    return sum(path.stat().st_size for path in written)


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_images(pod: Pod, fake: FakeRegistry, store: Store, codec: str, docker: bool) -> None:
    """/models is shown; of the base layer nothing is kept but that it was read."""
    base, model = push_image(fake.content, _REPOSITORY, "v1", BASE, MODEL, codec=codec, docker=docker)
    view = pod.pull()

    assert SHOWN == tree_of(view.path)
    assert "model.gguf" == str((view.path / "model.file").readlink())
    assert ([], ["1"]) == tuple(
        [path.name for path in store.layout.layer(Digest.parse(digest)).iterdir()] for digest in (base, model)
    )
    assert () == store.content.members(Digest.parse(base), Reading(Form.IMAGE, ("models",)))
    assert [] == list(store.layout.ingests.iterdir())


@pytest.mark.parametrize("codec", ["", "gzip"])
def test_base_layers_are_not_written(pod: Pod, fake: FakeRegistry, store: Store, codec: str) -> None:
    """Not even for a resume: while a large one comes, the store stays as it was."""
    base = [file("usr/lib/large", noise(40 * _MIB))]
    digest, _ = push_image(fake.content, _REPOSITORY, "v1", base, MODEL, codec=codec)
    fake.faults.stall_after_bytes = 30 * _MIB
    resolved = pod.resolve()
    job = pod.puller._join(resolved, "pod")
    wait_until(lambda: fake.bytes_served[digest] >= 30 * _MIB)
    wait_until(lambda: job.progress.remaining_bytes < 15 * _MIB)
    written = on_disk(store)
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()

    assert written < 2 * _MIB
    assert SHOWN == tree_of(pod.pull().path)


@pytest.mark.parametrize("codec", ["", "gzip", "zstd"])
def test_a_killed_pull_goes_on(pod: Pod, fake: FakeRegistry, store: Store, codec: str) -> None:
    """What came of the model is not fetched again, but for what came before it in its layer."""
    weights = {f"m{number}": noise(6 * _MIB, number) for number in range(5)}
    layer = [file("etc/before", noise(2 * _MIB, 9)), *(file(f"models/{name}", data) for name, data in weights.items())]
    (digest,) = push_image(fake.content, _REPOSITORY, "v1", layer, codec=codec)
    size = len(fake.content.blobs[_REPOSITORY][digest])
    assert size > KEEP_COMPRESSED_ABOVE_BYTES
    fake.faults.stall_after_bytes = 24 * _MIB
    resolved = pod.resolve()
    pod.puller._join(resolved, "pod")
    wait_until(lambda: received_bytes(store, codec) > 15 * _MIB)
    pod.puller.leave("pod")
    wait_until(lambda: not pod.puller.running())
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    view = pod.pull()

    assert weights == tree_of(view.path)
    assert fake.bytes_served[digest] < 1.4 * size


@pytest.mark.parametrize("codec", ["", "gzip"])
def test_damage(pod: Pod, fake: FakeRegistry, store: Store, codec: str) -> None:
    """In any layer, also one of which nothing is kept: the digest is that of the blob."""
    digest, _ = push_image(fake.content, _REPOSITORY, "v1", BASE, MODEL, codec=codec)
    fake.faults.flip_bit_of.add(digest)
    with pytest.raises(CorruptContent):
        pod.pull()

    assert 3 == fake.blob_gets[digest]
    assert [] == list(store.layout.views.iterdir())


def test_images_share_layers(pod: Pod, fake: FakeRegistry) -> None:
    """A base layer, and a model, are fetched once for all images that have them."""
    base, model = push_image(fake.content, _REPOSITORY, "v1", BASE, MODEL)
    push_image(fake.content, _REPOSITORY, "v2", BASE, MODEL, [whiteout("models/model.file"), file("models/new", b"n")])
    first, second = pod.pull(), another(pod, "v2").pull()

    assert {"model.gguf": SHOWN["model.gguf"], "new": b"n"} == tree_of(second.path)
    assert (1, 1) == (fake.blob_gets[base], fake.blob_gets[model])
    assert (first.path / "model.gguf").samefile(second.path / "model.gguf")


def test_whiteouts_across_layers(pod: Pod, fake: FakeRegistry) -> None:
    """As the specification says, with links to files of earlier layers."""
    layers: list[list[Change]] = [
        [file("models/a", b"1"), file("models/d/x", b"x"), file("models/gone", b"g")],
        [hardlink("models/link", "models/a"), opaque("models/d"), file("models/d/y", b"y"), whiteout("models/gone")],
        [file("models/a/now/a/directory", b"2")],
    ]
    push_image(fake.content, _REPOSITORY, "v1", *layers)

    assert {"link": b"1", "d/y": b"y", "a/now/a/directory": b"2"} == tree_of(pod.pull().path)


def test_a_layer_that_is_there_twice(pod: Pod, fake: FakeRegistry) -> None:
    """It is fetched once and applied twice; a selection counts for it as for others."""
    model = [file("models/a", b"1"), file("opt/b", b"2")]
    digest, *_ = push_image(fake.content, _REPOSITORY, "v1", model, [whiteout("opt/b"), whiteout("models/a")], model)
    views = [pod.pull(), another(pod, sub_path="opt").pull()]

    assert [{"a": b"1"}, {"b": b"2"}] == [tree_of(view.path) for view in views]
    assert 2 == fake.blob_gets[digest]


def test_an_image_that_shows_its_root(pod: Pod, fake: FakeRegistry) -> None:
    """Known when all layers were read, which are then read again; who says so beforehand reads once."""
    layer = [file("model.gguf", b"w"), file("config.json", b"{}"), symlink("latest", "/model.gguf")]
    (digest,) = push_image(fake.content, _REPOSITORY, "v1", layer)
    expected = {"model.gguf": b"w", "config.json": b"{}", "latest": b"w"}
    resolved = pod.resolve()
    job = pod.puller._join(resolved, "pod")

    assert expected == tree_of(pod.pull().path)
    assert (2, 0) == (fake.blob_gets[digest], job.progress.remaining_bytes)
    (digest,) = push_image(fake.content, _REPOSITORY, "v2", [*layer, file("more")])
    assert {**expected, "more": b"content"} == tree_of(another(pod, "v2", sub_path=ROOT).pull().path)
    assert 1 == fake.blob_gets[digest]


def test_a_plain_image(pod: Pod, fake: FakeRegistry) -> None:
    """Refused in one sentence; who tries again does not fetch it again."""
    (digest,) = push_image(fake.content, _REPOSITORY, "v1", BASE)
    for owner in ("one", "two"):
        with pytest.raises(UnsupportedArtifact, match="is a container image without a model"):
            Pod(pod.puller, pod.reference, owner).pull()

    assert 1 == fake.blob_gets[digest]


def test_volumes_of_several_directories(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """A layer is read again around another directory; nothing that was kept is lost or fetched a third time."""
    layer = [file("models/a", b"1"), file("models/b.bin", b"2"), file("opt/c", b"3")]
    (digest,) = push_image(fake.content, _REPOSITORY, "v1", layer)
    wishes: list[tuple[dict[str, Any], dict[str, bytes]]] = [
        ({"exclude_weights": True}, {"a": b"1"}),
        ({"sub_path": "opt"}, {"c": b"3"}),
        ({"sub_path": "models", "include": ("a",)}, {"a": b"1"}),
        ({}, {"a": b"1", "b.bin": b"2"}),
        ({"sub_path": "opt", "include": ("c",)}, {"c": b"3"}),
    ]
    gets = []
    views = []
    for selection, expected in wishes:
        views.append(another(pod, **selection).pull())
        gets.append(fake.blob_gets[digest])
        assert expected == tree_of(views[-1].path)

    assert [1, 2, 2, 3, 3] == gets
    assert (views[0].path / "a").samefile(views[2].path / "a")
    assert (views[1].path / "c").samefile(views[4].path / "c")
    assert [] == store.content.verify(Digest.parse(digest))


@pytest.mark.parametrize("order", [("image", "model"), ("model", "image")])
def test_a_blob_that_is_of_an_image_and_of_a_modelpack(pod: Pod, fake: FakeRegistry, order: tuple[str, str]) -> None:
    """olot's are: here /models is shown, there the whole tar; neither takes the other's record for its own."""
    stream = tar([file("models/m", b"1"), file("LICENSE", b"2")])
    push_image(fake.content, _REPOSITORY, "image", stream, codec="")
    push(fake, ("application/vnd.cncf.model.weight.v1.tar", stream, {}), tag="model")
    expected = {"image": {"m": b"1"}, "model": {"models/m": b"1", "LICENSE": b"2"}}

    assert [expected[tag] for tag in order] == [tree_of(another(pod, tag).pull().path) for tag in order]
    assert expected["image"] == tree_of(another(pod, "image", include=("m",)).pull().path)


def test_filters(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """On the paths that are shown; what is not wanted is not written."""
    layer = [file("models/w/model.safetensors"), file("models/w/config.json", b"{}"), file("models/README", b"r")]
    (digest,) = push_image(fake.content, _REPOSITORY, "v1", layer)
    view = another(pod, include=("/w",), exclude_weights=True).pull()

    assert {"w/config.json": b"{}"} == tree_of(view.path)
    assert ["1"] == [path.name for path in store.layout.layer(Digest.parse(digest)).iterdir()]


def test_a_link_that_leaves(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """Refused when all is known; nothing is shown."""
    push_image(fake.content, _REPOSITORY, "v1", [*MODEL, symlink("models/passwd", "/etc/passwd")], BASE)
    with pytest.raises(UnsupportedArtifact, match="unsafe link 'passwd' -> '/etc/passwd' in layer sha256:"):
        pod.pull()

    assert [] == list(store.layout.views.iterdir())


def test_an_image_layer_that_is_damaged_inside(pod: Pod, fake: FakeRegistry) -> None:
    """A base layer has to be a tar to its end, too: what it hides or replaces is not known otherwise."""
    broken = tar(BASE)[:-3000]
    push_image(fake.content, _REPOSITORY, "v1", MODEL, broken, codec="")
    with pytest.raises(UnsupportedArtifact, match="ends in the middle of a member"):
        pod.pull()


def test_a_base_layer_of_very_many_members(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """More than an artifact may have."""
    one = tar([file("usr/share/doc/x", b"")])[:512]
    base, _ = push_image(fake.content, _REPOSITORY, "v1", one * 110_000 + tar([]), MODEL)
    view = pod.pull()

    assert SHOWN == tree_of(view.path)
    assert store.layout.layer_record(Digest.parse(base)).stat().st_size < 1000


def test_layer_type_without_a_codec(pod: Pod, fake: FakeRegistry) -> None:
    """The bytes tell: some registries' tools write gzip under a plain tar's type."""
    blob = gzip.compress(tar(MODEL))
    push_image(fake.content, _REPOSITORY, "v1", blob, codec="")

    assert SHOWN == tree_of(pod.pull().path)
    assert OCI_LAYER in str(fake.content.manifests[_REPOSITORY]["v1"])
