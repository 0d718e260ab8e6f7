"""What a server must not forget when it is killed: how many handles of a file are open through the page cache, and which
backing file the kernel knows for it.

The kernel reads one inode in one way at a time. While a handle that reads through the cache is open, an open with passthrough
fails with EIO, and so does an open through the cache while one with passthrough is (fs/fuse/iomode.c, fuse_file_io_open). So
the next server must know what the one before it answered. The kernel itself knows who is open and tells nobody.

A mapped file `mounts/<view>/opens`: what is stored in it outlives a kill -9 of the process; it means nothing after a reboot, as
the mount is gone too. Each change is written into the journal, the journal is made valid by one byte, and then the count is
stored: at whichever store the process ends, the next one finds that the change was made wholly or not at all. If it was made
and the kernel had no answer, the kernel sends the request again (NOTIFY_RESEND) and the journal still names it; one request is
enough, since each is answered before the next is begun. A count that is too high, of a reader that was killed between two
servers, costs speed; too low would cost EIO.

The file has one owner: who opens it last. A server that was stopped, replaced and woken finds at its next step that it is none.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from struct import Struct
from typing import Literal

from modelcsi.fuse.abi import RESENT
from modelcsi.store.durable import make_solid

_MAGIC = b"mcsiopn1"
_HEADER = Struct("=8sQ")  # magic, number of files
_JOURNAL = Struct("=QII")  # unique, file, count
_VALID_AT = 16
_JOURNAL_AT = 24
_OWNER_AT = 40
_TABLES_AT = 64
_COUNT_BYTES, _EPOCH_BYTES = 4, 2


class Superseded(Exception):
    """Another process serves the view."""


class Opens:
    """One view's open files."""

    def __init__(self, path: Path, files: int) -> None:
        """Take it over from whoever had it. Raises OSError, StoreFull."""
        header = _HEADER.pack(_MAGIC, files)
        even = files + files % 2
        self._map, is_known = _map(path, header, _TABLES_AT + 2 * even * (_COUNT_BYTES + _EPOCH_BYTES))
        self._all = memoryview(self._map)
        self._views = [self._all]
        # Stores through a memoryview of native items are one machine instruction; struct's are a loop over bytes.
        self._owner = self._table(_OWNER_AT, "Q", 1)
        self._counts = self._table(_TABLES_AT, "I", even)
        self._backings = self._table(_TABLES_AT + _COUNT_BYTES * even, "I", even)
        epochs_at = _TABLES_AT + 2 * _COUNT_BYTES * even
        self._backing_epochs = self._table(epochs_at, "H", even)
        self._settled = self._table(epochs_at + _EPOCH_BYTES * even, "H", even)
        self._token = self._owner[0] = int.from_bytes(os.urandom(8), sys.byteorder)
        if not is_known:
            self._fill(1)  # a mount that somebody else served before: who knows what is open
            self._map[: len(header)] = header
        elif self._map[_VALID_AT]:
            _, file, number = _JOURNAL.unpack_from(self._map, _JOURNAL_AT)
            self._counts[file] = number
        self._backing_count = sum(1 for id in self._backings if id)

    def is_mine(self) -> bool:
        """Whether this process is still who serves."""
        return bool(self._owner[0] == self._token)

    def begin(self) -> None:
        """The mount is new: nothing is open. Repeatable."""
        self._map[_VALID_AT] = 0
        self._fill(0)
        self._backing_count = 0

    def cached(self, file: int) -> int:
        """How many handles read it through the page cache, or more."""
        return self._counts[file]

    def is_applied(self, unique: int) -> bool:
        """Whether this request, that came again, was already counted."""
        if not unique & RESENT or not self._map[_VALID_AT]:
            return False
        last: int = _JOURNAL.unpack_from(self._map, _JOURNAL_AT)[0]
        return last & ~RESENT == unique & ~RESENT

    def count(self, unique: int, file: int, step: int) -> None:
        """A handle that reads through the cache came (1) or went (-1), by the request `unique`; once, however often it comes.

        Raises Superseded.
        """
        if not self.is_mine():
            raise Superseded
        if self.is_applied(unique):
            return
        number = max(0, self._counts[file] + step)
        self._map[_VALID_AT] = 0
        _JOURNAL.pack_into(self._map, _JOURNAL_AT, unique, file, number)
        self._map[_VALID_AT] = 1
        self._counts[file] = number

    @property
    def backing_count(self) -> int:
        """How many files the kernel has a backing file of."""
        return self._backing_count

    def backing(self, file: int, epoch: int) -> int:
        """The kernel's id of the file's backing file, 0 when it has none of this epoch."""
        return self._backings[file] if self._backing_epochs[file] == epoch else 0

    def keep_backing(self, file: int, id: int, epoch: int) -> int:
        """Remember the id, before the kernel is told to use it; returns the one of an older epoch that it replaces, or 0."""
        before = self._backings[file]
        self._backings[file] = 0
        self._backing_epochs[file] = epoch
        self._backings[file] = id
        self._backing_count += 0 if before else 1
        return before

    def settled(self, file: int) -> int:
        """The epoch that the kernel's page cache is of, or an older one."""
        return self._settled[file]

    def settle(self, file: int, epoch: int) -> None:
        """The kernel was made to forget what it had of older epochs."""
        self._settled[file] = epoch

    def close(self) -> None:
        """Unmap and unlock."""
        for view in reversed(self._views):
            view.release()
        self._map.close()

    def _table(self, at: int, item: Literal["H", "I", "Q"], count: int) -> memoryview:
        raw = self._all[at : at + count * Struct(f"={item}").size]
        table = raw.cast(item)
        self._views += [raw, table]
        return table

    def _fill(self, number: int) -> None:
        tables = self._all[_TABLES_AT:]
        counts = number.to_bytes(_COUNT_BYTES, sys.byteorder) * len(self._counts)
        tables[:] = counts + bytes(len(tables) - len(counts))
        tables.release()


def _map(path: Path, header: bytes, length: int) -> tuple[mmap.mmap, bool]:
    """The file's mapping, and whether it had this header already."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        is_known = os.fstat(fd).st_size == length and os.pread(fd, len(header), 0) == header
        os.ftruncate(fd, length)  # never to nothing first: who has it mapped would die of SIGBUS
        if not is_known:
            make_solid(fd, length)
        return mmap.mmap(fd, length), is_known
    finally:
        os.close(fd)
