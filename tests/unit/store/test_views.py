from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from modelcsi.artifact.tree import EntryType, FileEntry, FileTree
from modelcsi.errors import CorruptContent, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.store.store import Store
from modelcsi.store.views import view_id
from tests.unit.store.conftest import commit_blob, commit_layer

MANIFEST = Digest.of(b"manifest")
VIEW = view_id(MANIFEST, "everything")
ORIGIN = {"manifest": str(MANIFEST), "reference": "registry.test/model:v1"}


def file(path: str, layer: Digest, member: int | None = None, mode: int = 0o444) -> FileEntry:
    """A file of a layer."""
    return FileEntry(path, EntryType.FILE, 1, mode, layer=layer, member=member)


def directory(path: str) -> FileEntry:
    """A directory."""
    return FileEntry(path, EntryType.DIRECTORY, mode=0o555)


def link(path: str, target: str) -> FileEntry:
    """A symbolic link."""
    return FileEntry(path, EntryType.SYMLINK, mode=0o777, target=target)


def tree(*entries: FileEntry) -> FileTree:
    """The entries in the order of a tree."""
    return FileTree(tuple(sorted(entries, key=lambda entry: entry.path)))


def test_files_are_hard_links(store: Store) -> None:
    """A blob and a member share their inodes with the content, in all views."""
    blob, layer = commit_blob(store, b"weights"), Digest.of(b"tar")
    commit_layer(store.content, layer, {"a": b"1"})
    wanted = tree(file("model.bin", blob), file("again.bin", blob), directory("dir"), file("dir/a", layer, 0))
    path = store.views.build(VIEW, wanted, ORIGIN)
    other = store.views.build("0" * 64, wanted, ORIGIN)

    assert store.layout.blob(blob).samefile(path / "model.bin")
    assert (path / "model.bin").samefile(other / "again.bin")
    assert (store.layout.layer(layer) / "0").samefile(path / "dir" / "a")


def test_a_member_of_another_size_is_refused(store: Store) -> None:
    """The layer was unpacked in another form between the decision and the link: nothing is shown."""
    layer = Digest.of(b"tar")
    commit_layer(store.content, layer, {"a": b"longer"})
    with pytest.raises(CorruptContent, match="6 bytes; 1 were recorded"):
        store.views.build(VIEW, tree(file("a", layer, 0)), ORIGIN)

    assert [] == list(store.layout.views.iterdir())


def test_directories_are_read_only(store: Store) -> None:
    """The root too."""
    path = store.views.build(VIEW, tree(directory("a"), directory("a/b")), ORIGIN)

    assert [0o555] * 3 == [item.stat().st_mode & 0o7777 for item in (path, path / "a", path / "a" / "b")]


def test_what_is_handed_over_is_the_owners_to_change(tmp_path: Path) -> None:
    """Directories, copies and files that are in no layer too: nobody goes through the whole tree again."""
    with closing(Store(tmp_path / "handed-over", is_handed_over=True)) as store:
        blob = commit_blob(store, b"weights")
        files = (file("a/linked", blob), file("run", blob, mode=0o555))
        data = FileEntry("data", EntryType.FILE, 1, data=b"1")
        path = store.views.build(VIEW, tree(*files, data, directory("a")), ORIGIN)

    assert {
        path: 0o755,
        path / "a": 0o755,
        path / "a" / "linked": 0o644,
        path / "data": 0o644,
        path / "run": 0o755,
    } == {item: item.stat().st_mode & 0o7777 for item in (path, *path.rglob("*"))}


@pytest.mark.parametrize(("stored", "shown"), [(0o444, 0o555), (0o555, 0o444)])
def test_another_execute_bit_is_a_copy(store: Store, stored: int, shown: int) -> None:
    """Mode belongs to the inode: a file that is shown otherwise has its own, with the same bytes and time."""
    blob = commit_blob(store, b"#!/bin/sh", mode=stored)
    path = store.views.build(VIEW, tree(file("run", blob, mode=shown)), ORIGIN) / "run"

    assert (b"#!/bin/sh", shown, 7) == (path.read_bytes(), path.stat().st_mode & 0o7777, path.stat().st_mtime_ns)
    assert (1, stored) == (path.stat().st_nlink, store.layout.blob(blob).stat().st_mode & 0o7777)


def test_an_empty_file_can_be_a_copy(store: Store) -> None:
    """There is nothing to copy then."""
    blob = commit_blob(store, b"", mode=0o555)
    path = store.views.build(VIEW, tree(file("empty", blob)), ORIGIN)

    assert 0o444 == (path / "empty").stat().st_mode & 0o777


