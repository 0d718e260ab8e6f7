"""A FileTree that can be read before all of it is here: which bytes may be read now, from where, and who waits for the rest.

It knows no kernel and never blocks: what cannot be read now calls back later, in the loop's thread.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from modelcsi.store.layout import StoreLayout
from modelcsi.view.fill import FileState, FillMap
from modelcsi.view.link import Demand
from modelcsi.view.loop import Loop
from modelcsi.view.readahead import ReadAhead
from modelcsi.view.sources import Source, Sources, chunks_of, marked_chunks, open_content, open_source, range_of
from modelcsi.view.tree import Node, read_tree
from modelcsi.view.waits import Need, Range, Verdict, Waiting, Waits
from modelcsi.view.wire import Ahead

logger = logging.getLogger(__name__)


class Located(NamedTuple):
    """Where a range is. One of: `content`, all of the file; `fd`, where the file's bytes are at their own offsets (valid until the
    view is asked again); an `errno`; or ranges are `missing`, to be given to `View.wait`.
    """

    fd: int = -1
    content: bytes | None = None
    errno: int = 0
    missing: tuple[Range, ...] = ()


@dataclass(frozen=True)
class Surroundings:
    """What the views of one process share."""

    layout: StoreLayout
    demand: Demand
    loop: Loop
    ids: Iterator[int]
    """Of wants: no two of a process are equal."""
    sources: Sources
    read_ahead: ReadAhead
    timeout_seconds: float
    """How long somebody waits before EIO."""


class View:
    """One lazy view, read-only; the driver writes the plan and the fill map that it looks at."""

    def __init__(self, view: str, around: Surroundings) -> None:
        """Raises OSError or ValueError when the view's files are not as they should be."""
        self.id = view
        self.files = around.layout.lazy_view(view)
        self.tree = read_tree(self.files.plan)
        self.fill = FillMap(self.files.fill, self.tree.count)
        self._around = around
        self._host = self.tree.head.get("host", "")
        self._waits = Waits(
            view,
            self.judge,
            around.demand,
            around.loop,
            timeout_seconds=around.timeout_seconds,
            ids=around.ids,
        )

    def locate(self, file: int, start: int, end: int, epoch: int) -> Located:
        """Where [start, end) of a file can be read, for a handle of this epoch; the range is cut at the file's end."""
        node = self.tree.nodes[file + 1]
        if node.content is not None:
            return Located(content=node.content)
        if self.fill.epoch(file) != epoch:
            return Located(errno=errno.EIO)
        end = min(end, node.size)
        if start >= end:
            return Located(content=b"")
        state = self.fill.state(file)
        if state is FileState.FAILED:
            return Located(errno=errno.EIO)
        if state is FileState.WAITING:
            return Located(missing=self._unreadable(node, start, end))
        try:
            source = self._source(file, node, epoch, state)
        except OSError as error:
            logger.warning("cannot open file %d of view %s: %s", file, self.id, error)
            return Located(errno=errno.EIO)
        if source is None:
            return Located(missing=self._unreadable(node, start, end))
        if state is not FileState.COMPLETE:
            hint = self._around.read_ahead.next_hint((self.id, file), start, end, node.size)
            if hint is not None:
                self._around.demand.ahead(Ahead(self.id, file, *hint))
            if source.chunks is not None:
                chunks = source.chunks.missing(*chunks_of(node, start, end))
                if chunks and source.chunks.has_gone():  # thrown away, or committed: it is opened where it is now
                    self._around.sources.forget(self.id, file)
                if chunks:
                    return Located(missing=tuple(range_of(node, chunk) for chunk in chunks))
        return Located(fd=source.fd)

    def judge(self, need: Need) -> Verdict:
        """How it is with a need."""
        if need.is_verified:
            return self._judge_verified(need.file)
        epoch = self.fill.epoch(need.file) if need.epoch is None else need.epoch
        located = self.locate(need.file, need.start, need.end, epoch)
        return Verdict(located.errno, located.missing, self._arrived(need) if located.missing else 0)

    def judge_opening(self, file: int, *, waits: bool) -> Verdict:
        """Whether a file may be opened: not while it cannot be had, and with `waits` not before it is verified."""
        if not self.is_complete(file) and self.fill.state(file) is FileState.FAILED:
            return Verdict(errno.EIO)
        return self._judge_verified(file) if waits else Verdict()

    def is_complete(self, file: int) -> bool:
        """Whether all of the file is here and verified."""
        node = self.tree.nodes[file + 1]
        return node.content is not None or node.size == 0 or self.fill.state(file) is FileState.COMPLETE

    def open_complete(self, file: int) -> int:
        """A descriptor, the caller's, of a complete file that is in a layer. Raises OSError."""
        return open_content(self._around.layout, self.tree.nodes[file + 1])

    def wait(self, need: Need, missing: tuple[Range, ...], resume: Callable[[int], None]) -> Waiting:
        """`Waits.wait`: `resume` is told 0 when it is worth to look again, or an errno."""
        return self._waits.wait(need, missing, resume, self._arrived(need))

    def cancel(self, waiting: Waiting) -> None:
        """`Waits.cancel`."""
        self._waits.cancel(waiting)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waits)

    def look_again(self) -> None:
        """The driver was away, or said that something changed: who waits for what is here, or for what never comes, goes on."""
        self._waits.look_again()

    def changed(self, files: tuple[int, ...]) -> None:
        """What was read of these files was wrong: their descriptors are of files that are gone, and who waits with an older
        handle is told.
        """
        for file in files:
            self._around.sources.forget(self.id, file)
        self._waits.look_again()

    def close(self) -> None:
        """Give all descriptors back; who waits is not told."""
        self._waits.close()
        self._around.sources.forget_view(self.id)
        self._around.read_ahead.forget_view(self.id)
        self.fill.close()

    def _judge_verified(self, file: int) -> Verdict:
        if self.is_complete(file):
            return Verdict()
        if self.fill.state(file) is FileState.FAILED:
            return Verdict(errno.EIO)
        node = self.tree.nodes[file + 1]
        return Verdict(missing=((0, node.size),), arrived=marked_chunks(self._around.layout, self._host, node))

    def _arrived(self, need: Need) -> int:
        """How much is here of what can only be had as a whole."""
        node = self.tree.nodes[need.file + 1]
        is_whole = node.layer is not None and (need.is_verified or node.offset is None)
        return marked_chunks(self._around.layout, self._host, node) if is_whole else 0

    def _source(self, file: int, node: Node, epoch: int, state: FileState) -> Source | None:
        layout, host, fill = self._around.layout, self._host, self.fill
        key = (self.id, file)
        return self._around.sources.get(key, epoch, state, lambda: open_source(layout, host, node, file, fill))

    def _unreadable(self, node: Node, start: int, end: int) -> tuple[Range, ...]:
        """What to ask for of a file of which nothing may be read: its chunks where they can arrive one by one, else all of it."""
        if node.offset is None:
            return ((0, node.size),)
        first, last = chunks_of(node, start, end)
        return tuple(range_of(node, chunk) for chunk in range(first, last + 1))


def read_at(located: Located, start: int, size: int) -> bytes:
    """The bytes of a range that was located; fewer only at the file's end. Raises OSError."""
    if located.content is not None:
        return located.content[start : start + size]
    return os.pread(located.fd, size, start)
