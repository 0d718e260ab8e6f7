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
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from pathlib import Path
from struct import Struct

from modelcsi.fuse.abi import RESENT

_MAGIC = b"mcsiopn1"
_HEADER = Struct("=8sQ")  # magic, number of files
_JOURNAL = Struct("=QII")  # unique, file, count
_VALID_AT = 16
_JOURNAL_AT = 24
_TABLES_AT = 64
_COUNTS_BYTES, _EPOCHS_BYTES = 4, 2


class Opens:
    """One view's open files. The process that has it is the only one (a lock that ends with it)."""

    def __init__(self, path: Path, files: int) -> None:
        """Raises BlockingIOError while another process has it, OSError."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header = _HEADER.pack(_MAGIC, files)
            even = files + files % 2
            length = _TABLES_AT + 2 * _COUNTS_BYTES * even + 2 * _EPOCHS_BYTES * even
            is_known = os.fstat(self._fd).st_size == length and os.pread(self._fd, len(header), 0) == header
            if not is_known:
                os.ftruncate(self._fd, 0)
                os.ftruncate(self._fd, length)
            self._map = mmap.mmap(self._fd, length)
        except BaseException:
            os.close(self._fd)
            raise
        tables = memoryview(self._map)[_TABLES_AT:]
        counts, backings, epochs = tables[: 4 * even], tables[4 * even : 8 * even], tables[8 * even :]
        # Stores through a memoryview of native items are one machine instruction; struct's are a loop over bytes.
        self._counts, self._backings = counts.cast("I"), backings.cast("I")
        self._backing_epochs, self._settled = epochs[: 2 * even].cast("H"), epochs[2 * even :].cast("H")
        self._views = (
            tables,
            counts,
            backings,
            epochs,
            self._counts,
            self._backings,
            self._backing_epochs,
            self._settled,
        )
        if not is_known:
            self._fill(1)  # a mount that somebody else served before: who knows what is open
            self._map[: len(header)] = header
        elif self._map[_VALID_AT]:
            _, file, number = _JOURNAL.unpack_from(self._map, _JOURNAL_AT)
            self._counts[file] = number
        self._backing_count = sum(1 for id in self._backings if id)

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
        """A handle that reads through the cache came (1) or went (-1), by the request `unique`; once, however often it comes."""
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
        os.close(self._fd)

    def _fill(self, number: int) -> None:
        tables, counts = self._views[0], self._views[1]
        counts[:] = number.to_bytes(_COUNTS_BYTES, sys.byteorder) * len(self._counts)
        tables[len(counts) :] = bytes(len(tables) - len(counts))
