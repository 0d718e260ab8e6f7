from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from modelcsi.artifact.members import Form, Member, MemberType, Reading
from modelcsi.errors import StoreFull
from modelcsi.oci.digest import Digest
from modelcsi.store import content as content_module
from modelcsi.store.content import ContentStore, ReadyLayer, empty_trash
from modelcsi.store.ingest import LayerIngest
from modelcsi.store.layout import StoreLayout
from tests.unit.store.conftest import commit_layer, ready_blob, ready_layer

LAYER = Digest.of(b"a tar")


class CountedBatches(ContentStore):
    """Remembers how many objects were committed together."""

    def __init__(self, layout: StoreLayout) -> None:
        super().__init__(layout)
        self.batches: list[int] = []

    def _commit_batch(self, batch: Sequence[Any]) -> None:
        self.batches.append(len(batch))
        super()._commit_batch(batch)


@pytest.fixture
def content(layout: StoreLayout) -> ContentStore:
    """An empty store of content."""
    return ContentStore(layout)


def paths_of(content: ContentStore, digest: Digest) -> list[str] | None:
    """The members that are stored."""
    members = content.members(digest)
    return None if members is None else [member.path for member in members if member.sha256]


def stored_files(content: ContentStore, digest: Digest) -> dict[str, bytes]:
    """The files of a layer by their number."""
    return {path.name: path.read_bytes() for path in content.layout.layer(digest).iterdir()}


def test_a_committed_blob(content: ContentStore) -> None:
    """It has its name, its mode and its time, and no ingest is left."""
    ready = ready_blob(content.layout, b"weights", mode=0o555, mtime_ns=1_000_000_007)
    content.commit(ready)
    path = content.layout.blob(ready.digest)
    status = path.stat()

    assert b"weights" == path.read_bytes()
    assert (0o555, 1_000_000_007) == (status.st_mode & 0o7777, status.st_mtime_ns)
    assert (True, []) == (content.has_blob(ready.digest), list(content.layout.ingests.glob("*/*")))


def test_nothing_is_there_before_the_commit(content: ContentStore) -> None:
    """Written bytes are invisible."""
    blob, layer = ready_blob(content.layout, b"weights"), ready_layer(content.layout, LAYER, {"a": b"1"})

    assert (False, None) == (content.has_blob(blob.digest), content.members(layer.digest))


def test_a_committed_layer(content: ContentStore) -> None:
    """All members are recorded, the wanted ones stored."""
    commit_layer(content, LAYER, {"a": b"1", "b": b"22"}, wanted=frozenset({"b"}))
    members = content.members(LAYER)

    assert members is not None
    assert [("a", 1, False), ("b", 2, True)] == [(item.path, item.size, bool(item.sha256)) for item in members]
    assert {"1": b"22"} == stored_files(content, LAYER)


def test_a_wider_selection_adds_and_forgets_nothing(content: ContentStore) -> None:
    """Each selection brings its members; those of an earlier one stay, also when the later one did not want them."""
    files = {"a": b"1", "b": b"22", "c": b"333"}
    commit_layer(content, LAYER, files, wanted=frozenset({"a"}))
    commit_layer(content, LAYER, files, wanted=frozenset({"b"}))
    after_two = paths_of(content, LAYER)
    commit_layer(content, LAYER, files)

    assert ["a", "b"] == after_two
    assert (["a", "b", "c"], []) == (paths_of(content, LAYER), content.verify(LAYER))


def test_a_member_keeps_its_inode(content: ContentStore) -> None:
    """Views link it: a wider selection never replaces what is recorded."""
    files = {"a": b"1", "b": b"22"}
    commit_layer(content, LAYER, files, wanted=frozenset({"a"}))
    before = (content.layout.layer(LAYER) / "0").stat().st_ino
    commit_layer(content, LAYER, files)

    assert before == (content.layout.layer(LAYER) / "0").stat().st_ino


def test_a_file_that_no_record_names_is_nothing(content: ContentStore) -> None:
    """What a crash, or an older attempt, left among the members is replaced by what is recorded now."""
    files = {"a": b"1", "b": b"22"}
    commit_layer(content, LAYER, files, wanted=frozenset({"a"}))
    (content.layout.layer(LAYER) / "1").write_bytes(b"2")
    commit_layer(content, LAYER, files)

    assert ([], {"0": b"1", "1": b"22"}) == (content.verify(LAYER), stored_files(content, LAYER))


