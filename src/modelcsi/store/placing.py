"""Puts the files of a tree into its directories: as hard links into the content, or moved out of it.

A hard link shares mode and mtime with the content, so a file whose execute bit differs from the content's is copied (a
reflink where the filesystem can); mtime belongs to the content and never makes a copy. Names are looked up in directories
that the caller opened. One thread.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Sequence

from modelcsi.artifact.members import WHOLE_FILE
from modelcsi.artifact.tree import FileEntry
from modelcsi.errors import CorruptContent
from modelcsi.oci.digest import Digest
from modelcsi.store.layout import StoreLayout, member_name

_EXECUTE = 0o111
_LINK_LIMIT = frozenset({errno.EMLINK, errno.EXDEV, errno.EPERM})


class Linker:
    """Links: the content stays where it is, for other trees."""

    def __init__(self, layout: StoreLayout) -> None:
        self._sources = _Sources(layout)
        self._file_mode = layout.file_mode

    def place(self, entry: FileEntry, parent_fd: int) -> None:
        """Make one file of the tree. Raises CorruptContent, OSError."""
        name, mode = _name(entry), entry.mode | self._file_mode
        if entry.data is not None:
            _write(entry.data, name, parent_fd, mode)
            return
        source_fd, source = self._sources.locate(entry)
        status = os.stat(source, dir_fd=source_fd)
        # Another artifact may have unpacked the same bytes in another form meanwhile: a tar is larger than any of its members.
        if entry.member is not None:
            _check_size(entry, status.st_size)
        if (status.st_mode ^ mode) & _EXECUTE:
            _copy(source, name, parent_fd, mode, source_fd)
        else:
            link_or_copy(source, name, parent_fd, mode, source_fd)

    def close(self) -> None:
        """Close what is open."""
        self._sources.close()


class Mover(Linker):
    """Moves members of tars: for a store that has no other tree, and is removed when it has made this one.

    That is what costs of very many small files: a rename takes 13 us, a link 10, and removing what was linked 6. Their modes
    need no look, since no other artifact unpacks anything here. Blobs are linked, since by its file alone the store knows
    that it has a blob, and what is no member of a tar may have several modes.

    Whoever is killed goes on: what is not in the content any more is at its last place, and was put at all others before.
    """

    def __init__(self, layout: StoreLayout, files: Sequence[FileEntry]) -> None:
        """`files`: all of them, in the order in which they will be placed."""
        super().__init__(layout)
        self._followed = _followed(files)

    def place(self, entry: FileEntry, parent_fd: int) -> None:
        """As of `Linker`, also where an attempt before did it."""
        if not _is_of_tar(entry):
            _remove(entry, parent_fd)  # it may have been killed while it wrote a copy
            super().place(entry, parent_fd)
            return
        source_fd, source = self._sources.locate(entry)
        try:
            if entry.path in self._followed:
                os.stat(source, dir_fd=source_fd)
                _remove(entry, parent_fd)
                super().place(entry, parent_fd)
            else:
                os.rename(source, _name(entry), src_dir_fd=source_fd, dst_dir_fd=parent_fd)
        except FileNotFoundError:
            _check_placed(entry, parent_fd)


class _Sources:
    """Where files are in the content, by an open directory and the name in it: for a hundred thousand of them whole paths
    would take longer than their links.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._layer: Digest | None = None
        self._fd = -1

    def locate(self, entry: FileEntry) -> tuple[int | None, str]:
        """The directory's descriptor, valid until the next call, and the name; of a blob a path."""
        layer = entry.layer
        assert layer is not None, "a file's bytes are in a layer"
        if entry.member is None:
            return None, str(self._layout.blob(layer))
        if layer is not self._layer:  # one stays open: an artifact may have ten thousand layers
            self.close()
            self._fd = os.open(self._layout.layer(layer), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._layer = layer
        return self._fd, member_name(entry.member)

    def close(self) -> None:
        """Close what is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._layer = -1, None


def _followed(files: Sequence[FileEntry]) -> set[str]:
    """The paths whose file has another path after this one: a hard link, or the same bytes twice."""
    seen: dict[Digest | None, set[int | None]] = {}
    layer, members, paths = None, set[int | None](), set[str]()
    for entry in reversed(files):
        if entry.layer is not layer:  # to look it up for each would take longer than all else
            layer, members = entry.layer, seen.setdefault(entry.layer, set())
        if entry.member in members:
            paths.add(entry.path)
        members.add(entry.member)
    return paths


def _name(entry: FileEntry) -> str:
    return entry.path.rpartition("/")[2]


def _is_of_tar(entry: FileEntry) -> bool:
    return entry.member is not None and entry.member != WHOLE_FILE


def _check_size(entry: FileEntry, size: int) -> None:
    if size != entry.size:
        raise CorruptContent(f"{entry.path!r} of layer {entry.layer} has {size} bytes; {entry.size} were recorded")


def _check_placed(entry: FileEntry, parent_fd: int) -> None:
    try:
        _check_size(entry, os.stat(_name(entry), dir_fd=parent_fd, follow_symlinks=False).st_size)
    except FileNotFoundError as error:
        raise CorruptContent(f"{entry.path!r} of layer {entry.layer} is recorded, and not here") from error


def _remove(entry: FileEntry, parent_fd: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_name(entry), dir_fd=parent_fd)


def link_or_copy(source: str, name: str, parent_fd: int, mode: int, source_fd: int | None) -> None:
    """Link a file, or copy it with this mode where it has as many links as it may have."""
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
