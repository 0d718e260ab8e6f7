"""Where a file's bytes are at this moment, as open descriptors: few are kept, whatever the number of files that pods hold open.

The driver moves files meanwhile: an ingest becomes content by a rename (an open descriptor goes on), or is dropped because its
bytes were wrong (then the file has a new epoch, and what was opened before is not used again).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from modelcsi.oci.digest import Digest
from modelcsi.store.chunks import CHUNK_BYTES, ChunkView
from modelcsi.store.layout import StoreLayout, member_name
from modelcsi.view.fill import FileState, FillMap
from modelcsi.view.tree import Node

MAX_OPEN = 256
"""Files of all views that have a descriptor at a time; to open one again takes 10 us. With a chunk map each, and all else, that is
well below the 1024 that a process may have by default."""
_ATTEMPTS = 3


class Source:
    """An open file and, while it arrives, the map of what is there."""

    def __init__(self, fd: int, epoch: int, chunks: ChunkView | None = None) -> None:
        self.fd = fd
        self.epoch = epoch
        self.chunks = chunks

    def is_of(self, epoch: int, state: FileState) -> bool:
        """Whether it is still good: what arrived may be thrown away without this file having been told of it, and the content
        then be another file.
        """
        return self.epoch == epoch and (self.chunks is None or state is not FileState.COMPLETE)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.fd)
        if self.chunks is not None:
            self.chunks.close()


class Sources:
    """Opens what is read, and closes what was not read for longest. One for a process."""

    def __init__(self, capacity: int = MAX_OPEN) -> None:
        self._capacity = capacity
        self._open: OrderedDict[tuple[str, int], Source] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(
        self, key: tuple[str, int], epoch: int, state: FileState, opener: Callable[[], Source | None]
    ) -> Source | None:
        """The descriptors of a view's file in this epoch and state, opened now if need be; None when `opener` finds no file."""
        source = self._open.get(key)
        if source is not None:
            if source.is_of(epoch, state):
                self._open.move_to_end(key)
                return source
            self.forget(*key)
        source = opener()
        if source is not None:
            self._open[key] = source
            while len(self._open) > self._capacity:
                self._open.popitem(last=False)[1].close()
        return source

    def forget(self, view: str, file: int) -> None:
        """Close what is open of a file."""
        source = self._open.pop((view, file), None)
        if source is not None:
            source.close()

    def forget_view(self, view: str) -> None:
        """Close what is open of a view."""
        for key in [key for key in self._open if key[0] == view]:
            self._open.pop(key).close()


def open_content(layout: StoreLayout, node: Node) -> int:
    """A descriptor of a complete file. Raises OSError."""
    return os.open(_content_path(layout, node), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def open_source(layout: StoreLayout, host: str, node: Node, file: int, fill: FillMap) -> Source | None:
    """Open a file where it is now; None while it is nowhere. Raises OSError.

    The state is the driver's word before the rename or after it, so both places are tried, and the epoch is looked at again
    when all is open: if it is the same, nothing was dropped in between.
    """
    for _ in range(_ATTEMPTS):
        epoch = fill.epoch(file)
        state = fill.state(file)
        try:
            if state is FileState.COMPLETE:
                source = Source(open_content(layout, node), epoch)
            elif state is FileState.ARRIVING:
                source = _open_ingest(layout, host, node, epoch)
            else:
                return None
        except FileNotFoundError:
            if state is FileState.ARRIVING and node.member is not None and _members(layout, host, node).exists():
                # Nothing has come of this member. The content may be here all the same: another registry's, which this one has
                # not shown that it holds. A commit of ours moves the whole directory.
                return None
            try:
                source = Source(open_content(layout, node), epoch)  # renamed, and the state not yet told
            except FileNotFoundError:
                continue  # told meanwhile, or begun anew
        except ValueError:
            return None  # the chunk map is being made: nothing is here
        if fill.epoch(file) == epoch:
            return source
        source.close()
    return None


def _open_ingest(layout: StoreLayout, host: str, node: Node, epoch: int) -> Source:
    directory = layout.ingest(_digest(node), host)
    path = directory / "data" if node.member is None else _members(layout, host, node) / member_name(node.member)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # No read-ahead of the kernel's over bytes that are not here yet: they would be read from the disk for nothing.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return Source(fd, epoch, ChunkView(directory / "chunks"))
    except BaseException:
        os.close(fd)
        raise


def _members(layout: StoreLayout, host: str, node: Node) -> Path:
    return layout.ingest(_digest(node), host) / "tar" / "members"


def _content_path(layout: StoreLayout, node: Node) -> Path:
    digest = _digest(node)
    return layout.blob(digest) if node.member is None else layout.layer(digest) / member_name(node.member)


def _digest(node: Node) -> Digest:
    assert node.layer is not None, "asked only of files that are in a layer"
    return Digest.parse(node.layer)


def marked_chunks(layout: StoreLayout, host: str, node: Node) -> int:
    """How many chunks have come of the blob that a file is in."""
    try:
        chunks = ChunkView(layout.ingest(_digest(node), host) / "chunks")
    except (OSError, ValueError):
        return 0  # nothing has, or it is small and kept nowhere, or all of it is committed
    try:
        return chunks.marked()
    finally:
        chunks.close()


def chunks_of(node: Node, start: int, end: int) -> tuple[int, int]:
    """The first and last chunk of the layer's blob that [start, end) of a file lies in."""
    offset = node.offset or 0
    return (offset + start) // CHUNK_BYTES, (offset + end - 1) // CHUNK_BYTES


def range_of(node: Node, chunk: int) -> tuple[int, int]:
    """Which bytes of the file lie in a chunk of the blob."""
    offset = node.offset or 0
    return max(0, chunk * CHUNK_BYTES - offset), min(node.size, (chunk + 1) * CHUNK_BYTES - offset)
