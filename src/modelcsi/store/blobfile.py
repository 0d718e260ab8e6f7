"""The file that a blob is written into: through the page cache while that is cheap, past it when it is not.

What goes through the cache is there when the pod loads the model, so that is the rule. But where the host of a virtual
machine takes free pages back, each fresh page costs a fault outside: 1.0 s/GB of CPU instead of 0.12, more than hashing.
That is noticed here, by the CPU time of the writing thread, and the rest of the file goes by O_DIRECT through one aligned
buffer. Measured on such a machine, one blob of 512 MiB: 0.75 GB/s always cached, 1.16 direct, 1.6 cached in pages that were
free only for moments.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from pathlib import Path

from modelcsi.store.durable import write_all, write_back_behind

ALIGNMENT = 1 << 20
"""Direct writes begin at multiples of it; a multiple of every block size."""
_STAGING_BYTES = 4 << 20
_PROBE_BYTES = 16 << 20
_DEAR_SECONDS_PER_BYTE = 0.5e-9


class BlobFile:
    """Written by one thread at a time, in any order; cheapest in order. `write` may hold bytes back until `flush`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.fd = fd
        self._path = path
        self._direct_fd = -1
        self._staging: mmap.mmap | None = None
        self._staged_at = self._staged = 0
        self._probed_bytes, self._probed_seconds = 0, 0.0

    def write(self, offset: int, data: bytes) -> list[tuple[int, int]]:
        """Take bytes; returns the ranges (start, end) that are in the file now, of these or of earlier ones."""
        if self._staging is None:
            return self._write_cached(offset, memoryview(data))
        done = [] if offset == self._staged_at + self._staged else self.flush()
        view = memoryview(data)
        if not self._staged:  # begins anew: up to the next boundary by the cache
            head = min(-offset % ALIGNMENT, len(view))
            if head:
                write_all(self.fd, view[:head], offset)
                done.append((offset, offset + head))
            offset, view = offset + head, view[head:]
            self._staged_at = offset
        return done + self._stage(view)

    def flush(self) -> list[tuple[int, int]]:
        """Write what was held back; returns where."""
        if not self._staged or self._staging is None:
            return []
        start, end = self._staged_at, self._staged_at + self._staged
        with memoryview(self._staging) as staging:
            write_all(self.fd, staging[: self._staged], start)  # its length fits no block, so by the cache
        self._staged_at, self._staged = end, 0
        return [(start, end)]

    def close(self) -> None:
        """Give the descriptors back; what was held back is dropped."""
        for fd in (self.fd, self._direct_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._direct_fd = -1
        if self._staging is not None:
            self._staging.close()
            self._staging = None

    def _stage(self, view: memoryview) -> list[tuple[int, int]]:
        assert self._staging is not None, "only called while writing directly"
        done = []
        while view:
            size = min(_STAGING_BYTES - self._staged, len(view))
            self._staging[self._staged : self._staged + size] = view[:size]
            self._staged += size
            view = view[size:]
            if self._staged == _STAGING_BYTES:
                with memoryview(self._staging) as staging:
                    write_all(self._direct_fd, staging, self._staged_at)
                done.append((self._staged_at, self._staged_at + _STAGING_BYTES))
                self._staged_at, self._staged = self._staged_at + _STAGING_BYTES, 0
        return done

    def _write_cached(self, offset: int, view: memoryview) -> list[tuple[int, int]]:
        began = time.thread_time()
        write_all(self.fd, view, offset)
        end = offset + len(view)
        write_back_behind(self.fd, offset, end)
        self._probed_bytes += len(view)
        self._probed_seconds += time.thread_time() - began
        if self._probed_bytes >= _PROBE_BYTES:
            if self._probed_seconds > self._probed_bytes * _DEAR_SECONDS_PER_BYTE:
                self._go_direct(end)
            self._probed_bytes, self._probed_seconds = 0, 0.0
        return [(offset, end)]

    def _go_direct(self, offset: int) -> None:
        try:
            self._direct_fd = os.open(self._path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return  # a filesystem without O_DIRECT (tmpfs on some kernels): by the cache, then
        self._staging = mmap.mmap(-1, _STAGING_BYTES)
        self._staged_at, self._staged = offset, 0
