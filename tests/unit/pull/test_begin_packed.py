"""Packed layers of a job whose files are read while they arrive: indexed tars, told files, and those that are waited for."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
import zstandard

from modelcsi.artifact.layouts import Layout
from modelcsi.artifact.selection import Selection
from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, StoreFull, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import Filling, PulledView, Puller, PullLimits
from modelcsi.pull.resolve import Wish
from modelcsi.registry.credentials import Keychain
from modelcsi.store.store import Store
from tests.fakes.content import FILE_PATH, RAW_WEIGHT
from tests.fakes.registry import FakeRegistry
from tests.unit.artifact.builders import METADATA, files_tar, tar_info, tar_of
from tests.unit.pull.conftest import Pod, tree_of, wait_until
from tests.unit.pull.test_begin import Answer, Log, begin, filling
from tests.unit.pull.test_layers import OCI_LAYER, TAR, push

MIB = 1 << 20


def noise(seed: int, size: int) -> bytes:
    """Incompressible."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - noise


FILES = {"config.json": b"{}", "a.bin": noise(1, 5 * MIB), "dir/b.bin": noise(2, 4 * MIB + 99), "last.txt": b"the end"}
STREAM = files_tar(FILES)
DIGEST = Digest.of(STREAM)


@pytest.fixture
def pod(puller: Puller, fake: FakeRegistry) -> Pod:
    """Wants models/tiny:v1."""
    return Pod(puller, f"{fake.host}/models/tiny:v1")


def finish(pod: Pod, fake: FakeRegistry, found: Filling, log: Log) -> dict[str, bytes]:
    """The complete tree, of which no byte came twice: the headers alone did."""
    fake.faults.bytes_per_second_in_all = 0
    wait_until(lambda: not pod.puller.running())
    assert ("filled", None) == log.events[-1]
    assert 0 == found.job.progress.remaining_bytes
    view = begin(pod, Log())
    assert isinstance(view, PulledView)
    return tree_of(view.path)


def sizes(found: Filling) -> dict[str, int]:
    """Its files."""
    return {entry.path: entry.size for entry in found.tree.entries if entry.layer is not None}


def test_a_tar_is_read_while_it_arrives(pod: Pod, fake: FakeRegistry, store: Store) -> None:
    """The tree is known by its headers; a member's bytes are at their place when a want of them is answered."""
    push(fake, (TAR, STREAM, {}))
    fake.faults.bytes_per_second_in_all = 4_000_000
    log, answer = Log(), Answer()
    found = filling(pod, log)
    headers = fake.bytes_served[str(DIGEST)]
    offset = found.offsets[DIGEST, 2]
    found.job.want(DIGEST, offset + 4 * MIB, offset + 4 * MIB + 99, answer)
    assert answer.come.wait(20)
    early = (store.layout.ingest(DIGEST, fake.host) / "tar/members/2").read_bytes()[4 * MIB :]
    told = list(log.events)
    tree = finish(pod, fake, found, log)

    assert ({path: len(data) for path, data in FILES.items()}, ()) == (sizes(found), found.waited_for)
    assert FILES["dir/b.bin"][4 * MIB :] == early
    assert ([("opened", DIGEST)], ["opened", "complete"], FILES) == (told, log.of(DIGEST), tree)
    assert headers < 200_000
    assert fake.bytes_served[str(DIGEST)] <= len(STREAM) + headers
    assert STREAM[offset : offset + 9] == FILES["dir/b.bin"][:9]


def test_small_members_are_not_fetched_twice(pod: Pod, fake: FakeRegistry) -> None:
    """What is read for the index in whole chunks is kept."""
    files = {f"d{number % 7}/f{number}": noise(number, 900) for number in range(4000)}
    push(fake, (TAR, stream := files_tar(files), {}))
    log = Log()
    found = filling(pod, log)
    tree = finish(pod, fake, found, log)

    assert files == tree
    assert fake.bytes_served[str(Digest.of(stream))] <= 1.01 * len(stream)
    assert fake.blob_gets[str(Digest.of(stream))] < 15


def test_a_selection(puller: Puller, fake: FakeRegistry, store: Store) -> None:
    """Only what is wanted gets a file; a wanted link is kept with the file that it names."""
    stream = tar_of(
        (tar_info("model.bin", FILES["a.bin"]), FILES["a.bin"]),
        (tar_info("readme", type=b"1", target="model.bin"), b""),
        (tar_info("other.bin", b"o" * 2 * MIB), b"o" * 2 * MIB),
    )
    push(fake, (TAR, STREAM, {}), tag="v1")
    push(fake, (TAR, stream, {}), tag="v2")
    logs, trees, names = (Log(), Log()), [], []
    for tag, log, exclude in (("v1", logs[0], "a.bin"), ("v2", logs[1], "*.bin")):
        pod = Pod(puller, f"{fake.host}/models/tiny:{tag}", tag, selection=Selection(exclude=(exclude,)))
        found = filling(pod, log)
        names.append(set(sizes(found)))
        trees.append(set(finish(pod, fake, found, log)))

    assert [FILES.keys() - {"a.bin"}, {"readme"}] == trees == names
    assert {"0", "2", "3"} == {path.name for path in store.layout.layer(DIGEST).iterdir()}


