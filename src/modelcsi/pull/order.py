"""In which order the chunks of a blob are fetched while somebody reads it: first what is waited for, then what a reader will
want next, then the rest from the start.

Chunks are claimed in segments: requests of bounded size, so that nothing of an answer is ever thrown away when another reader
comes. Everything here is used under one lock, that of the job's `Urgency`.
"""

from __future__ import annotations

import bisect
import enum
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from modelcsi.store.chunks import CHUNK_BYTES

_MISSING, _CLAIMED, _STORED = 0, 1, 2
_MAX_HINTS = 16
"""Of one blob; the oldest are of readers that have gone elsewhere."""
_HINT_SECONDS = 0.2
"""A hint whose reader was not seen for so long is of nobody, if somebody waits."""


class Urgency:
    """Whether somebody waits for bytes of a job: what it fetches for nobody in particular stands aside meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        """Told when `demands` begin or end, and when a transfer ends."""
        self.demands = 0
        """Under the lock: how many there are in all blobs of the job that are not here yet, with hints."""
        self.wants = 0
        """The same without hints."""
        self.fill_receivers = 0
        """Under the lock: the connections over which the job fills its blobs."""


class Rank(enum.IntEnum):
    """What comes before what."""

    WANT = 0
    """Somebody waits for these chunks."""
    HINT = 1
    """Somebody will."""
    WHOLE = 2
    """Somebody waits for all of the blob, and for its commit."""


@dataclass(eq=False, slots=True)
class Demand:
    """Chunks that somebody waits for, or will."""

    first: int
    end: int
    rank: Rank
    seen: float = 0.0
    """When the reader of a hint last wanted something."""

    def goes_on(self, other: Demand) -> bool:
        """Whether the other begins within this one, or about where it ends."""
        return self.first - 1 <= other.first <= self.end + 1


@dataclass(slots=True)
class Segment:
    """Chunks that one receiver fetches."""

    first: int
    end: int
    position: int = field(init=False)
    """The next byte; moved by the receiver only."""

    def __post_init__(self) -> None:
        self.position = self.first * CHUNK_BYTES


class Order:
    """The chunks of one blob."""

    def __init__(
        self,
        size: int,
        runs: Iterable[tuple[int, int, bool]],
        urgency: Urgency,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.count = -(-size // CHUNK_BYTES)
        self._size = size
        self._urgency = urgency
        self._states = bytearray(self.count)
        for start, end, is_stored in runs:
            if is_stored:
                first, last = start // CHUNK_BYTES, -(-end // CHUNK_BYTES)
                self._states[first:last] = bytes([_STORED]) * (last - first)
        self._demands: list[Demand] = []  # by rank; then as they came, but the hint of the latest reader first

    def is_here(self, start: int, end: int) -> bool:
        """Whether these bytes are stored."""
        if end > self._size:
            return False
        first, last = _chunks(start, end)
        return self._states.count(_STORED, first, last) == last - first

    def is_stored(self, chunk: int) -> bool:
        """Whether this chunk is."""
        return self._states[chunk] == _STORED

    def missing_chunks(self) -> int:
        """How many are not stored."""
        return self.count - self._states.count(_STORED)

    def has_unclaimed(self) -> bool:
        """Whether there is something to do for one receiver more."""
        return self._states.find(_MISSING) >= 0

    def demand(self, start: int, end: int, *, is_hint: bool) -> Demand | None:
        """Somebody waits for these bytes, or will; behind the end: for all of the blob. None when they are here."""
        first, last = _chunks(start, min(end, self._size))
        rank = Rank.HINT if is_hint else Rank.WANT
        if is_hint:  # what is on its way is not worth that others stand aside
            first, last = self._states.find(_MISSING, first, last), self._states.rfind(_MISSING, first, last) + 1
        elif end > self._size:
            first, last, rank = 0, self.count, Rank.WHOLE
        if not 0 <= first < last or self._states.count(_STORED, first, last) == last - first:
            return None
        demand = Demand(first, last, rank, self._clock())
        hint = None if rank is Rank.WHOLE else self._see(demand)
        if is_hint and hint is not None:
            hint.end = max(hint.end, last)
            return hint
        self._add(demand)
        self._urgency.demands += 1
        self._urgency.wants += rank is Rank.WANT
        hints = self._hints()
        if len(hints) > _MAX_HINTS:
            self.forget(hints[-1])
        return demand

    def forget(self, demand: Demand) -> None:
        """Nobody waits any more; repeatable."""
        if demand in self._demands:
            self._demands.remove(demand)
            self._urgency.demands -= 1
            if demand.rank is Rank.WANT:
                self._urgency.wants -= 1
                self._see(demand)

    def forget_all(self) -> None:
        """The blob's transfer has ended."""
        for demand in [*self._demands]:
            self.forget(demand)

    def next_demanded(self, most_chunks: int) -> Segment | None:
        """Claim chunks that are waited for, or will be; None if there are no unclaimed ones.

        What the latest reader will want comes first; while somebody waits, nothing comes for a reader that has gone elsewhere.
        """
        self._forget_stale_hints()
        for demand in self._demands:
            chunk = self._states.find(_MISSING, demand.first, demand.end)
            if chunk >= 0:
                return self._claim(chunk, self._demanded_end(chunk, most_chunks, demand.rank))
        return None

    def demanded_chunks(self) -> int:
        """How many `next_demanded` has; those that are wanted twice count twice."""
        return sum(self._states.count(_MISSING, demand.first, demand.end) for demand in self._demands)

    def next_in_order(self, most_chunks: int) -> Segment | None:
        """Claim the first chunks that are missing."""
        chunk = self._states.find(_MISSING)
        return None if chunk < 0 else self._claim(chunk, min(self.count, chunk + most_chunks))

    def is_demanded(self, segment: Segment) -> bool:
        """Whether somebody waits for what a segment has still to bring."""
        first = segment.position // CHUNK_BYTES
        return any(demand.first < segment.end and first < demand.end for demand in self._demands)

    def stored(self, chunk: int) -> bool:
        """The chunk is here; the answer is whether it was all that a demand waited for."""
        self._states[chunk] = _STORED
        before = self._urgency.demands
        for demand in [*self._demands]:
            if demand.first <= chunk < demand.end:
                wanted = demand.end - demand.first
                if self._states.count(_STORED, demand.first, demand.end) == wanted:
                    self.forget(demand)
        return self._urgency.demands < before

    def give_back(self, segment: Segment) -> None:
        """The rest of the segment is to be fetched by another receiver."""
        for chunk in range(segment.first, segment.end):
            if self._states[chunk] == _CLAIMED:
                self._states[chunk] = _MISSING

    def _hints(self) -> list[Demand]:
        return [demand for demand in self._demands if demand.rank is Rank.HINT]

    def _add(self, demand: Demand) -> None:
        insert = bisect.insort_left if demand.rank is Rank.HINT else bisect.insort_right
        insert(self._demands, demand, key=lambda other: other.rank)

    def _see(self, demand: Demand) -> Demand | None:
        """The hint whose reader wants this, if there is one: it comes before the others now."""
        hint = next((hint for hint in self._hints() if hint.goes_on(demand)), None)
        if hint is not None:
            hint.seen = self._clock()
            self._demands.remove(hint)
            self._add(hint)
        return hint

    def _forget_stale_hints(self) -> None:
        if not self._urgency.wants:
            return
        now = self._clock()
        wants = [demand for demand in self._demands if demand.rank is Rank.WANT]
        for hint in self._hints():
            if now - hint.seen > _HINT_SECONDS and not any(hint.goes_on(want) for want in wants):
                self.forget(hint)

    def _claim(self, first: int, end: int) -> Segment:
        following = next((chunk for chunk in range(first, end) if self._states[chunk] != _MISSING), end)
        self._states[first:following] = bytes([_CLAIMED]) * (following - first)
        return Segment(first, following)

    def _demanded_end(self, chunk: int, most_chunks: int, rank: Rank) -> int:
        """Where the chunks from `chunk` on that are wanted without a gap end: neighbours are one request."""
        demands = [demand for demand in self._demands if demand.rank <= max(rank, Rank.HINT)]
        end, limit = chunk, chunk + most_chunks
        while end < limit:
            reached = max(
                (demand.end for demand in demands if demand.first <= end < demand.end),
                default=end,
            )
            if reached == end:
                break
            end = reached
        return min(end, limit)


def _chunks(start: int, end: int) -> tuple[int, int]:
    return start // CHUNK_BYTES, -(-end // CHUNK_BYTES)
