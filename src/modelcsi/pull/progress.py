"""How far a pull is, and how fast: what a person who waits is told."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from modelcsi.artifact.layer import Layer
from modelcsi.errors import TransientError
from modelcsi.oci.digest import Digest
from modelcsi.quantities import format_amounts, format_seconds, format_size

_WINDOW_SECONDS = 10.0
_SAMPLE_SECONDS = 0.25
_WORTH_BYTES = 64 << 10
"""Less than that in five seconds is nothing: a registry that drips must not pass for one that serves (`pull/queue.py`)."""


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """One moment of a pull: bytes that are here, bytes in all, bytes a second over the last ten seconds."""

    done_bytes: int
    total_bytes: int
    rate: float
    trouble: TransientError | None
    """Why nothing arrives at the moment; None while bytes flow."""

    @property
    def percent(self) -> int:
        """0 to 100, rounded down: 100 means all."""
        return 100 if not self.total_bytes else min(100, self.done_bytes * 100 // self.total_bytes)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the end at the present rate; None when nothing arrives."""
        return (self.total_bytes - self.done_bytes) / self.rate if self.rate > 0 else None

    def __str__(self) -> str:
        eta = "unknown" if self.eta_seconds is None else format_seconds(self.eta_seconds)
        amounts = f"{self.percent}% ({format_amounts(self.done_bytes, self.total_bytes)}"
        return f"{amounts}, {format_size(self.rate)}/s, ETA {eta})"


@dataclass(frozen=True, slots=True)
class LayerMoment:
    """One layer of a pull: when work on it began and ended, in Unix seconds."""

    digest: str
    path: str
    """Of the file that it is; empty for a tar of several."""
    size_bytes: int
    began_at: float
    ended_at: float | None = None
    """None while it is not complete."""


class LayerLog:
    """Which layers were begun, in that order; any thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        """How many there are, begun or not."""
        self._lock = threading.Lock()
        self._moments: dict[Digest, LayerMoment] = {}  # under the lock

    def begin(self, layer: Layer) -> None:
        """Work on the layer begins."""
        path = layer.path or layer.sole_member_path or ""
        with self._lock:
            self._moments[layer.digest] = LayerMoment(str(layer.digest), path, layer.size, time.time())

    def end(self, layer: Layer) -> None:
        """The layer is complete."""
        with self._lock:
            self._moments[layer.digest] = replace(self._moments[layer.digest], ended_at=time.time())

    def moments(self) -> tuple[LayerMoment, ...]:
        """Of the layers that were begun."""
        with self._lock:
            return tuple(self._moments.values())


class Progress:
    """The counters of one pull; any thread may add."""

    def __init__(self, total_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        # Under the lock:
        self._total = total_bytes
        self._done = 0
        self._downloaded = 0
        self._trouble: TransientError | None = None
        self._moved_at = clock()
        self._unnoticed = 0
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])

    def add(self, size: int, *, is_downloaded: bool = True) -> None:
        """So many bytes more are here; `is_downloaded` is False for those that were found on the disk."""
        now = self._clock()
        with self._lock:
            self._done += size
            self._unnoticed += size
            if self._unnoticed >= _WORTH_BYTES:
                self._moved_at, self._unnoticed = now, 0
            if not is_downloaded:
                return
            self._downloaded += size
            self._trouble = None
            self._sample(now)

    def looked_at(self, size: int) -> None:
        """So many bytes came over the network and are no part of what is to be here: or they count when they are stored."""
        now = self._clock()
        with self._lock:
            self._downloaded += size
            self._trouble = None
            self._moved_at = now
            self._sample(now)

    def take_back(self, size: int) -> None:
        """So many bytes were worthless (a digest did not match) and will come again."""
        with self._lock:
            self._done -= size

    def begin_again(self) -> None:
        """What is on the disk will be counted again."""
        with self._lock:
            self._done = 0

    def failed(self, error: TransientError) -> None:
        """An attempt failed and will be made again."""
        with self._lock:
            self._trouble = error

    def idle_seconds(self) -> float:
        """How long ago the last 64 KiB came, from the network or the disk."""
        with self._lock:
            return self._clock() - self._moved_at

    @property
    def downloaded_bytes(self) -> int:
        """All bytes that came over the network, those that came twice included."""
        with self._lock:
            return self._downloaded

    @property
    def remaining_bytes(self) -> int:
        """Bytes that are still to come."""
        with self._lock:
            return self._total - self._done

    def report(self) -> ProgressReport:
        """The present moment."""
        now = self._clock()
        with self._lock:
            self._sample(now)
            began, before = self._samples[0]
            elapsed = max(now - began, 1e-3)
            return ProgressReport(self._done, self._total, (self._downloaded - before) / elapsed, self._trouble)

    def _sample(self, now: float) -> None:
        """Remember the present moment, and forget what the rate of the last ten seconds does not need."""
        if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, self._downloaded))
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW_SECONDS:
            self._samples.popleft()
