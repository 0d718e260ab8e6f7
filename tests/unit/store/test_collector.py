from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelcsi.artifact.tree import EntryType, FileEntry, FileTree
from modelcsi.oci.digest import Digest
from modelcsi.store import collector
from modelcsi.store.content import empty_trash
from modelcsi.store.ingest import BlobIngest
from modelcsi.store.records import PENDING, ArtifactRecord, PublicationRecord
from modelcsi.store.store import Store
from modelcsi.store.views import view_id
from tests.unit.store.conftest import commit_blob, commit_layer, ready_blob

SIZE = 64 << 10


def keep(store: Store, name: str, layers: Sequence[Digest], owner: str = "") -> ArtifactRecord:
    """An artifact with a manifest and a view; leased by `owner`, or by nobody."""
    manifest = Digest.of(name.encode())
    record = ArtifactRecord(manifest, name, "modelpack", SIZE * len(layers), 0, 0)
    store.collector.keep(record, list(layers), owner or "for a moment")
    store.content.keep_manifest(manifest, name.encode())
    entries = [FileEntry(digest.hex, EntryType.FILE, SIZE, layer=digest) for digest in layers]
    if all(store.content.has_blob(digest) for digest in layers):
        store.views.build(view_id(manifest, ""), FileTree(tuple(entries)), {"manifest": str(manifest)})
    store.records.end_lease("for a moment")
    return record


def blob(store: Store, name: str) -> Digest:
    """A committed layer of SIZE bytes."""
    return commit_blob(store, name.encode().ljust(SIZE, b"."))


def names(artifacts: Sequence[ArtifactRecord]) -> list[str]:
    """What people call them."""
    return [artifact.reference for artifact in artifacts]


def test_the_least_recently_used_goes_first(store: Store) -> None:
    """As many as are needed, in the order of their last use, with their views and manifests."""
    for name in ("a", "b", "c"):
        keep(store, name, [blob(store, name)])
    store.records.touch(Digest.of(b"a"))
    sweep = store.collector.make_room(SIZE + 64 * 1024 - 1)

    assert ["b", "c"] == names(sweep.artifacts)
    assert 2 * SIZE <= sweep.freed_bytes < 3 * SIZE
    assert ["a"] == names(store.records.artifacts())
    assert {Digest.of(b"a"), blob(store, "a")} == set(store.content.digests())
    assert [view_id(Digest.of(b"a"), "")] == [path.name for path in store.layout.views.iterdir() if path.is_dir()]


def test_what_is_leased_stays(store: Store) -> None:
    """However much is asked for."""
    keep(store, "a", [blob(store, "a")], owner="a pod")
    keep(store, "b", [blob(store, "b")])
    sweep = store.collector.prune()

    assert (["b"], True) == (names(sweep.artifacts), store.content.has_blob(blob(store, "a")))
    assert [] == store.content.verify(blob(store, "a"))


def test_shared_content_stays(store: Store) -> None:
    """Bytes that another artifact needs are neither removed nor counted as freed."""
    shared, own = blob(store, "shared"), blob(store, "own")
    keep(store, "a", [shared, own])
    keep(store, "b", [shared], owner="a pod")
    sweep = store.collector.prune()

    assert (["a"], True, False) == (
        names(sweep.artifacts),
        store.content.has_blob(shared),
        store.content.has_blob(own),
    )
    assert SIZE <= sweep.freed_bytes < 2 * SIZE


def test_nothing_is_removed_without_need(store: Store) -> None:
    """Leftovers may be enough."""
    keep(store, "a", [blob(store, "a")])
    blob(store, "nobody's")
    sweep = store.collector.make_room(SIZE)

    assert ([], True) == (names(sweep.artifacts), store.content.has_blob(blob(store, "a")))


def test_leftovers_go_first(store: Store) -> None:
    """Content of no artifact, layers without a record, ingests that nobody resumes."""
    orphan, layer, crashed = blob(store, "orphan"), Digest.of(b"layer"), Digest.of(b"crashed")
    commit_layer(store.content, layer, {"a": b"1"})
    store.layout.layer(crashed).mkdir()
    ready_blob(store.layout, b"half").ingest.close()
    store.collector.make_room(0)

    assert ([], []) == (list(store.content.digests()), list(store.layout.ingests.iterdir()))
    assert [False, None] == [store.content.has_blob(orphan), store.content.members(layer)]


def test_an_ingest_that_a_lease_needs_stays(store: Store) -> None:
    """A killed pull of a volume that waits is resumed, however full the disk."""
    needed = ready_blob(store.layout, b"half")
    needed.ingest.close()
    keep(store, "a", [needed.digest], owner="a pod")
    store.collector.prune()

    assert needed.ingest.path.exists()


def test_an_ingest_in_use_stays(store: Store) -> None:
    """Also of an artifact that nobody wants any more, and so does what it has just committed."""
    written, committed = BlobIngest(store.layout, Digest.of(b"w"), 1), blob(store, "c")
    for digest in (written.digest, committed):
        store.collector.begin_writing(digest)
    store.collector.prune()
    stayed = (written.path.exists(), store.content.has_blob(committed))
    written.close()
    for digest in (written.digest, committed):
        store.collector.end_writing(digest)
    store.collector.prune()

    assert ((True, True), (False, False)) == (stayed, (written.path.exists(), store.content.has_blob(committed)))