def in_image(content: ContentStore, directory: str, *files: tuple[int, str, bytes]) -> None:
    """Commit what was read of a layer around a directory: number, path, bytes."""
    ingest = LayerIngest(content.layout, LAYER, "plan", is_resumable=False)
    members = []
    for number, path, data in files:
        ingest.begin_member(number, len(data))
        ingest.write_member(data)
        ingest.end_member(0o444, 5)
        sha256 = Digest.of(data).hex
        members.append(Member(path, MemberType.FILE, len(data), 0o644, 5, sha256=sha256, number=number))
    content.commit(ReadyLayer(ingest, tuple(members), Reading(Form.IMAGE, (directory,))))


def test_a_layer_of_an_image_read_around_two_directories(content: ContentStore) -> None:
    """Each is known then, with the numbers that members have in the tar; no file is replaced. It is no tar's record."""
    in_image(content, "b", (7, "b/x", b"1"))
    before = (content.layout.layer(LAYER) / "7").stat().st_ino
    in_image(content, "a", (2, "a/y", b"22"))
    both = content.members(LAYER, Reading(Form.IMAGE, ("a", "b")))

    assert both is not None
    assert [(2, "a/y"), (7, "b/x")] == [(member.number, member.path) for member in both]
    assert before == (content.layout.layer(LAYER) / "7").stat().st_ino
    assert ({"2": b"22", "7": b"1"}, []) == (stored_files(content, LAYER), content.verify(LAYER))
    assert (None, None) == (content.members(LAYER), content.members(LAYER, Reading(Form.IMAGE, ("c",))))


def test_a_layer_of_an_image_that_is_a_tar_to_others(content: ContentStore) -> None:
    """The tar's record tells all, and keeps what was stored for the image."""
    in_image(content, "b", (1, "b", b"22"))
    commit_layer(content, LAYER, {"a": b"1", "b": b"22"}, wanted=frozenset({"a"}))
    members = content.members(LAYER)

    assert members is not None
    assert members == content.members(LAYER, Reading(Form.IMAGE, ("b",)))
    assert [("a", True), ("b", True)] == [(member.path, bool(member.sha256)) for member in members]
    assert [] == content.verify(LAYER)


def test_a_record_that_numbers_otherwise(content: ContentStore) -> None:
    """Another release read the tar in another way: nothing of its record is believed."""
    in_image(content, "b", (1, "b/x", b"old"), (3, "b/y", b"old too"))
    in_image(content, "b", (0, "b/w", b"w"), (1, "b/z", b"new"))
    members = content.members(LAYER, Reading(Form.IMAGE, ("b",)))

    assert members is not None
    assert ["b/w", "b/z"] == [member.path for member in members]
    assert ({"0": b"w", "1": b"new"}, []) == (stored_files(content, LAYER), content.verify(LAYER))


def test_a_directory_without_a_record_is_nothing(content: ContentStore) -> None:
    """A crash between the two renames: the layer is not there, and the next commit replaces all of it."""
    left = content.layout.layer(LAYER)
    left.mkdir()
    (left / "0").write_bytes(b"half")
    (left / "9").write_bytes(b"stray")
    before = content.members(LAYER)
    commit_layer(content, LAYER, {"a": b"whole"})

    assert before is None
    assert {"0": b"whole"} == stored_files(content, LAYER)


@pytest.mark.parametrize(
    "record", ["", "[", "[]", "{}", '{"version": 3, "members": []}', '{"version": 1, "members": []}']
)
def test_an_unreadable_record_is_no_record(content: ContentStore, record: str) -> None:
    """The layer is fetched again, and committed over it."""
    commit_layer(content, LAYER, {"a": b"1"})
    content.layout.layer_record(LAYER).write_text(record)
    before = content.members(LAYER)
    commit_layer(content, LAYER, {"a": b"1"})

    assert (None, ["a"]) == (before, paths_of(content, LAYER))


def test_a_record_without_its_directory_is_nothing(content: ContentStore) -> None:
    """The members are gone: so is the layer."""
    commit_layer(content, LAYER, {"a": b"1"})
    shutil.rmtree(content.layout.layer(LAYER))

    assert None is content.members(LAYER)


def test_a_record_that_is_replaced_at_once_is_seen(content: ContentStore) -> None:
    """Records are kept in memory, yet never an old one: also when two were written within one tick of the clock."""
    files = {"a": b"1", "b": b"22"}
    commit_layer(content, LAYER, files, wanted=frozenset({"a"}))
    first = paths_of(content, LAYER)
    stamp = content.layout.layer_record(LAYER).stat().st_mtime_ns
    commit_layer(content, LAYER, files)
    os.utime(content.layout.layer_record(LAYER), ns=(stamp, stamp))

    assert (["a"], ["a", "b"]) == (first, paths_of(content, LAYER))


