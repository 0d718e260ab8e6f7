"""Brings a blob that is read while it arrives: like `Transfer`, but what somebody waits for comes first.

Bytes are stored where they belong as they come, and hashed in order from there: the hash, and the unpacker of a tar, follow
at a distance. Receivers of the fill bring the blob from its start in bounded requests, and stand aside, reading nothing from
their connections, while somebody waits for bytes of this job that they do not bring. Then up to four others ask for those.
No byte is asked for twice.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from modelcsi.errors import CorruptContent, RegistryUnavailable, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.pull.order import Demand, Order, Segment, Urgency
from modelcsi.pull.pace import Pace, Stopwatch
from modelcsi.pull.progress import Progress
from modelcsi.pull.streams import MAX_PAUSE_SECONDS, OpenStreams, Stopped, pause_seconds, start_thread
from modelcsi.pull.transfer import Growth, Origin
from modelcsi.store.chunks import CHUNK_BYTES

_MAX_URGENT = 4
_IDLE_SECONDS = 1.0
"""How long a receiver of what is waited for stays when nobody waits: its reader may only have paused."""
_LOOK_SECONDS = 0.1
_AHEAD_OF_HASH_CHUNKS = 64
_MAX_FILL = 8
"""Of a job: more connections are not opened for the fill, since what they bring is in the way of what somebody waits for."""
_WAITED_PAUSE_SECONDS = 1.0
"""The longest pause between attempts while somebody waits, unless the registry asks for more."""


class FillTarget(Protocol):
    """Where bytes are stored in any order, by any thread."""

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """What is stored from an earlier attempt and what is missing: (start, end, is stored), in order, in whole chunks."""

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Stored bytes."""

    def put(self, offset: int, data: bytes) -> None:
        """Store bytes that arrived."""

    def mark(self, chunk: int) -> None:
        """All bytes of the chunk are stored."""


@dataclass(frozen=True, slots=True)
class Filler:
    """What the transfers of one job share."""

    origin: Origin
    progress: Progress
    urgency: Urgency
    stop: threading.Event


