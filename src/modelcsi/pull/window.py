"""Bytes on their way from the receivers to those who need them in order (hash, unpacker), within a bound of memory.

Received buffers are kept until every reader had them and are never read back from the file: one connection is then the
plain pipeline, and several cost 0 to 5 % instead of 15 % (reference measurement, performance.md section C).
"""

from __future__ import annotations

import threading

PIECE_BYTES = 1 << 20
_LEAST_BYTES = 2 * PIECE_BYTES


class MemoryBudget:
    """The bytes that all windows of the process may hold; each gets an equal share of it, at least two pieces."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._lock = threading.Lock()
        self._windows = 0  # under the lock

    def join(self) -> None:
        """One window more."""
        with self._lock:
            self._windows += 1

    def leave(self) -> None:
        """One window less."""
        with self._lock:
            self._windows -= 1

    def share(self) -> int:
        """What each window may hold now."""
        return max(_LEAST_BYTES, self._total // max(1, self._windows))


class Window:
    """The pieces of one blob between receivers and readers.

    Receivers `put` pieces at any offset, and wait while theirs is too far ahead of the slowest reader; the piece that a
    reader needs next never waits, so nothing can lock up. Each reader gets every byte in order.
    """

    def __init__(self, size: int, readers: int, budget: MemoryBudget) -> None:
        self._size = size
        self._budget = budget
        self._changed = threading.Condition()
        # Under the condition's lock: pieces by offset with the number of readers that still need them; where each reader
        # is; what ended the transfer.
        self._pieces: dict[int, tuple[bytes, int]] = {}
        self._cursors = [0] * readers
        self._error: BaseException | None = None
        self._waiting_receivers = 0

    def put(self, offset: int, piece: bytes) -> None:
        """Hand a piece on; waits for room. Raises what ended the transfer."""
        with self._changed:
            self._waiting_receivers += 1
            self._changed.wait_for(
                lambda: self._error is not None or offset < min(self._cursors) + self._budget.share()
            )
            self._waiting_receivers -= 1
            if self._error is not None:
                raise self._error
            self._pieces[offset] = (piece, len(self._cursors))
            if offset in self._cursors:
                self._changed.notify_all()

    def read(self, reader: int) -> bytes:
        """The next piece for this reader, empty at the end. Raises what ended the transfer."""
        with self._changed:
            cursor = self._cursors[reader]
            if cursor == self._size:
                return b""
            self._changed.wait_for(lambda: self._error is not None or cursor in self._pieces)
            if self._error is not None:
                raise self._error
            piece, needed = self._pieces[cursor]
            if needed == 1:
                del self._pieces[cursor]
            else:
                self._pieces[cursor] = (piece, needed - 1)
            self._cursors[reader] = cursor + len(piece)
            if self._waiting_receivers:
                self._changed.notify_all()
            return piece

    def fail(self, error: BaseException) -> None:
        """End the transfer: everybody who waits, or comes, gets the error; the first one counts."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._pieces.clear()
            self._changed.notify_all()

    @property
    def error(self) -> BaseException | None:
        """What ended the transfer, or None."""
        return self._error

    def is_full(self) -> bool:
        """Whether receivers wait for the readers: more connections would not help."""
        return self._waiting_receivers > 0