def test_another_reading_of_the_same_tar_replaces_the_layer(content: ContentStore) -> None:
    """A release that numbers members otherwise must not take one file for another."""
    commit_layer(content, LAYER, {"root": b"", "a": b"1"})
    commit_layer(content, LAYER, {"a": b"1", "b": b"22"})

    assert ([], {"0": b"1", "1": b"22"}) == (content.verify(LAYER), stored_files(content, LAYER))


def test_links_and_directories_have_no_files(content: ContentStore) -> None:
    """They are records only."""
    ingest = LayerIngest(content.layout, LAYER, "plan", is_resumable=True)
    members = (
        Member("d", MemberType.DIRECTORY, 0, 0o755, 0),
        Member("l", MemberType.SYMLINK, 0, 0o777, 0, target="d"),
    )
    content.commit(ReadyLayer(ingest, members))

    assert (members, {}) == (content.members(LAYER), stored_files(content, LAYER))


def test_commits_that_come_together_share_a_batch(layout: StoreLayout) -> None:
    """While one commits, the others gather, and the next commits for all of them."""
    content = CountedBatches(layout)
    items = [ready_blob(layout, b"%d" % number) for number in range(20)]
    content._commit_lock.acquire()
    threads = [threading.Thread(target=content.commit, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(content._queue) == len(items))
    content._commit_lock.release()
    for thread in threads:
        thread.join()

    assert [len(items)] == content.batches
    assert all(content.has_blob(item.digest) for item in items)


def test_a_failed_batch_fails_for_everybody(layout: StoreLayout) -> None:
    """Nobody is told that something is committed which is not, whoever did the work."""
    content = CountedBatches(layout)
    items = [ready_blob(layout, b"good"), ready_blob(layout, b"bad")]
    items[1].ingest.path.unlink()
    content._commit_lock.acquire()
    errors: list[BaseException | None] = []

    def commit(number: int) -> None:
        try:
            content.commit(items[number])
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(content._queue) == 2)
    content._commit_lock.release()
    for thread in threads:
        thread.join()

    assert 2 == len(errors)


def test_a_manifest_is_kept_once_by_many(content: ContentStore) -> None:
    """Three pods at once want the same model: they keep the same manifest."""
    manifests = [b"%d" % number for number in range(30)]
    together, failures = threading.Barrier(4), list[Exception]()

    def keep() -> None:
        for manifest in manifests:
            together.wait()
            try:
                content.keep_manifest(Digest.of(manifest), manifest)
            except Exception as error:  # noqa: BLE001 - a thread's main
                failures.append(error)

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == failures
    assert manifests == [content.manifest(Digest.of(manifest)) for manifest in manifests]


def test_a_damaged_manifest_is_not_used_and_is_mended(content: ContentStore) -> None:
    """It decides what everything else means, so it is checked at each reading."""
    digest = Digest.of(b"manifest")
    content.layout.manifest(digest).write_bytes(b"other")
    before = content.manifest(digest)
    content.keep_manifest(digest, b"manifest")

    assert (None, b"manifest") == (before, content.manifest(digest))


def test_verification_finds_damage(content: ContentStore) -> None:
    """A flipped bit, a missing member: a sentence each; sound content gives none."""
    blob = ready_blob(content.layout, b"weights")
    content.commit(blob)
    commit_layer(content, LAYER, {"a": b"1", "b": b"22", "c": b"3"})
    sound = [content.verify(blob.digest), content.verify(LAYER), content.verify(Digest.of(b"absent"))]
    content.layout.blob(blob.digest).chmod(0o600)
    content.layout.blob(blob.digest).write_bytes(b"weightz")
    (content.layout.layer(LAYER) / "1").unlink()
    (content.layout.layer(LAYER) / "2").chmod(0o600)
    (content.layout.layer(LAYER) / "2").write_bytes(b"4")

    assert [[], [], []] == sound
    assert [f"blob {blob.digest} does not match its digest"] == content.verify(blob.digest)
    assert ["'b'", "'c'"] == [sentence.split()[0] for sentence in content.verify(LAYER)]


