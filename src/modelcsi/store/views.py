"""The tree that a pod sees: hard links into the content, built beside its name and renamed into place.

A hard link shares mode and mtime with the content, so a file whose execute bit differs from the content's is copied (a
reflink where the filesystem can); mtime belongs to the content and never makes a copy. Directories are made and files
linked through descriptors of directories that this module made itself, and symlinks come last, so that no name in an
artifact can lead outside.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from modelcsi.artifact.tree import EntryType, FileEntry, FileTree
from modelcsi.errors import CorruptContent, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.store.durable import (
    open_directory,
    remove_tree,
    replace_file,
    space_errors,
    sync_directories,
    sync_directory,
)
from modelcsi.store.layout import StoreLayout, member_name

logger = logging.getLogger(__name__)

_EXECUTE = 0o111
_LINK_LIMIT = frozenset({errno.EMLINK, errno.EXDEV, errno.EPERM})


def view_id(manifest: Digest, selection: str, layout: str = "files") -> str:
    """The name of a view: everything that decides what it shows, hashed."""
    return hashlib.sha256(json.dumps([str(manifest), selection, layout]).encode()).hexdigest()


class Views:
    """The complete trees of one store."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout

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
            if temporary.exists():
                remove_tree(temporary)
            with _removed_on_failure(temporary):
                temporary.mkdir(mode=0o700)
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

    def _fill(self, root: Path, tree: FileTree) -> None:
        directories = [entry for entry in tree.entries if entry.type is EntryType.DIRECTORY]
        for entry in directories:
            (root / entry.path).mkdir(mode=0o700)
        with closing(_Sources(self._layout)) as sources:
            for parent, entries in _by_parent(tree).items():
                with open_directory(root / parent) as fd:
                    for entry in entries:
                        _place(entry, sources, fd, self._layout.file_mode)
        for entry in tree.entries:
            if entry.type is EntryType.SYMLINK:
                (root / entry.path).symlink_to(entry.target)
        for entry in reversed(directories):
            (root / entry.path).chmod(entry.mode | self._layout.file_mode)
        root.chmod(0o555 | self._layout.file_mode)
        sync_directories([root, *(root / entry.path for entry in directories)])


class _Sources:
    """Where files are in the content, by an open directory and the name in it: for a hundred thousand of them whole paths
    would take longer than their links.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._layer: Digest | None = None
        self._fd = -1

    def locate(self, layer: Digest, member: int | None) -> tuple[int | None, str]:
        """The directory's descriptor, valid until the next call, and the name; of a blob a path."""
        if member is None:
            return None, str(self._layout.blob(layer))
        if layer is not self._layer:  # one stays open: an artifact may have ten thousand layers
            self.close()
            self._fd = os.open(self._layout.layer(layer), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._layer = layer
        return self._fd, member_name(member)

    def close(self) -> None:
        """Close what is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._layer = -1, None


def _place(entry: FileEntry, sources: _Sources, parent_fd: int, file_mode: int) -> None:
    name = entry.path.rpartition("/")[2]
    mode = entry.mode | file_mode
    if entry.data is not None:
        _write(entry.data, name, parent_fd, mode)
        return
    assert entry.layer is not None, "a file's bytes are in a layer"
    source_fd, source = sources.locate(entry.layer, entry.member)
    status = os.stat(source, dir_fd=source_fd)
    # Another artifact may have unpacked the same bytes in another form meanwhile: a tar is larger than any of its members.
    if entry.member is not None and status.st_size != entry.size:
        raise CorruptContent(
            f"{entry.path!r} of layer {entry.layer} has {status.st_size} bytes; {entry.size} were recorded"
        )
    if (status.st_mode ^ mode) & _EXECUTE:
        _copy(source, name, parent_fd, mode, source_fd)
    else:
        _link_or_copy(source, name, parent_fd, mode, source_fd)


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
                _link_or_copy(entry.name, entry.name, fd, mode, source_fd)
    os.fchmod(fd, 0o555)


@contextlib.contextmanager
def _opened(name: str, parent_fd: int) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _link_or_copy(source: str, name: str, parent_fd: int, mode: int, source_fd: int | None) -> None:
    try:
        os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _LINK_LIMIT:
            raise
        _copy(source, name, parent_fd, mode, source_fd)


def _write(data: bytes, name: str, parent_fd: int, mode: int) -> None:
    with os.fdopen(_create(name, parent_fd), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.utime(file.fileno(), ns=(0, 0))
        os.fsync(file.fileno())


def _create(name: str, parent_fd: int) -> int:
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=parent_fd)


def _copy(source: str, name: str, parent_fd: int, mode: int, source_fd: int | None) -> None:
    opener = functools.partial(os.open, dir_fd=source_fd)
    with open(source, "rb", opener=opener) as reader, contextlib.ExitStack() as stack:
        fd = _create(name, parent_fd)
        stack.callback(os.close, fd)
        status = os.fstat(reader.fileno())
        remaining = status.st_size
        while remaining:
            copied = os.copy_file_range(reader.fileno(), fd, min(remaining, 1 << 30))
            if copied == 0:
                raise OSError(errno.EIO, f"{source} ended {remaining} bytes early")
            remaining -= copied
        os.fchmod(fd, mode)
        os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
        os.fsync(fd)
