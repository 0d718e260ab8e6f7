"""How the mirrors of this process fare: which are left alone for a while, and for which blobs.

A mirror is a help and never needed, so it gets less time than a registry, and one that failed is not asked again at once:
a dead one must not cost every request its timeout. In memory only; threads share it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from modelcsi.errors import ModelCsiError, RegistryUnavailable
from modelcsi.oci.digest import Digest
from modelcsi.registry.answers import REFUSALS
from modelcsi.registry.blob import BlobStream, Stream
from modelcsi.registry.transport import Timeouts

logger = logging.getLogger(__name__)

_MAX_BLAMED = 1000
_MAX_KNOWN = 256
_BLAME_SECONDS = 3600.0

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class MirrorRules:
    """What is expected of a mirror. All of it is guessed: mirrors are near, and moving on costs one request."""

    timeouts: Timeouts = Timeouts(connect_seconds=3.0, stall_seconds=10.0)
    answer_seconds: float = 15.0
    """For a whole answer but a blob's body: a token service and redirects included."""
    slow_seconds: float = 10.0
    """Waiting for a mirror this long must have brought ..."""
    least_bytes_per_second: int = 256 << 10
    """... so much on average; a registry further away does better."""
    pause_seconds: float = 15.0
    """How long it is left alone after a failure; doubles with each one that follows ..."""
    longest_pause_seconds: float = 300.0
    """... to this."""
    worth_bytes: int = 8 << 20
    """A stream that broke after so much is asked for again at once: the connection failed, not the mirror."""


@dataclass(slots=True)
class _Trouble:
    failures: int = 0
    until: float = 0.0
    failed_at: float = 0.0


class MirrorHealth:
    """By URL of the mirror."""

    def __init__(self, rules: MirrorRules | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.rules = rules or MirrorRules()
        self.clock = clock
        self._lock = threading.Lock()
        # Under the lock: mirrors that failed; and when a mirror had a part in a blob that did not match its digest.
        self._troubles: dict[str, _Trouble] = {}
        self._blamed: OrderedDict[tuple[str, Digest], float] = OrderedDict()

    def ask(self, url: str, host: str, operation: Callable[[], _Result]) -> _Result:
        """The operation's result, unless the mirror is left alone.

        Raises RegistryUnavailable when it is, and what the operation raises, which counts unless it is a refusal.
        """
        with self._lock:
            trouble = self._troubles.get(url)
            wait_seconds = trouble.until - self.clock() if trouble else 0.0
        if wait_seconds > 0:
            raise RegistryUnavailable(f"the mirror {host} failed, and is left alone for {wait_seconds:.0f} s")
        try:
            return operation()
        except REFUSALS:
            raise
        except ModelCsiError as error:
            self.failed(url, host, error)
            raise

    def failed(self, url: str, host: str, error: ModelCsiError) -> None:
        """Leave it alone for a while; the longer the more often it failed in a row."""
        now, rules = self.clock(), self.rules
        with self._lock:
            if len(self._troubles) >= _MAX_KNOWN:
                self._troubles = {key: value for key, value in self._troubles.items() if value.until > now}
            trouble = self._troubles.setdefault(url, _Trouble())
            if trouble.until > now:
                return  # another thread met the same failure
            if now - trouble.failed_at > 2 * rules.longest_pause_seconds:
                trouble.failures = 0
            pause = min(rules.pause_seconds * 2.0 ** min(trouble.failures, 30), rules.longest_pause_seconds)
            trouble.failures += 1
            trouble.failed_at, trouble.until = now, now + pause
        logger.warning("the mirror %s is left alone for %.0f s: %s", host, pause, error.message)

    def served(self, url: str) -> None:
        """It delivered what was asked for."""
        with self._lock:
            self._troubles.pop(url, None)

    def blame(self, url: str, host: str, digest: Digest) -> None:
        """It had a part in a blob that did not match: it is not asked for that blob again for an hour, nor for any for a while."""
        with self._lock:
            self._blamed[url, digest] = self.clock() + _BLAME_SECONDS
            if len(self._blamed) > _MAX_BLAMED:
                self._blamed.popitem(last=False)
        self.failed(url, host, RegistryUnavailable(f"{digest} had other bytes, and this mirror had a part in them"))

    def is_blamed(self, url: str, digest: Digest) -> bool:
        """Whether the mirror had a part in wrong bytes of this blob lately."""
        with self._lock:
            return self._blamed.get((url, digest), 0.0) > self.clock()


class MirrorStream(Stream):
    """A blob's bytes from a mirror; a failure, and being slow, counts against it."""

    def __init__(self, stream: BlobStream, health: MirrorHealth, url: str, host: str) -> None:
        self.honours_ranges = stream.honours_ranges
        self._stream = stream
        self._health = health
        self._mirror = (url, host)
        self._received = 0
        self._received_lately = 0
        self._waited_lately = 0.0
        self._is_closed = False
        self._failure: RegistryUnavailable | None = None

    def __repr__(self) -> str:
        return f"<MirrorStream {self._mirror[1]} {self._stream!r}>"

    def read(self, size: int) -> bytes:
        """As `Stream.read`; raises RegistryUnavailable of a mirror that is too slow as well."""
        if self._failure is not None:
            self._health.failed(*self._mirror, self._failure)
            raise self._failure
        began = self._health.clock()
        try:
            piece = self._stream.read(size)
        except ModelCsiError as error:
            if not self._is_closed and self._received < self._health.rules.worth_bytes:
                self._health.failed(*self._mirror, error)
            raise
        self._account(len(piece), self._health.clock() - began)
        if not piece:
            self._health.served(self._mirror[0])
        return piece

    def close(self) -> None:
        """As `Stream.close`; what a read raises afterwards is not the mirror's fault."""
        self._is_closed = True
        self._stream.close()

    def _account(self, size: int, seconds: float) -> None:
        """Only the time spent waiting for the mirror counts: who reads may be slow himself."""
        rules = self._health.rules
        self._received += size
        self._received_lately += size
        self._waited_lately += seconds
        if self._waited_lately < rules.slow_seconds:
            return
        rate = self._received_lately / self._waited_lately
        self._received_lately, self._waited_lately = 0, 0.0
        if rate < rules.least_bytes_per_second:
            self._failure = RegistryUnavailable(f"the mirror {self._mirror[1]} is slow: {rate / 1000:.0f} kB/s")
