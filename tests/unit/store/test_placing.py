"""The tree of a store that is handed over: files are moved into it, and a kill anywhere costs nothing."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from modelcsi.artifact.members import WHOLE_FILE
from modelcsi.artifact.tree import EntryType, FileEntry, FileTree
from modelcsi.errors import CorruptContent
from modelcsi.oci.digest import Digest
from modelcsi.store.store import Store
from modelcsi.store.views import view_id
from tests.unit.store.conftest import commit_blob, commit_layer

VIEW = view_id(Digest.of(b"manifest"), "everything")
ORIGIN = {"manifest": str(Digest.of(b"manifest"))}
BLOB, TAR, PACKED = Digest.of(b"weights"), Digest.of(b"tar"), Digest.of(b"a compressed file")
MEMBERS = {"b": b"twice", "c": b"once", "d": b""}
FILES = {
    "a/c": b"once",
    "a/d": b"",
    "again": b"twice",
    "b": b"twice",
    "blob": b"weights",
    "data": b"in no layer",
    "run": b"whole",
    "z/b": b"twice",
}


def file(path: str, layer: Digest | None = None, member: int | None = None, mode: int = 0o444) -> FileEntry:
    """A file of the tree; without a layer one that is in none."""
    data = None if layer else FILES[path]
    return FileEntry(path, EntryType.FILE, len(FILES[path]), mode, layer=layer, member=member, data=data)


TREE = FileTree(
    (
        FileEntry("a", EntryType.DIRECTORY, mode=0o555),
        file("a/c", TAR, 1),
        file("a/d", TAR, 2),
        FileEntry("a/link", EntryType.SYMLINK, mode=0o777, target="../b"),
        file("again", TAR, 0),
        file("b", TAR, 0),
        file("blob", BLOB),
        file("data"),
        file("run", PACKED, WHOLE_FILE, 0o555),  # another artifact's annotation says that it is no program
        FileEntry("z", EntryType.DIRECTORY, mode=0o555),
        file("z/b", TAR, 0),
    )
)


class Killed(BaseException):
    """The process died here."""


class Kill:
    """Ends the process at one of its steps: counted are the calls that change a tree."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        for name in ("rename", "link", "mkdir", "symlink", "unlink", "chmod", "utime", "copy_file_range"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self.left == 0:
                raise Killed
            self.left -= 1
            return call(*arguments, **options)

        return counted


def handed_over(root: Path) -> Store:
    """A store that is used for one tree."""
    return Store(root, is_handed_over=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Such a store with the content of TREE."""
    with closing(handed_over(tmp_path / "root")) as store:
        commit_blob(store, b"weights")
        commit_layer(store.content, TAR, MEMBERS)
        commit_layer(store.content, PACKED, {"file": b"whole"})
        layer = store.layout.layer(PACKED)
        (layer / "0").rename(layer / str(WHOLE_FILE))
    return tmp_path / "root"


def contents(path: Path) -> dict[str, bytes]:
    """The files of a tree."""
    return {str(item.relative_to(path)): item.read_bytes() for item in path.rglob("*") if item.is_file()}


def test_members_are_moved(root: Path) -> None:
    """A member is in the tree alone, at each of its paths; a blob stays known to the store."""
    with closing(handed_over(root)) as store:
        path = store.views.build(VIEW, TREE, ORIGIN)

        assert {**FILES, "a/link": b"twice"} == contents(path)
        assert {"a/c": 1, "again": 3, "z/b": 3} == {
            name: (path / name).stat().st_nlink for name in ("a/c", "again", "z/b")
        }
        assert {0o644} == {(path / name).stat().st_mode & 0o7777 for name in FILES if name != "run"}
        assert 0o755 == (path / "run").stat().st_mode & 0o7777
        assert ([], True) == (list(store.layout.layer(TAR).iterdir()), store.content.has_blob(BLOB))


def kills() -> Iterator[tuple[int, int]]:
    """After how many steps two attempts die."""
    yield from ((step, 0) for step in range(60))
    yield from itertools.combinations_with_replacement(range(0, 60, 7), 2)


def test_whoever_is_killed_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At any step, twice: in the end the tree is the same, byte for byte, and nothing was missing."""
    kill, died, expected = Kill(monkeypatch), 0, {**FILES, "a/link": b"twice"}
    for number, steps in enumerate(kills()):
        copy = tmp_path / str(number)
        shutil.copytree(root, copy)
        for left in steps:
            with closing(handed_over(copy)) as store:
                kill.left = left
                try:
                    store.views.build(VIEW, TREE, ORIGIN)
                except Killed:
                    died += 1
                kill.left = -1
        with closing(handed_over(copy)) as store:
            found = store.views.build(VIEW, TREE, ORIGIN)

            assert (steps, expected) == (steps, contents(found))
            assert {0o755} == {path.stat().st_mode & 0o7777 for path in (found, found / "a", found / "z")}
    assert died > 60


@pytest.mark.parametrize("what", ["gone", "cut"])
def test_what_is_not_there_is_no_file(root: Path, what: str) -> None:
    """A member that is neither in the content nor whole in the tree is an error, not an empty place."""
    with closing(handed_over(root)) as store:
        (store.layout.layer(TAR) / "1").unlink()
        half = store.layout.views / f".{VIEW}.new" / "a"
        half.mkdir(parents=True)
        if what == "cut":
            (half / "c").write_bytes(b"on")
        with pytest.raises(CorruptContent, match="'a/c' of layer"):
            store.views.build(VIEW, TREE, ORIGIN)


@pytest.mark.parametrize("is_complete", [True, False])
def test_content_that_went_into_another_tree_is_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, is_complete: bool
) -> None:
    """Whoever wants other files after a kill fetches them again; whoever wants the same ones finds them."""
    kill = Kill(monkeypatch)
    with closing(handed_over(root)) as store:
        kill.left = -1 if is_complete else 8
        try:
            store.views.build(VIEW, TREE, ORIGIN)
        except Killed:
            kill.left = -1
        store.begin_view(VIEW)
        known = store.content.has_blob(BLOB), store.content.members(TAR) is not None
        store.begin_view("0" * 64)
        forgotten = store.content.has_blob(BLOB), store.content.members(TAR) is not None

        assert ((True, True), (False, False)) == (known, forgotten)
        assert [[], []] == [
            [path for path in top.iterdir() if path.is_dir()] for top in (store.layout.views, store.layout.trash)
        ]
