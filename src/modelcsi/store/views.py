"""The tree that a pod sees: hard links into the content (`placing.py`), built beside its name and renamed into place.

Directories are made and files linked through descriptors of directories that this module made itself, and symlinks come
last, so that no name in an artifact can lead outside.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from modelcsi.artifact.tree import EntryType, FileEntry, FileTree
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.store.durable import (
    open_directory,
    remove_tree,
    replace_file,
    space_errors,
    sync_directories,
    sync_directory,
)
from modelcsi.store.layout import StoreLayout
from modelcsi.store.placing import Linker, Mover, link_or_copy

logger = logging.getLogger(__name__)


def view_id(manifest: Digest, selection: str, layout: str = "files") -> str:
    """The name of a view: everything that decides what it shows, hashed."""
    return hashlib.sha256(json.dumps([str(manifest), selection, layout]).encode()).hexdigest()


class Views:
    """The complete trees of one store; of one that `is_handed_over` a single tree, into which the content is moved."""

    def __init__(self, layout: StoreLayout, *, is_handed_over: bool = False) -> None:
        self._layout = layout
        self._is_handed_over = is_handed_over

    def path(self, view: str) -> Path | None:
        """Where the view is, or None if it is not complete."""
        path = self._layout.view(view)
        return path if path.is_dir() else None

    def build(self, view: str, tree: FileTree, origin: Mapping[str, str]) -> Path:
        """Make the view of a tree whose content is all committed; `origin` is kept in the record beside it.

        Returning normally means that the view is complete and durable, not that this call built it. One thread per view.
        """
        final = self._layout.view(view)
        if final.is_dir():
            return final
        temporary = self._layout.views / f".{view}.new"
        with space_errors(f"the tree of {origin.get('manifest', view)}"):
            if temporary.exists() and not self._is_handed_over:
                remove_tree(temporary)
            with contextlib.nullcontext() if self._is_handed_over else _removed_on_failure(temporary):
                temporary.mkdir(mode=0o700, exist_ok=self._is_handed_over)
                with _length_errors(origin.get("reference", view)):
                    self._fill(temporary, tree)
                replace_file(self._layout.view_record(view), json.dumps(dict(origin)).encode())
                temporary.rename(final)
            sync_directory(self._layout.views)
        return final

    def clone(self, view: str, destination: Path) -> None:
        """Make a tree of its own at `destination`, of hard links to the files of a complete view; not made durable.

        For who hands it out under a name of its own, and takes it away again while the view is still used.
        """
        with space_errors(str(destination)), open_directory(self._layout.view(view)) as source_fd:
            destination.mkdir(mode=0o700)
            with open_directory(destination) as fd:
                _clone(source_fd, fd)

    def record(self, view: str) -> Mapping[str, str] | None:
        """What `build` was told about the view's origin."""
        try:
            value = json.loads(self._layout.view_record(view).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def of_manifest(self, manifest: Digest) -> list[str]:
        """The ids of the views that show an artifact."""
        ids = [path.stem for path in self._layout.views.glob("*.json")]
        return [view for view in ids if (self.record(view) or {}).get("manifest") == str(manifest)]

    def manifests(self) -> frozenset[str]:
        """The artifacts of which some view is complete."""
        ids = [path.stem for path in self._layout.views.glob("*.json")]
        return frozenset((self.record(view) or {}).get("manifest", "") for view in ids if self.path(view) is not None)

    def others(self, view: str) -> list[Path]:
        """What there is of other trees than this one, complete or not."""
        mine = {self._layout.view(view).name, f".{view}.new"}
        return [path for path in self._layout.views.iterdir() if path.is_dir() and path.name not in mine]

    def _fill(self, root: Path, tree: FileTree) -> None:
        directories = [entry for entry in tree.entries if entry.type is EntryType.DIRECTORY]
        for entry in directories:
            (root / entry.path).mkdir(mode=0o700, exist_ok=self._is_handed_over)
        files = _by_parent(tree)
        with closing(self._placer(files)) as placer:
            for parent, entries in files.items():
                with open_directory(root / parent) as fd:
                    for entry in entries:
                        placer.place(entry, fd)
        for entry in tree.entries:
            if entry.type is EntryType.SYMLINK and not (self._is_handed_over and (root / entry.path).is_symlink()):
                (root / entry.path).symlink_to(entry.target)
        for entry in reversed(directories):
            (root / entry.path).chmod(entry.mode | self._layout.file_mode)
        root.chmod(0o555 | self._layout.file_mode)
        sync_directories([root, *(root / entry.path for entry in directories)])

    def _placer(self, files: Mapping[str, list[FileEntry]]) -> Linker:
        if not self._is_handed_over:
            return Linker(self._layout)
        return Mover(self._layout, list(itertools.chain.from_iterable(files.values())))


@contextlib.contextmanager
def _removed_on_failure(temporary: Path) -> Iterator[None]:
    """The links in a half-made tree would keep their bytes on the disk, where no eviction finds them."""
    try:
        yield
    except BaseException:
        try:
            remove_tree(temporary)
        except OSError as error:  # what went wrong first matters more; the next start removes the tree
            logger.warning("cannot remove the half-made %s: %s", temporary, error)
        raise


@contextlib.contextmanager
def _length_errors(what: str) -> Iterator[None]:
    """An artifact may have paths of 4096 bytes, which is the kernel's limit for all of a path, `root_dir` included."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UnsupportedArtifact(
            f"{what} has a path that is too long for this node", hint="a shorter root_dir leaves more for it"
        ) from error


def _by_parent(tree: FileTree) -> dict[str, list[FileEntry]]:
    result: dict[str, list[FileEntry]] = {}
    for entry in tree.entries:
        if entry.type is EntryType.FILE:
            result.setdefault(entry.path.rpartition("/")[0], []).append(entry)
    return result


def _clone(source_fd: int, fd: int) -> None:
    """By descriptors: however deep, no path is too long. A view has at most 64 levels (`artifact/paths.py`)."""
    with os.scandir(source_fd) as entries:
        for entry in entries:
            if entry.is_symlink():
                os.symlink(os.readlink(entry.name, dir_fd=source_fd), entry.name, dir_fd=fd)
            elif entry.is_dir(follow_symlinks=False):
                os.mkdir(entry.name, 0o700, dir_fd=fd)
                with _opened(entry.name, source_fd) as below_source_fd, _opened(entry.name, fd) as below_fd:
                    _clone(below_source_fd, below_fd)
            else:
                mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                link_or_copy(entry.name, entry.name, fd, mode, source_fd)
    os.fchmod(fd, 0o555)


@contextlib.contextmanager
def _opened(name: str, parent_fd: int) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)