def test_a_file_of_no_layer(store: Store) -> None:
    """What the layout itself tells is written, read-only and of 1970."""
    told = FileEntry("main", EntryType.FILE, 8, data=b"revision")
    path = store.views.build(VIEW, tree(told), ORIGIN) / "main"

    assert (b"revision", 0o444, 0) == (path.read_bytes(), path.stat().st_mode & 0o7777, path.stat().st_mtime_ns)


def test_no_symlink_leads_a_file_outside(store: Store, tmp_path: Path) -> None:
    """Links come last: a name below one is a conflict, not a way out."""
    blob, outside = commit_blob(store, b"evil"), tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(OSError, match="dir"):
        store.views.build(VIEW, tree(link("dir", str(outside)), file("dir/evil", blob)), ORIGIN)

    assert ([], None) == (list(outside.iterdir()), store.views.path(VIEW))


def test_symlinks_are_as_written(store: Store) -> None:
    """Also dangling ones."""
    path = store.views.build(VIEW, tree(directory("a"), link("a/l", "../b")), ORIGIN)

    assert "../b" == os.readlink(path / "a" / "l")


def test_building_again_is_finding(store: Store) -> None:
    """The view that is there is returned, and its tree is not looked at."""
    first = store.views.build(VIEW, tree(directory("a")), ORIGIN)
    second = store.views.build(VIEW, tree(directory("b")), ORIGIN)

    assert (first, ["a"]) == (second, os.listdir(second))


def test_a_half_built_view_is_not_there(store: Store) -> None:
    """A crash while it was built: it is no view, and the next attempt begins anew."""
    half = store.layout.views / f".{VIEW}.new"
    (half / "a" / "b").mkdir(parents=True)
    (half / "a").chmod(0o555)
    before = store.views.path(VIEW)
    path = store.views.build(VIEW, tree(directory("c")), ORIGIN)

    assert (None, ["c"], False) == (before, os.listdir(path), half.exists())


def test_a_crash_before_the_last_rename(store: Store) -> None:
    """The record alone is no view."""
    store.layout.view_record(VIEW).write_text("{}")

    assert (None, {}) == (store.views.path(VIEW), store.views.record(VIEW))


def test_where_a_view_came_from(store: Store) -> None:
    """It is told without the database, and is how an artifact's views are found."""
    store.views.build(VIEW, tree(directory("a")), ORIGIN)
    store.layout.view_record("1" * 64).write_text("not JSON")

    assert (ORIGIN, None, None) == (
        store.views.record(VIEW),
        store.views.record("1" * 64),
        store.views.record("2" * 64),
    )
    assert ([VIEW], []) == (store.views.of_manifest(MANIFEST), store.views.of_manifest(Digest.of(b"other")))


def test_a_path_too_long_for_this_node(store: Store) -> None:
    """Allowed in an artifact, but below this root the kernel refuses it: the artifact cannot be mounted here."""
    parts = [f"{number:02}" + "d" * 200 for number in range(20)]
    paths = ["/".join(parts[: number + 1]) for number in range(20)]
    with pytest.raises(UnsupportedArtifact, match="too long"):
        store.views.build(VIEW, tree(*map(directory, paths)), ORIGIN)

    assert None is store.views.path(VIEW)


@pytest.mark.parametrize("target", ["x" * 5000, "missing layer"])
def test_a_failed_build_leaves_nothing(store: Store, target: str) -> None:
    """Its links would keep the bytes of content that is evicted."""
    blob = commit_blob(store, b"weights")
    broken = link("z", target) if len(target) > 4096 else file("z", Digest.of(b"absent"))
    with pytest.raises((UnsupportedArtifact, FileNotFoundError)):
        store.views.build(VIEW, tree(directory("a"), file("a/model.bin", blob), broken), ORIGIN)

    assert ([], 1) == (list(store.layout.views.iterdir()), store.layout.blob(blob).stat().st_nlink)


def test_view_ids_stay_what_they_are() -> None:
    """They are names on disks: this release and the next must agree."""
    assert "ba1c64509dd9fbd3c8c2d31a0cc9dd8d28cc8b5d07cb368fe62e586a6dd27188" == VIEW
    assert (
        len(
            {
                view_id(MANIFEST, "a"),
                view_id(MANIFEST, "b"),
                view_id(Digest.of(b""), "a"),
                view_id(MANIFEST, "a", "hub"),
            }
        )
        == 4
    )
