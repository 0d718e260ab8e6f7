"""The blob engine: receives one blob over one to eight connections, stores it, and hashes it in order at the same time.

One receiver thread a connection (recv, pwrite), one hash thread a blob, and for tars an unpacker beside it. A blob starts
on one connection; it grows only while a connection is slow, the readers idle, and growing helped. Every figure behind this
is in the reference measurements (performance.md, B to D); the hash is the limit, 1.79 GB/s a blob.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from modelcsi.errors import CorruptContent, RegistryUnavailable, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.pull.plan import Claim, Plan
from modelcsi.pull.progress import Progress
from modelcsi.pull.window import PIECE_BYTES, MemoryBudget, Window

logger = logging.getLogger(__name__)

_STEP_AFTER_CUT_BYTES = 256 << 10
"""Read in smaller steps once a connection broke: what a broken read had collected is lost."""
_MAX_PAUSE_SECONDS = 30.0
_MAX_CONNECTIONS = 8
_GROW_ABOVE_BYTES = 128 << 20
"""A remainder below this is not worth more connections (and their idle round trips)."""
_SLOW_BYTES_PER_SECOND = 300e6
_GROWTH_GAIN = 1.2


class Stream(Protocol):
    """An open answer of a registry."""

    @property
    def honours_ranges(self) -> bool:
        """Whether the server can serve parts."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end of the range that was asked for."""


class Origin(Protocol):
    """Where a blob can be had."""

    def open_blob(self, descriptor: Descriptor, start: int, end: int | None) -> AbstractContextManager[Stream]:
        """The bytes from `start` to `end` (None: all that follow)."""


