"""How fast a blob's connections are, and what follows: how much is asked for at once, and over how many of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from modelcsi.pull.transfer import Growth
from modelcsi.store.chunks import CHUNK_BYTES

_MAX_CONNECTIONS = 8
_FIRST_CHUNKS = 1
"""Of a request while nothing is known."""
_FILL_SECONDS = 0.1
"""A request of the fill takes about so long, since a reader who wants what is in it must wait for it."""
_URGENT_SECONDS = 0.1
_MOST_FILL_CHUNKS, _MOST_URGENT_CHUNKS = 32, 8
_SLOW_BYTES_PER_SECOND = 300e6
_GROWTH_GAIN = 1.2


class Pace:
    """Of one blob; used under the lock of its transfer."""

    def __init__(self, missing_chunks: int) -> None:
        self._rate = 0.0  # of one connection, in bytes a second
        self._looked, self._missing, self._rate_before = time.monotonic(), missing_chunks, 0.0

    def measured(self, size: int, seconds: float) -> None:
        """A request brought so much."""
        rate = size / max(seconds, 1e-6)
        self._rate = (self._rate + rate) / 2 if self._rate else rate

    def fill_chunks(self) -> int:
        """How many chunks the fill asks for at once."""
        return self._chunks(_FILL_SECONDS, _MOST_FILL_CHUNKS)

    def urgent_chunks(self) -> int:
        """The same of what somebody waits for: several requests share the way."""
        return self._chunks(_URGENT_SECONDS, _MOST_URGENT_CHUNKS)

    def connections(self, missing_chunks: int, count: int, growth: Growth, *, is_bound: bool) -> int:
        """Over how many connections the fill goes on that has `count`; asked often, it looks each second.

        `is_bound`: more would not help, or cannot be judged now. As in `Transfer`: while one is slow, and more helped.
        """
        now = time.monotonic()
        if now - self._looked < growth.look_seconds:
            return count
        rate = (self._missing - missing_chunks) * CHUNK_BYTES / (now - self._looked)
        self._looked, self._missing = now, missing_chunks
        is_big = missing_chunks * CHUNK_BYTES >= growth.above_bytes
        is_slow = rate < _SLOW_BYTES_PER_SECOND * count
        if is_bound or not is_big or not is_slow or rate <= self._rate_before * _GROWTH_GAIN:
            return count
        self._rate_before = rate
        return min(2 * count, _MAX_CONNECTIONS)

    def _chunks(self, seconds: float, most: int) -> int:
        return max(1, min(int(self._rate * seconds) // CHUNK_BYTES, most)) if self._rate else _FIRST_CHUNKS


class Stopwatch:
    """Time that was spent, but for pauses."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._began

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Does not count."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - began