def test_a_registry_without_ranges(pod: Pod, fake: FakeRegistry) -> None:
    """The tree is known when the layer is here; somebody is told why."""
    push(fake, (TAR, STREAM, {}), (RAW_WEIGHT, big := noise(9, 30 * MIB), {FILE_PATH: "big"}))
    fake.faults.ignores_ranges = True
    fake.faults.bytes_per_second = 20_000_000
    log = Log()
    found = filling(pod, log)
    fake.faults.bytes_per_second = 0
    tree = finish(pod, fake, found, log)

    assert (1, True) == (len(found.waited_for), "does not serve parts" in found.waited_for[0])
    assert [(Digest.of(big), None)] == list(found.offsets)
    assert FILES | {"big": big} == tree


@pytest.mark.parametrize("kind", ["gzip", "mislabelled", "undecided"])
def test_what_must_be_here_first(pod: Pod, fake: FakeRegistry, kind: str) -> None:
    """The tree waits, and says for which layer."""
    content = STREAM if kind == "undecided" else gzip.compress(STREAM, 1)
    media_type = {"gzip": f"{TAR}+gzip", "mislabelled": TAR, "undecided": OCI_LAYER}[kind]
    push(
        fake, (media_type, content, {FILE_PATH: "x"}), (RAW_WEIGHT, noise(9, 30 * MIB), {FILE_PATH: "big"}), model=True
    )
    fake.faults.bytes_per_second_in_all = 30_000_000
    log = Log()
    found = filling(pod, log)
    tree = finish(pod, fake, found, log)

    assert 1 == len(found.waited_for)
    assert str(Digest.of(content)) in found.waited_for[0]
    assert set(sizes(found)) == set(tree) > set(FILES)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_compressed_tar_of_one_file(pod: Pod, fake: FakeRegistry, compress: Any) -> None:
    """Its first header tells the file, which is read when the layer is complete."""
    data = noise(3, 3 * MIB)
    content = compress(files_tar({"model.bin": data}))
    suffix = "gzip" if compress is gzip.compress else "zstd"
    push(fake, (f"{TAR}+{suffix}", content, one_file("model.bin", len(data))))
    fake.faults.bytes_per_second_in_all = 4_000_000
    log, answer = Log(), Answer()
    found = filling(pod, log)
    digest = Digest.of(content)
    found.job.want(digest, 0, 1, answer)
    was_answered = answer.come.is_set()
    tree = finish(pod, fake, found, log)

    assert ({"model.bin": len(data)}, {}, ()) == (sizes(found), found.offsets, found.waited_for)
    assert (False, [None], ["complete"]) == (was_answered, answer.errors, log.of(digest))
    assert {"model.bin": data} == tree


def test_a_compressed_tar_that_holds_more_than_it_says(pod: Pod, fake: FakeRegistry) -> None:
    """Who was shown one file must not find two: the layer fails."""
    data = noise(3, MIB)
    content = gzip.compress(files_tar({"model.bin": data, "more": b"more"}), 1)
    push(fake, (f"{TAR}+gzip", content, one_file("model.bin", len(data))))
    log, answer = Log(), Answer()
    found = filling(pod, log)
    found.job.want_complete(Digest.of(content), answer)
    assert answer.come.wait(20)

    assert [UnsupportedArtifact] == [type(error) for error in answer.errors]
    assert {"model.bin": len(data)} == sizes(found)


class Lying(dict[str, bytes]):
    """Blobs of which the parts, until `is_honest`, are not those of the whole."""

    is_honest = False
    other = b""

    def get(self, digest: str, default: object = None) -> bytes:
        return self[digest] if self.is_honest else self.other