class FillTransfer:
    """One attempt to bring one blob here; is the `Feed` of its layer."""

    growth = Growth()

    def __init__(self, filler: Filler, descriptor: Descriptor, target: FillTarget, arrived: Callable[[], None]) -> None:
        """`arrived` is called, without a lock held, each time a chunk is here."""
        self._filler = filler
        self._descriptor = descriptor
        self._target = target
        self._arrived = arrived
        self._streams = OpenStreams()
        self._lock, self._changed = filler.urgency.lock, filler.urgency.changed
        self._came = threading.Condition(self._lock)  # a chunk, or an error
        runs = list(target.runs())
        # Under the lock of the job's urgency:
        self._order = Order(descriptor.size, runs, filler.urgency)
        self._error: BaseException | None = None
        self._is_over = False
        self._receivers: list[threading.Thread] = []
        self._fill_receivers = self._urgent_receivers = self._idle_receivers = 0
        self._pace = Pace(self._order.missing_chunks())
        self._lone: threading.Thread | None = None  # the only receiver, of a server that ignores Range
        self._is_whole = False  # it does
        self._told_bytes = 0
        self._hashed_chunks = 0
        self._refusal: UnsupportedArtifact | None = None
        self.stored_before = sum(end - start for start, end, is_stored in runs if is_stored)
        """Bytes that were there before."""

    # What a `Feed` does.

    def is_here(self, start: int, end: int) -> bool:
        """See `Feed`."""
        with self._lock:
            return self._order.is_here(start, end)

    def demand(self, start: int, end: int) -> Callable[[], None]:
        """See `Feed`."""
        demand = self._demanded(start, end, is_hint=False)
        return functools.partial(self._take_back, demand) if demand is not None else lambda: None

    def hint(self, start: int, end: int) -> None:
        """See `Feed`."""
        self._demanded(start, end, is_hint=True)

    def run(self, consume: Callable[[Iterator[bytes]], None] | None = None) -> None:
        """Receive what is missing, and check the digest of the whole. As `Transfer.run`, which tells what is raised."""
        found: list[str] = []
        self._tell(self.stored_before, is_downloaded=False)
        readers = [self._start("hash", lambda: found.append(self._hash()))]
        if consume is not None:
            readers.append(self._start("unpack", lambda: self._consume(consume)))
        self._grow(1)  # a second one as soon as it is known that the server serves parts
        try:
            self._watch(readers)
        except BaseException as bug:
            self._fail(bug)
            raise
        finally:
            self._end(readers)
        if self._error is None and found == [self._descriptor.digest.hex]:
            if self._refusal is not None:
                raise self._refusal
            return
        error = self._error or CorruptContent(
            f"{self._descriptor.digest} has other bytes: their digest is {self._descriptor.digest.algorithm}:{found[0]}",
            hint="the registry, or something on the way to it, delivers damaged content",
        )
        if isinstance(error, CorruptContent):
            self._filler.progress.take_back(self._told_bytes)
        raise error

    def _demanded(self, start: int, end: int, *, is_hint: bool) -> Demand | None:
        with self._lock:
            if self._is_over or self._is_whole:
                return None
            demand = self._order.demand(start, end, is_hint=is_hint)
            if demand is None:
                return None
            requests = -(-self._order.demanded_chunks() // self._pace.urgent_chunks())
            more = min(requests - self._idle_receivers, _MAX_URGENT - self._urgent_receivers)
            for _ in range(more):
                self._urgent_receivers += 1
                self._receivers.append(self._start("receive", self._receive_demanded))
            self._changed.notify_all()
            return demand

    def _take_back(self, demand: Demand) -> None:
        with self._lock:
            self._order.forget(demand)
            self._changed.notify_all()

    # Those who get all bytes in order.

    def _hash(self) -> str:
        hasher = self._descriptor.digest.hasher()
        for piece in self._pieces():
            hasher.update(piece)
            self._hashed_chunks += 1  # about: the last one may be short
        return hasher.hexdigest()

    def _consume(self, consume: Callable[[Iterator[bytes]], None]) -> None:
        try:
            consume(self._pieces())
        except UnsupportedArtifact as error:  # counts only once the digest matched
            self._refusal = error

    def _pieces(self) -> Iterator[bytes]:
        for chunk in range(self._order.count):
            with self._lock:
                while self._error is None and not self._order.is_stored(chunk):
                    self._came.wait()
                if self._error is not None:
                    raise self._error
            start = chunk * CHUNK_BYTES
            yield from self._target.read(start, min(start + CHUNK_BYTES, self._descriptor.size))

    # Threads.

    def _start(self, name: str, work: Callable[[], object]) -> threading.Thread:
        return start_thread(name, work, self._fail)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            self._changed.notify_all()
            self._came.notify_all()

    def _grow(self, receivers: int) -> None:
        with self._lock:
            while self._fill_receivers < receivers:
                self._fill_receivers += 1
                self._filler.urgency.fill_receivers += 1
                self._receivers.append(self._start("receive", self._receive_in_order))

    def _watch(self, readers: list[threading.Thread]) -> None:
        """Wait for the readers; stop when asked; each second consider more connections."""
        while (reader := next((reader for reader in readers if reader.is_alive()), None)) is not None:
            reader.join(_LOOK_SECONDS)
            if self._filler.stop.is_set():
                self._fail(Stopped())
            with self._lock:
                missing = self._order.missing_chunks()
                is_ahead = self._order.count - missing > self._hashed_chunks + _AHEAD_OF_HASH_CHUNKS
                urgency = self._filler.urgency
                is_most = urgency.fill_receivers + self._fill_receivers > _MAX_FILL  # they would be twice as many
                is_bound = is_ahead or is_most or self._is_whole or bool(urgency.demands)
                count = self._pace.connections(missing, self._fill_receivers, self.growth, is_bound=is_bound)
            self._grow(count)

    def _end(self, readers: list[threading.Thread]) -> None:
        with self._lock:
            self._is_over = True
            self._filler.urgency.fill_receivers -= self._fill_receivers
            self._order.forget_all()
            self._changed.notify_all()
            receivers = list(self._receivers)
        waiting = self._streams.abandon() if self._error is not None else set()
        for thread in {*readers, *receivers} - waiting:
            thread.join()

    # Receivers.

    def _receive_in_order(self) -> None:
        while (segment := self._next_in_order()) is not None:
            self._fetch(segment, is_urgent=False)

    def _next_in_order(self) -> Segment | None:
        me, urgency = threading.current_thread(), self._filler.urgency
        with self._lock:
            while not self._must_end():
                if self._is_whole:
                    self._lone = self._lone or me
                    return self._order.next_in_order(self._order.count) if self._lone is me else None
                if not urgency.demands or not self._order.has_unclaimed():
                    return self._order.next_in_order(self._pace.fill_chunks())
                self._changed.wait()
        return None

    def _receive_demanded(self) -> None:
        try:
            while (segment := self._next_demanded()) is not None:
                self._fetch(segment, is_urgent=True)
        finally:
            with self._lock:
                self._urgent_receivers -= 1

    def _next_demanded(self) -> Segment | None:
        ends = time.monotonic() + _IDLE_SECONDS
        with self._lock:
            while not self._must_end() and not self._is_whole:
                segment = self._order.next_demanded(self._pace.urgent_chunks())
                left = ends - time.monotonic()
                if segment is not None or left <= 0:
                    return segment
                self._idle_receivers += 1
                self._changed.wait(left)
                self._idle_receivers -= 1
        return None

    def _must_end(self) -> bool:
        return self._is_over or self._error is not None

    def _fetch(self, segment: Segment, *, is_urgent: bool) -> None:
        """Bring a segment, however often the connection breaks; or give it back to the one receiver that there is to be."""
        failures, end = 0, min(segment.end * CHUNK_BYTES, self._descriptor.size)
        while segment.position < end:
            position = segment.position
            try:
                if not self._fetch_once(segment, end, is_urgent=is_urgent):
                    return
            except RegistryUnavailable as error:
                failures = 1 if segment.position > position else failures + 1
                self._filler.progress.failed(error)
                self._pause(error, failures, segment)

    def _fetch_once(self, segment: Segment, end: int, *, is_urgent: bool) -> bool:
        """False where the server ignores Range, and what was asked for is better fetched by who begins at the start."""
        size, spent = self._descriptor.size, Stopwatch()
        self._stand_aside(segment, is_urgent=is_urgent)
        began = segment.position
        with self._streams.opened(
            lambda: self._filler.origin.open_blob(self._descriptor, segment.position, None if end == size else end)
        ) as stream:
            if not stream.honours_ranges and not self._is_lone():
                self._go_alone(segment)
                return False
            if not self._is_whole:
                self._grow(2)
            while segment.position < end:
                with spent.stopped():
                    self._stand_aside(segment, is_urgent=is_urgent)
                chunk_end = min(end, (segment.position // CHUNK_BYTES + 1) * CHUNK_BYTES)
                piece = stream.read(chunk_end - segment.position)
                if not piece:
                    raise RegistryUnavailable(
                        f"the registry ended {self._descriptor.digest} at byte {segment.position}"
                    )
                self._target.put(segment.position, piece)
                segment.position += len(piece)
                self._tell(len(piece))
                if segment.position == chunk_end:
                    self._store((chunk_end - 1) // CHUNK_BYTES)
        with self._lock:
            self._pace.measured(segment.position - began, spent.seconds())
        return True

    def _store(self, chunk: int) -> None:
        self._target.mark(chunk)
        with self._lock:
            if self._order.stored(chunk):
                self._changed.notify_all()
            self._came.notify_all()
        self._arrived()

    def _stand_aside(self, segment: Segment, *, is_urgent: bool) -> None:
        """Wait while somebody waits for other bytes of this job."""
        urgency = self._filler.urgency
        if is_urgent or not urgency.demands:  # a glance without the lock: it is looked at again for the next piece
            return
        with self._lock:
            while urgency.demands and not self._must_end() and not self._is_whole:
                if self._order.is_demanded(segment):
                    return
                self._changed.wait()

    def _is_lone(self) -> bool:
        return self._lone is threading.current_thread()

    def _go_alone(self, segment: Segment) -> None:
        """From now on one receiver brings all, from the start: the server ignores Range."""
        with self._lock:
            self._is_whole = True
            self._order.give_back(segment)
            self._order.forget_all()
            self._changed.notify_all()
            self._receivers.append(self._start("receive", self._receive_in_order))  # the others may have ended

    def _pause(self, error: RegistryUnavailable, failures: int, segment: Segment) -> None:
        """Wait before the next attempt; not long while somebody waits for it."""
        began = time.monotonic()
        while True:
            with self._lock:
                is_wanted = self._order.is_demanded(segment)
                if self._error is not None:
                    raise self._error
            pause = pause_seconds(error, failures, _WAITED_PAUSE_SECONDS if is_wanted else MAX_PAUSE_SECONDS)
            left = began + pause - time.monotonic()
            if left <= 0:
                return
            if self._filler.stop.wait(min(left, 0.25)):
                raise Stopped

    def _tell(self, size: int, *, is_downloaded: bool = True) -> None:
        self._filler.progress.add(size, is_downloaded=is_downloaded)
        with self._lock:
            self._told_bytes += size