def test_removing_frees_what_nobody_links(content: ContentStore) -> None:
    """The bytes of a file that a view still links go with the view."""
    blob = ready_blob(content.layout, b"x" * 8192)
    content.commit(blob)
    commit_layer(content, LAYER, {"a": b"y" * 8192})
    linked = content.layout.views / "linked"
    os.link(content.layout.layer(LAYER) / "0", linked)
    freed = empty_trash(*content.take_away([blob.digest, LAYER, Digest.of(b"absent")]))
    freed_later = empty_trash(*content.discard(linked))

    assert (True, True) == (8192 <= freed < 16384, 8192 <= freed_later < 16384)
    assert ([], 0, []) == (list(content.digests()), content.size_bytes(), list(content.layout.trash.iterdir()))


def test_a_name_too_long_below_the_trash_is_removed(content: ContentStore) -> None:
    """A file is linked by its directory's descriptor, so its whole path may be longer than the kernel takes."""
    tree = content.layout.views / "view"
    deep = tree
    while len(os.fsencode(deep)) < 3850:
        deep /= "d" * 100
    deep.mkdir(parents=True)
    fd = os.open(deep, os.O_RDONLY)
    with os.fdopen(os.open("f" * 255, os.O_WRONLY | os.O_CREAT, dir_fd=fd), "wb") as file:
        file.write(b"x" * 8192)
    os.fchmod(fd, 0o555)
    os.close(fd)
    with pytest.raises(OSError, match="too long"):
        (deep / ("f" * 255)).lstat()
    freed = empty_trash(*content.discard(tree))

    assert (True, []) == (8192 <= freed < 16384, list(content.layout.trash.iterdir()))


def test_the_members_remembered_are_bounded(layout: StoreLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number in all records; the record of one that is larger is read again."""
    monkeypatch.setattr(content_module, "_CACHED_MEMBERS", 10)
    content = ContentStore(layout)
    layers = [Digest.of(b"%d" % number) for number in range(4)]
    for layer, size in zip(layers, (4, 4, 4, 10), strict=True):
        commit_layer(content, layer, {str(number): b"" for number in range(size)})
        content.members(layer)
    first = [content.members(layer) for layer in layers]
    second = [content.members(layer) for layer in layers]
    again = content.members(layers[1]), content.members(layers[1])

    assert first == second
    assert [False, False, False, False] == [old is new for old, new in zip(first, second, strict=True)]
    assert again[0] is again[1]


@pytest.mark.parametrize("is_same_file", [True, False])
def test_a_large_record_is_remembered_until_it_is_asked_for(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch, *, is_same_file: bool
) -> None:
    """Once, by who committed the layer; one that was written since is not taken for it."""
    monkeypatch.setattr(content_module, "_CACHED_MEMBERS", 1)
    content = ContentStore(layout)
    commit_layer(content, LAYER, {"a": b"1", "b": b"2"})
    path = layout.layer_record(LAYER)
    status = path.stat()
    path.write_bytes(b"?" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + (not is_same_file)))

    assert [["a", "b"] if is_same_file else None, None] == [paths_of(content, LAYER), paths_of(content, LAYER)]


def test_all_that_is_committed_has_a_digest(content: ContentStore) -> None:
    """Manifests, blobs, layers; also a layer without its record, since the collector must find it."""
    blob = ready_blob(content.layout, b"weights")
    content.commit(blob)
    content.keep_manifest(Digest.of(b"manifest"), b"manifest")
    commit_layer(content, LAYER, {"a": b"1"})
    crashed = Digest.of(b"crashed")
    content.layout.layer(crashed).mkdir()

    assert {blob.digest, Digest.of(b"manifest"), LAYER, crashed} == set(content.digests())


def test_a_full_disk_keeps_the_ingest(content: ContentStore) -> None:
    """StoreFull; what was received is there for the next attempt."""
    ready = ready_blob(content.layout, b"weights")
    full = os.open("/dev/full", os.O_WRONLY)
    record = ready_layer(content.layout, LAYER, {"a": b"1"}).ingest
    (record.directory / "record.json").symlink_to("/dev/full")
    os.close(full)
    with pytest.raises(StoreFull):
        content.commit(ReadyLayer(record, ()))

    assert (True, {"0"}) == (ready.ingest.path.exists(), {path.name for path in record.members.iterdir()})


def wait_until(condition: Any) -> None:
    """Give other threads time, at most ten seconds of it."""
    ends, pause = time.monotonic() + 10, threading.Event()
    while not condition():
        assert time.monotonic() < ends
        pause.wait(0.001)