def test_views_of_nobody_go(store: Store) -> None:
    """A crash after an artifact was forgotten leaves views, whose links keep the bytes: they are leftovers."""
    record = keep(store, "a", [blob(store, "a")])
    store.records.forget_artifact(record.manifest)
    store.layout.view_record("1" * 64).write_text('{"manifest": "sha256:gone"}')
    sweep = store.collector.make_room(0)

    assert ([], True) == (list(store.layout.views.iterdir()), sweep.freed_bytes >= SIZE)


def test_a_view_that_a_publication_shows_stays(store: Store) -> None:
    """Even of an artifact whose record, and manifest, were lost."""
    record = keep(store, "a", [blob(store, "a")])
    store.records.forget_artifact(record.manifest)
    publication = PublicationRecord("", "/target", "", "a", PENDING, str(record.manifest), view_id(record.manifest, ""))
    store.records.put_publication(publication)
    store.collector.prune()

    assert store.views.path(view_id(record.manifest, "")) is not None


def test_foreign_names_do_not_stop_a_sweep(store: Store) -> None:
    """Somebody made a directory by hand."""
    (store.layout.ingests / "notes").mkdir()
    keep(store, "a", [blob(store, "a")])

    assert ["a"] == names(store.collector.prune().artifacts)


def test_pruning_to_a_size(store: Store) -> None:
    """The most recently used artifacts that nobody holds stay, as far as the bytes allow; leased ones do not count."""
    for name in ("a", "b", "c"):
        keep(store, name, [blob(store, name)])
    keep(store, "d", [blob(store, "d")], owner="a pod")
    gone = [names(store.collector.prune(size).artifacts) for size in (4 * SIZE, 2 * SIZE, SIZE, 0)]

    assert [[], ["a"], ["b"], ["c"]] == gone


def test_damaged_content_is_dropped_unless_leased(store: Store) -> None:
    """The damaged layer goes also where another, unleased artifact shares it; a leased one keeps it."""
    damaged, fine = blob(store, "damaged"), blob(store, "fine")
    one, two = keep(store, "one", [damaged]), keep(store, "two", [damaged, fine], owner="a pod")
    dropped = [store.collector.drop(record, [damaged]) for record in (two, one)]
    kept = store.content.has_blob(damaged)
    store.records.end_lease("a pod")
    dropped.append(store.collector.drop(two, [damaged]))

    assert ([False, True, True], True, False) == (dropped, kept, store.content.has_blob(damaged))


def test_a_lease_and_a_sweep_exclude_each_other(store: Store) -> None:
    """From the return of `keep` on, what is there stays: it is all there or all gone, never half."""
    digest = blob(store, "a")
    ends = threading.Event()

    def sweep() -> None:
        while not ends.is_set():
            store.collector.prune()

    thread = threading.Thread(target=sweep)
    thread.start()
    states = set()
    for _ in range(8):
        record = keep(store, "a", [digest])
        store.collector.keep(record, [digest], "owner")
        view, is_there = store.views.path(view_id(record.manifest, "")), store.content.has_blob(digest)
        states.add((view is not None and (view / digest.hex).exists(), is_there))
        if not is_there:
            blob(store, "a")
        assert store.content.has_blob(digest)
        store.records.end_lease("owner")
    ends.set()
    thread.join()

    assert states <= {(True, True), (False, False), (False, True)}


def test_nothing_is_evicted_in_vain(store: Store) -> None:
    """A manifest may claim 2^60 bytes, and so may the record of one that failed: only leftovers go for that."""
    keep(store, "a", [blob(store, "a")])
    claim = ArtifactRecord(Digest.of(b"claim"), "claim", "modelpack", 1 << 60, 0, 0)
    store.collector.keep(claim, [Digest.of(b"absent")], "a pull")
    store.records.end_lease("a pull")
    orphan = blob(store, "nobody's")
    sweep = store.collector.make_room(1 << 50)

    assert ([], False, True) == (
        names(sweep.artifacts),
        store.content.has_blob(orphan),
        store.content.has_blob(blob(store, "a")),
    )


def test_copies_in_a_view_are_room_too(store: Store) -> None:
    """A file that is shown with another execute bit takes its bytes twice, and both are freed."""
    digest = blob(store, "a")
    record = keep(store, "a", [])
    store.collector.keep(record, [digest], "for a moment")
    store.records.end_lease("for a moment")
    tree = FileTree((FileEntry("run", EntryType.FILE, SIZE, 0o555, layer=digest),))
    store.views.build(view_id(record.manifest, "copy"), tree, {"manifest": str(record.manifest)})

    assert ["a"] == names(store.collector.make_room(2 * SIZE).artifacts)


def test_publishes_do_not_wait_for_an_eviction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content is renamed while they wait, and unlinked when they do not; what they take meanwhile stays."""
    one, two = blob(store, "a"), blob(store, "b")
    for name, layer in (("a", one), ("b", two)):
        keep(store, name, [layer])
    kept = []

    def empty(*paths: Path) -> int:
        if not store.content.has_blob(one):
            thread = threading.Thread(target=keep, args=(store, "b", [two], "a pod"))
            thread.start()
            thread.join(10)
            kept.append(thread.is_alive())
        return empty_trash(*paths)

    monkeypatch.setattr(collector, "empty_trash", empty)
    sweep = store.collector.prune()

    assert (["a"], [False]) == (names(sweep.artifacts), kept)
    assert ["b"] == names(store.records.artifacts())
