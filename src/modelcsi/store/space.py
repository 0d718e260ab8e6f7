"""Free space as a ledger: what is promised to a pull is not promised to another one.

statvfs alone lets two pulls see the same free bytes (upstream's quota does). The driver's promises live in memory: after a
restart nothing is promised, and what was written counts as used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from modelcsi.errors import StoreFull
from modelcsi.quantities import format_size

_STEP_BYTES = 64 << 20
_MARGIN_BYTES = 16 << 20
"""Kept free for records, directories and the journal; small, so that a small test filesystem is usable."""


class Reservation:
    """Bytes promised to one pull; `used` turns promised into written, `close` gives the rest back."""

    def __init__(self, space: Space, size: int) -> None:
        self._space = space
        self.remaining = size  # under the ledger's lock

    def used(self, size: int) -> None:
        """So many bytes are on the disk now, and statvfs knows them."""
        self._space.change(self, -size)

    def spend(self, size: int, what: str) -> None:
        """Like `used`, for content whose size nobody knew (a compressed tar): asks for more when the promise is used up.

        Raises StoreFull.
        """
        if size > self.remaining:
            more = self._space.reserve_if_free(max(size, _STEP_BYTES)) or self._space.reserve(size, what)
            self._space.merge(self, more)
        self.used(size)

    def close(self) -> None:
        """Give back what was not used; repeatable."""
        self._space.change(self, -self.remaining)


class Space:
    """The ledger of one filesystem.

    `make_room` is called, without a lock held, with the bytes that are missing; it evicts what nobody needs, and frees
    less where all of that is not enough. `limit` tells the greatest number of bytes that the store may hold in all (None:
    what the disk has), and how many it holds.
    """

    def __init__(
        self, root: Path, make_room: Callable[[int], int], limit: Callable[[], tuple[int | None, int]]
    ) -> None:
        self._root = root
        self._make_room = make_room
        self._limit = limit
        self._lock = threading.Lock()
        self._promised = 0  # under the lock

    def reserve(self, size: int, what: str) -> Reservation:
        """Promise `size` bytes, after evicting what nobody needs if they are not free.

        Raises StoreFull, naming need and free space, before any byte is fetched.
        """
        reservation = self.reserve_if_free(size)
        if reservation is None:
            self._make_room(size - max(0, self.available_bytes()))
            reservation = self.reserve_if_free(size)
        if reservation is None:
            raise StoreFull(
                f"{what} needs {size} bytes ({format_size(size)}); {max(0, self.available_bytes())} "
                f"({format_size(max(0, self.available_bytes()))}) are free for models in {self._root}",
                hint="evicting everything that no pod uses would not be enough: free space there, raise "
                "features.disk_usage_limit, or run the pod on a larger node",
            )
        return reservation

    def reserve_if_free(self, size: int) -> Reservation | None:
        """Promise `size` bytes if they are free; evicts nothing."""
        with self._lock:
            if size and size > self._free() - self._promised:
                return None
            self._promised += size
            return Reservation(self, size)

    def available_bytes(self) -> int:
        """What could be promised now; negative when the disk filled up behind our back."""
        with self._lock:
            return self._free() - self._promised

    def change(self, reservation: Reservation, size: int) -> None:
        """Grow or shrink a promise; it never falls below nothing."""
        with self._lock:
            size = max(size, -reservation.remaining)
            reservation.remaining += size
            self._promised += size

    def merge(self, reservation: Reservation, other: Reservation) -> None:
        """Move what `other` holds into `reservation`."""
        with self._lock:
            reservation.remaining += other.remaining
            other.remaining = 0

    def _free(self) -> int:
        status = os.statvfs(self._root)
        free = status.f_bavail * status.f_frsize - _MARGIN_BYTES
        limit, stored = self._limit()
        return free if limit is None else min(free, limit - stored)
