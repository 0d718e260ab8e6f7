"""Who receives which bytes of a blob.

At first one receiver claims each missing run whole, in order: one request without a Range, the cheapest there is. `spread`
cuts what is left into segments, taken in file order by all receivers, so that the window of memory stays small.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

_SEGMENT_BYTES = 8 << 20
_ALIGNMENT = 1 << 20


class Claim:
    """A run of bytes that one receiver works on; `position` is moved by that receiver only."""

    def __init__(self, start: int, end: int, lock: threading.Lock, *, is_stored: bool) -> None:
        self.position = start
        self.is_stored = is_stored
        self._lock = lock
        # Under the lock: where the run ends (a spread may pull it nearer), and how far a read that is under way may reach.
        self._end = end
        self._reaching = start

    @property
    def end(self) -> int:
        """Where the run ends now."""
        return self._end

    def is_done(self) -> bool:
        """Whether the receiver has all of it."""
        return self.position >= self._end

    def advance(self, step: int) -> int:
        """How many bytes the receiver may read next, at most `step`; 0 at the end."""
        with self._lock:
            size = min(step, self._end - self.position)
            self._reaching = self.position + size
            return size

    def cut(self) -> tuple[int, int] | None:
        """Give away what lies more than a segment ahead; the caller holds the lock."""
        keep = -(-self._reaching // _ALIGNMENT) * _ALIGNMENT + _SEGMENT_BYTES
        if keep >= self._end:
            return None
        rest = (keep, self._end)
        self._end = keep
        return rest


class Plan:
    """The runs of one blob that are still to be claimed."""

    def __init__(self, runs: Iterable[tuple[int, int, bool]]) -> None:
        self._lock = threading.Lock()
        # Under the lock:
        self._runs = deque(runs)
        self._active: list[Claim] = []
        self._is_spread = False

    def next_claim(self) -> Claim | None:
        """The next run in file order, None when all are claimed."""
        with self._lock:
            if not self._runs:
                return None
            start, end, is_stored = self._runs.popleft()
            if self._is_spread and not is_stored and end - start > _SEGMENT_BYTES:
                self._runs.appendleft((start + _SEGMENT_BYTES, end, False))
                end = start + _SEGMENT_BYTES
            claim = Claim(start, end, self._lock, is_stored=is_stored)
            self._active = [other for other in self._active if not other.is_done()]
            self._active.append(claim)
            return claim

    def spread(self) -> None:
        """From now on hand out segments, and take back what the present receivers would only reach later."""
        with self._lock:
            self._is_spread = True
            rests = [claim.cut() for claim in self._active if not claim.is_stored]
            self._runs.extend((start, end, False) for start, end in filter(None, rests))
            self._runs = deque(sorted(self._runs))

    def missing_bytes(self) -> int:
        """Bytes that nobody has received yet."""
        with self._lock:
            waiting = sum(end - start for start, end, is_stored in self._runs if not is_stored)
            return waiting + sum(claim.end - claim.position for claim in self._active if not claim.is_stored)