@pytest.mark.parametrize("is_same", [True, False])
def test_headers_that_differ_from_the_stream(puller: Puller, fake: FakeRegistry, store: Store, is_same: bool) -> None:
    """What was written by them is discarded, and who read is told before; then the layer comes as it does for others. If it
    is another tree than the one that was shown, the job fails.
    """
    other = files_tar({name.replace("last", "lost") if not is_same else name: data for name, data in FILES.items()})
    damaged = bytearray(other)
    damaged[len(other) // 2] ^= 1
    push(fake, (TAR, STREAM, {}))
    blobs = Lying(fake.content.blobs["models/tiny"])
    blobs.other = bytes(damaged)
    fake.content.blobs["models/tiny"] = blobs
    fake.faults.bytes_per_second_in_all = 6_000_000
    log = Log(at_restart=lambda layer: (store.layout.ingest(layer, fake.host) / "tar").exists())
    pod = Pod(puller, f"{fake.host}/models/tiny:v1")
    begin(pod, log)
    wait_until(lambda: "restarted" in log.of(DIGEST) or fake.bytes_served[str(DIGEST)] > 9 * MIB)
    blobs.is_honest = True
    fake.faults.bytes_per_second_in_all = 0
    wait_until(lambda: not puller.running())

    assert log.events[:2] == [("opened", DIGEST), ("restarted", DIGEST, CorruptContent, True)]
    if is_same:
        assert [("complete", DIGEST), ("filled", None)] == log.events[2:]
    else:
        assert ("filled", UnsupportedArtifact) == log.events[-1]
        assert "complete" not in log.of(DIGEST)


@pytest.mark.parametrize("again", ["fill", "pull"])
def test_a_killed_fill_goes_on(make_puller: Any, fake: FakeRegistry, again: str) -> None:
    """By the same index, also for who wants the whole; nothing is fetched twice but the headers."""
    push(fake, (TAR, STREAM, {}))
    fake.faults.bytes_per_second_in_all = 8_000_000
    first = Pod(make_puller(), f"{fake.host}/models/tiny:v1")
    found, answer = filling(first, Log()), Answer()
    at = found.offsets[DIGEST, 2]
    found.job.want(DIGEST, at + 2 * MIB, at + 3 * MIB, answer)
    assert answer.come.wait(20)
    first.puller.stop(Deadline.after(10))
    came = fake.bytes_served[str(DIGEST)]
    fake.faults.bytes_per_second_in_all = 0
    second = Pod(make_puller(), first.reference)
    view = begin(second, Log()) if again == "fill" else second.pull()
    wait_until(lambda: not second.puller.running())

    assert FILES == tree_of(second.pull().path)
    assert isinstance(view, PulledView if again == "pull" else (Filling, PulledView))
    assert fake.bytes_served[str(DIGEST)] < len(STREAM) + 3 * MIB
    assert came > MIB


def test_two_lazy_callers_and_one_who_joins_late(pod: Pod, fake: FakeRegistry) -> None:
    """One job, one tree; each is told all, the second first what was so already."""
    push(fake, (TAR, STREAM, {}))
    fake.faults.bytes_per_second_in_all = 4_000_000
    log, late = Log(), Log()
    found = filling(pod, log)
    wait_until(lambda: bool(log.events))
    other = Pod(pod.puller, pod.reference, "other")
    second = filling(other, late)
    finish(pod, fake, found, log)
    wait_until(lambda: len(log.events) == len(late.events))

    assert (found.job, found.tree) == (second.job, second.tree)
    assert ["opened", "complete", "filled"] == [event[0] for event in log.events]
    assert log.events == late.events


def test_the_hub_layout_waits_for_tars(puller: Puller, fake: FakeRegistry) -> None:
    """It names files by their digests: the same names lazily as otherwise."""
    push(fake, (TAR, STREAM, {}), (RAW_WEIGHT, noise(9, 20 * MIB), {FILE_PATH: "big"}))
    fake.faults.bytes_per_second_in_all = 20_000_000
    wish = Wish(Reference.parse(f"{fake.host}/models/tiny:v1"), PullPolicy.ALWAYS, layout=Layout("org/name"))
    resolved = puller.resolve(wish, Patience(Deadline.after(20)))
    found = puller.begin(resolved, "pod", Patience(Deadline.after(20)), None)
    assert isinstance(found, Filling)
    fake.faults.bytes_per_second_in_all = 0
    wait_until(lambda: not puller.running())
    view = puller.pull(resolved, "pod", Patience(Deadline.after(20)))
    blobs = {path.name for path in view.path.glob("*/blobs/*")}

    assert 1 == len(found.waited_for)
    assert blobs <= {entry.path.rpartition("/")[2] for entry in found.tree.entries}


def one_file(path: str, size: int) -> Mapping[str, str]:
    """The annotations of a tar that holds one file."""
    return {FILE_PATH: path, METADATA: json.dumps({"name": path, "size": size, "typeflag": 48, "mode": 420})}


def test_room_is_found_before_the_tree_is_shown(fake: FakeRegistry, tmp_path: Any, client: Any) -> None:
    """A model that does not fit is refused at once."""
    store = Store(tmp_path / "small", lambda: 150_000)
    small = Puller(store, client, Keychain(None), PullLimits())
    push(fake, (RAW_WEIGHT, bytes(200_000), {FILE_PATH: "model.bin"}))
    with pytest.raises(StoreFull):
        begin(Pod(small, f"{fake.host}/models/tiny:v1"), Log())
    store.close()
