"""The blob engine: receives one blob over one to eight connections, stores it, and hashes it in order at the same time.

One receiver thread a connection; one thread that hashes, one that stores, and for tars an unpacker, which get all bytes in
order from the window. A blob starts on one connection; it grows only while a connection is slow, the readers idle, and
growing helped. The hash is the limit of a blob (the reference measurements, performance.md B to D; docs/adr/0005).
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from modelcsi.errors import CorruptContent, RegistryUnavailable, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.pull.plan import Claim, Plan
from modelcsi.pull.progress import Progress
from modelcsi.pull.streams import OpenStreams, Stopped, pause_seconds, start_thread
from modelcsi.pull.window import PIECE_BYTES, MemoryBudget, Window
from modelcsi.registry.blob import Stream

logger = logging.getLogger(__name__)

_MAX_CONNECTIONS = 8
_SLOW_BYTES_PER_SECOND = 300e6
_GROWTH_GAIN = 1.2
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Growth:
    """When more connections are considered."""

    above_bytes: int = 128 << 20
    """A remainder below this is not worth more connections (and their idle round trips)."""
    look_seconds: float = 1.0


class Origin(Protocol):
    """Where a blob can be had."""

    def open_blob(self, descriptor: Descriptor, start: int, end: int | None) -> Stream:
        """The bytes from `start` to `end` (None: all that follow)."""


class Target(Protocol):
    """Where bytes are stored as they arrive."""

    @property
    def stores(self) -> bool:
        """Whether `write` does anything: else nobody needs to call it."""

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """What is stored from an earlier attempt and what is missing: (start, end, is stored), in order."""

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The stored bytes of such a run."""

    def write(self, offset: int, data: bytes) -> None:
        """Store what arrived; in order of the offsets, by one thread."""

    def flush(self) -> None:
        """Nothing follows: store what was held back."""


_Reader = Callable[[Iterator[bytes]], None]
"""Gets every byte of a blob in order."""


@dataclass(frozen=True, slots=True)
class _Blob:
    """One blob on its way."""

    descriptor: Descriptor
    target: Target
    window: Window
    plan: Plan