class Target(Protocol):
    """Where bytes are stored as they arrive."""

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """What is stored from an earlier attempt and what is missing: (start, end, is stored), in order."""

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The stored bytes of such a run."""

    def write(self, offset: int, data: bytes) -> None:
        """Store what arrived."""


class Stopped(Exception):
    """Nobody wants the transfer any more."""


class Transfer:
    """One attempt to bring one blob here; connections are resumed without end while somebody wants it."""

    def __init__(self, origin: Origin, progress: Progress, budget: MemoryBudget, stop: threading.Event) -> None:
        self._origin = origin
        self._progress = progress
        self._budget = budget
        self._stop = stop
        self._may_grow = True
        self._refusal: UnsupportedArtifact | None = None

    def run(
        self, descriptor: Descriptor, target: Target, consume: Callable[[Iterator[bytes]], None] | None = None
    ) -> None:
        """Receive what is missing, and check digest and size of the whole.

        `consume` gets every byte in order, in a thread of its own, while the blob arrives. Returns when all threads have
        ended. Raises CorruptContent on another digest; Stopped; whatever `consume`, the target or a final answer of the
        registry raised. An UnsupportedArtifact of `consume` counts only once the digest matched: until then the bytes may
        not be the artifact's.
        """
        window = Window(descriptor.size, 1 if consume is None else 2, self._budget)
        plan = Plan(target.runs())
        found: list[str] = []
        threads = [_start("hash", window, lambda: found.append(_hash(descriptor, _pieces(window, 0))))]
        if consume is not None:
            threads.append(_start("unpack", window, lambda: self._consume(consume, _pieces(window, 1))))
        self._budget.join()
        try:
            receivers = [self._start_receiver(descriptor, target, window, plan)]
            self._watch(
                threads, receivers, window, lambda: self._start_receiver(descriptor, target, window, plan), plan
            )
            for thread in [*threads, *receivers]:
                thread.join()
        finally:
            self._budget.leave()
        if window.error is not None:
            raise window.error
        if found != [descriptor.digest.hex]:
            raise CorruptContent(
                f"{descriptor.digest} has other bytes: their digest is {descriptor.digest.algorithm}:{found[0]}",
                hint="the registry, or something on the way to it, delivers damaged content",
            )
        if self._refusal is not None:
            raise self._refusal

    def _consume(self, consume: Callable[[Iterator[bytes]], None], pieces: Iterator[bytes]) -> None:
        try:
            consume(pieces)
        except UnsupportedArtifact as error:
            self._refusal = error
        for _ in pieces:  # the hash needs what follows the point where the consumer stopped
            pass

    def _watch(
        self,
        readers: list[threading.Thread],
        receivers: list[threading.Thread],
        window: Window,
        start: Callable[[], threading.Thread],
        plan: Plan,
    ) -> None:
        """Wait for the readers; stop when asked; each second consider more connections."""
        before, rate_before = plan.missing_bytes(), 0.0
        looked = time.monotonic()
        while readers[0].is_alive():
            readers[0].join(0.1)
            if self._stop.is_set():
                window.fail(Stopped())
            now = time.monotonic()
            if now - looked < 1.0:
                continue
            missing = plan.missing_bytes()
            rate, before, looked = (before - missing) / (now - looked), missing, now
            if missing < _GROW_ABOVE_BYTES or not self._is_growth_useful(rate, rate_before, len(receivers), window):
                continue
            rate_before = rate
            plan.spread()
            receivers.extend(start() for _ in range(min(len(receivers), _MAX_CONNECTIONS - len(receivers))))
            logger.debug("%.0f MB/s: %d connections from now on", rate / 1e6, len(receivers))

    def _is_growth_useful(self, rate: float, rate_before: float, connections: int, window: Window) -> bool:
        return (
            self._may_grow
            and connections < _MAX_CONNECTIONS
            and rate / connections < _SLOW_BYTES_PER_SECOND
            and rate > rate_before * _GROWTH_GAIN
            and not window.is_full()
        )

    def _start_receiver(self, descriptor: Descriptor, target: Target, window: Window, plan: Plan) -> threading.Thread:
        return _start("receive", window, lambda: self._receive(descriptor, target, window, plan))

    def _receive(self, descriptor: Descriptor, target: Target, window: Window, plan: Plan) -> None:
        while (claim := plan.next_claim()) is not None:
            if claim.is_stored:
                for piece in target.read(claim.position, claim.end):
                    window.put(claim.position, piece)
                    claim.position += len(piece)
                    self._progress.add(len(piece), is_downloaded=False)
            else:
                self._fetch(descriptor, target, window, claim)

    def _fetch(self, descriptor: Descriptor, target: Target, window: Window, claim: Claim) -> None:
        failures, step = 0, PIECE_BYTES
        while not claim.is_done():
            position = claim.position
            try:
                self._fetch_once(descriptor, target, window, claim, step)
            except RegistryUnavailable as error:
                failures = 1 if claim.position > position else failures + 1
                step = _STEP_AFTER_CUT_BYTES
                self._progress.failed(error)
                logger.debug("%s at byte %d: %s", descriptor.digest, claim.position, error)
                self._pause(error, failures, window)

    def _fetch_once(self, descriptor: Descriptor, target: Target, window: Window, claim: Claim, step: int) -> None:
        end = None if claim.end == descriptor.size else claim.end
        with self._origin.open_blob(descriptor, claim.position, end) as stream:
            self._may_grow = self._may_grow and stream.honours_ranges
            while size := claim.advance(step):
                piece = stream.read(size)
                if not piece:
                    raise RegistryUnavailable(f"the registry ended {descriptor.digest} at byte {claim.position}")
                target.write(claim.position, piece)
                window.put(claim.position, piece)
                claim.position += len(piece)
                self._progress.add(len(piece))

    def _pause(self, error: RegistryUnavailable, failures: int, window: Window) -> None:
        """Wait before the next attempt: at once after progress, then doubling, or as long as the registry asked for."""
        pause = min(0.05 * 4 ** (failures - 1), _MAX_PAUSE_SECONDS)
        if error.retry_after_seconds is not None:
            pause = max(pause, error.retry_after_seconds)
        ends = time.monotonic() + pause
        while window.error is None and (left := ends - time.monotonic()) > 0:
            if self._stop.wait(min(left, 0.5)):
                raise Stopped
        if window.error is not None:
            raise window.error


def _start(name: str, window: Window, work: Callable[[], object]) -> threading.Thread:
    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a thread's main: the error is raised again by `run`
            window.fail(error)

    thread = threading.Thread(target=guarded, name=f"pull-{name}", daemon=True)
    thread.start()
    return thread


def _pieces(window: Window, reader: int) -> Iterator[bytes]:
    while piece := window.read(reader):
        yield piece


def _hash(descriptor: Descriptor, pieces: Iterator[bytes]) -> str:
    hasher = descriptor.digest.hasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()
