"""Which jobs move bytes now: a bounded number, the one with the smallest remainder next.

So a pull of 700 GB does not starve a small one. Jobs below 256 MiB have extra turns of their own, since big jobs may hold
the others for hours.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelcsi.pull.claims import Claims
from modelcsi.pull.transfer import Stopped

_SMALL_BYTES = 256 << 20
_LOOK_SECONDS = 0.5
_IDLE_SECONDS = 5.0
_IDLE_FACTOR = 6
"""Idle jobs hold threads and connections, so they are bounded too."""


@dataclass(frozen=True, slots=True)
class _Holder:
    is_small: bool
    idle_seconds: Callable[[], float]
    since: float

    def is_moving(self) -> bool:
        return min(self.idle_seconds(), time.monotonic() - self.since) < _IDLE_SECONDS


class JobQueue:
    """The turns of one process: `turns` for big jobs, and as many for small ones.

    `layers_at_once` is asked when a job begins, since the configuration may change.
    """

    def __init__(self, turns: int, layers_at_once: Callable[[], int]) -> None:
        self.layers_at_once = layers_at_once
        self._turns = turns
        self.views = Claims()
        """Which views are being built."""
        self._changed = threading.Condition()
        # Under the condition's lock: who has a turn, with its size class and what tells how long it got nothing; who waits,
        # with what remainder.
        self._holders: dict[object, _Holder] = {}
        self._waiting: dict[object, Callable[[], int]] = {}

    @contextlib.contextmanager
    def turn(
        self, remaining: Callable[[], int], stop: threading.Event, idle_seconds: Callable[[], float] = lambda: 0.0
    ) -> Iterator[None]:
        """Wait for a turn and hold it; who gets nothing for a while (`idle_seconds`) does not count, so that a dead registry
        keeps nobody waiting. Raises Stopped when `stop` is set meanwhile.
        """
        me = object()
        is_small = remaining() <= _SMALL_BYTES
        with self._changed:
            self._waiting[me] = remaining
            try:
                while not self._is_next(me, is_small=is_small):
                    if stop.is_set():
                        raise Stopped
                    self._changed.wait(_LOOK_SECONDS)
                self._holders[me] = _Holder(is_small, idle_seconds, time.monotonic())
            finally:
                del self._waiting[me]
                self._changed.notify_all()  # another turn may be free, for who is next now
        try:
            yield
        finally:
            with self._changed:
                del self._holders[me]
                self._changed.notify_all()

    def _is_next(self, me: object, *, is_small: bool) -> bool:
        moving = [holder for holder in self._holders.values() if holder.is_small == is_small and holder.is_moving()]
        if len(moving) >= self._turns or len(self._holders) >= _IDLE_FACTOR * self._turns:
            return False
        rivals = [other for other, left in self._waiting.items() if (left() <= _SMALL_BYTES) == is_small]
        return me is min(rivals, key=lambda other: self._waiting[other](), default=me)