class Transfer:
    """One attempt to bring one blob here; connections are resumed without end while somebody wants it."""

    growth = Growth()

    def __init__(self, origin: Origin, progress: Progress, budget: MemoryBudget, stop: threading.Event) -> None:
        self._lock = threading.Lock()
        self._told_bytes = 0  # under the lock: bytes that the progress was told of
        self._streams = OpenStreams()
        self._origin = origin
        self._progress = progress
        self._budget = budget
        self._stop = stop
        self._may_grow = True
        self._refusal: UnsupportedArtifact | None = None

    def run(self, descriptor: Descriptor, target: Target, consume: _Reader | None = None) -> None:
        """Receive what is missing, and check digest and size of the whole.

        `consume` gets every byte in order, in a thread of its own, while the blob arrives. Returns when all threads have
        ended, but for those that still wait for an answer to which nobody will listen. Raises CorruptContent on another
        digest; Stopped; whatever `consume`, the target or a final answer of the registry raised. An UnsupportedArtifact of
        `consume` counts only once the digest matched: until then the bytes may not be the artifact's.
        """
        found: list[str] = []
        readers: list[tuple[str, _Reader]] = [("hash", lambda pieces: found.append(_hash(descriptor, pieces)))]
        runs = list(target.runs())
        if target.stores:
            readers.append(("store", lambda pieces: _store(target, runs, pieces)))
        if consume is not None:
            readers.append(("unpack", lambda pieces: self._consume(consume, pieces)))
        blob = _Blob(descriptor, target, Window(descriptor.size, len(readers), self._budget), Plan(runs))
        self._budget.join()
        try:
            self._move(blob, readers)
        finally:
            self._budget.leave()
        try:
            self._judge(blob, found)
        except CorruptContent:
            self._progress.take_back(self._told_bytes)
            raise
        if self._refusal is not None:
            raise self._refusal

    def _judge(self, blob: _Blob, found: list[str]) -> None:
        descriptor = blob.descriptor
        if blob.window.error is not None:
            raise blob.window.error
        if found != [descriptor.digest.hex]:
            raise CorruptContent(
                f"{descriptor.digest} has other bytes: their digest is {descriptor.digest.algorithm}:{found[0]}",
                hint="the registry, or something on the way to it, delivers damaged content",
            )

    def _move(self, blob: _Blob, readers: list[tuple[str, _Reader]]) -> None:
        """Run all threads to their end."""
        threads = [
            start_thread(name, functools.partial(read, _pieces(blob.window, number)), blob.window.fail)
            for number, (name, read) in enumerate(readers)
        ]
        receivers = [self._start_receiver(blob)]
        self._watch(blob, threads, receivers)
        waiting = self._streams.abandon() if blob.window.error is not None else set()
        for thread in {*threads, *receivers} - waiting:
            thread.join()

    def _consume(self, consume: _Reader, pieces: Iterator[bytes]) -> None:
        try:
            consume(pieces)
        except UnsupportedArtifact as error:
            self._refusal = error
        for _ in pieces:  # the hash needs what follows the point where the consumer stopped
            pass

    def _watch(self, blob: _Blob, readers: list[threading.Thread], receivers: list[threading.Thread]) -> None:
        """Wait for the readers; stop when asked; each second consider more connections."""
        before, rate_before = blob.plan.missing_bytes(), 0.0
        looked = time.monotonic()
        while (reader := next((reader for reader in readers if reader.is_alive()), None)) is not None:
            reader.join(_LOOK_SECONDS)
            if self._stop.is_set():
                blob.window.fail(Stopped())
            now = time.monotonic()
            if now - looked < self.growth.look_seconds:
                continue
            missing = blob.plan.missing_bytes()
            rate, before, looked = (before - missing) / (now - looked), missing, now
            is_big = missing >= self.growth.above_bytes
            if not is_big or not self._is_growth_useful(rate, rate_before, len(receivers), blob.window):
                continue
            rate_before = rate
            blob.plan.spread()
            more = min(len(receivers), _MAX_CONNECTIONS - len(receivers))
            receivers.extend(self._start_receiver(blob) for _ in range(more))
            logger.debug("%.0f MB/s: %d connections from now on", rate / 1e6, len(receivers))

    def _is_growth_useful(self, rate: float, rate_before: float, connections: int, window: Window) -> bool:
        return (
            self._may_grow
            and connections < _MAX_CONNECTIONS
            and rate / connections < _SLOW_BYTES_PER_SECOND
            and rate > rate_before * _GROWTH_GAIN
            and not window.is_full()
        )

    def _start_receiver(self, blob: _Blob) -> threading.Thread:
        return start_thread("receive", lambda: self._receive(blob), blob.window.fail)

    def _receive(self, blob: _Blob) -> None:
        while (claim := blob.plan.next_claim()) is not None:
            if claim.is_stored:
                for piece in blob.target.read(claim.position, claim.end):
                    blob.window.put(claim.position, piece)
                    claim.position += len(piece)
                    self._tell(len(piece), is_downloaded=False)
                if not claim.is_done():  # else the readers would wait for bytes that nobody brings
                    raise CorruptContent(f"the stored part of {blob.descriptor.digest} is shorter than it was")
            else:
                self._fetch(blob, claim)

    def _fetch(self, blob: _Blob, claim: Claim) -> None:
        failures = 0
        while not claim.is_done():
            position = claim.position
            try:
                self._fetch_once(blob, claim)
            except RegistryUnavailable as error:
                failures = 1 if claim.position > position else failures + 1
                self._progress.failed(error)
                logger.debug("%s at byte %d: %s", blob.descriptor.digest, claim.position, error)
                self._pause(error, failures, blob.window)

    def _fetch_once(self, blob: _Blob, claim: Claim) -> None:
        end = None if claim.end == blob.descriptor.size else claim.end
        with self._streams.opened(lambda: self._origin.open_blob(blob.descriptor, claim.position, end)) as stream:
            self._may_grow = self._may_grow and stream.honours_ranges
            while size := claim.advance(PIECE_BYTES):
                piece = stream.read(size)
                if not piece:
                    raise RegistryUnavailable(f"the registry ended {blob.descriptor.digest} at byte {claim.position}")
                blob.window.put(claim.position, piece)
                claim.position += len(piece)
                self._tell(len(piece))

    def _tell(self, size: int, *, is_downloaded: bool = True) -> None:
        self._progress.add(size, is_downloaded=is_downloaded)
        with self._lock:
            self._told_bytes += size

    def _pause(self, error: RegistryUnavailable, failures: int, window: Window) -> None:
        """Wait before the next attempt."""
        ends = time.monotonic() + pause_seconds(error, failures)
        while window.error is None and (left := ends - time.monotonic()) > 0:
            if self._stop.wait(min(left, 0.5)):
                raise Stopped
        if window.error is not None:
            raise window.error


def _pieces(window: Window, reader: int) -> Iterator[bytes]:
    """Not a generator: a consumer that stops early would close it, and what follows must still be taken."""
    return iter(functools.partial(window.read, reader), b"")


def _store(target: Target, runs: list[tuple[int, int, bool]], pieces: Iterator[bytes]) -> None:
    """Write what is new. What was stored before comes by as well; no piece crosses the end of a run."""
    stored = iter([(start, end) for start, end, is_stored in runs if is_stored])
    start, end = next(stored, (0, 0))
    offset = 0
    for piece in pieces:
        while offset >= end and (following := next(stored, None)):
            start, end = following
        if not start <= offset < end:
            target.write(offset, piece)
        offset += len(piece)
    target.flush()


def _hash(descriptor: Descriptor, pieces: Iterator[bytes]) -> str:
    hasher = descriptor.digest.hasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()
