"""Which jobs move bytes now: a bounded number, the one with the smallest remainder next.

So a pull of 700 GB does not starve a small one. Jobs below 256 MiB have extra turns of their own, since big jobs may hold
the others for hours. Who gets nothing does not count, and gives its turn back when many do: a dead registry keeps nobody
waiting.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelcsi.pull.claims import Claims
from modelcsi.pull.streams import Stopped

_SMALL_BYTES = 256 << 20
_LOOK_SECONDS = 0.5
_IDLE_FACTOR = 6
"""Idle jobs hold threads and connections, so they are bounded too: then the idlest gives its turn back to who waits."""


@dataclass(frozen=True, slots=True)
class _Holder:
    is_small: bool
    idle_seconds: Callable[[], float]
    since: float
    recalled: threading.Event
    is_urgent: bool = False
    """It has not waited, and takes nobody's turn."""

    def idle(self) -> float:
        """How long it got nothing for its turn, in seconds."""
        return min(self.idle_seconds(), time.monotonic() - self.since)


@dataclass(frozen=True, slots=True)
class _Waiter:
    remaining: Callable[[], int]
    recalls: int
    is_urgent: Callable[[], bool]

    def is_small(self) -> bool:
        return self.remaining() <= _SMALL_BYTES

    def rank(self) -> tuple[int, int]:
        """Who gave a turn back comes behind those who did not have one."""
        return self.recalls, self.remaining()


class JobQueue:
    """The turns of one process: `turns` for big jobs, and as many for small ones.

    `layers_at_once` is asked when a job begins, since the configuration may change.
    """

    idle_after_seconds = 5.0
    """Who got nothing for that long has a turn that does not count."""

    def __init__(self, turns: int, layers_at_once: Callable[[], int]) -> None:
        self.layers_at_once = layers_at_once
        self._turns = turns
        self.views = Claims()
        """Which views are being built."""
        self._changed = threading.Condition()
        # Under the condition's lock: who has a turn, and who waits for one.
        self._holders: dict[object, _Holder] = {}
        self._waiting: dict[object, _Waiter] = {}

    @contextlib.contextmanager
    def turn(
        self,
        remaining: Callable[[], int],
        stop: threading.Event,
        idle_seconds: Callable[[], float] = lambda: 0.0,
        recalls: int = 0,
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> Iterator[threading.Event]:
        """Wait for a turn and hold it; the event is set when it should be given back, by who then asks with one more of `recalls`.

        Once `is_urgent`, since somebody reads from what the job brings, it waits no longer, and its turn is nobody else's
        loss; `look_again` makes it look. Raises Stopped when `stop` is set meanwhile.
        """
        me, waiter = object(), _Waiter(remaining, recalls, is_urgent)
        recalled = threading.Event()
        with self._changed:
            self._waiting[me] = waiter
            try:
                while not (is_now := is_urgent()) and not self._is_next(me):
                    if stop.is_set():
                        raise Stopped
                    self._changed.wait(_LOOK_SECONDS)
                self._holders[me] = _Holder(waiter.is_small(), idle_seconds, time.monotonic(), recalled, is_now)
            finally:
                del self._waiting[me]
                self._changed.notify_all()  # another turn may be free, for who is next now
        try:
            yield recalled
        finally:
            with self._changed:
                del self._holders[me]
                self._changed.notify_all()

    def look_again(self) -> None:
        """Make those who wait look whether they are urgent."""
        with self._changed:
            self._changed.notify_all()

    def _is_next(self, me: object) -> bool:
        is_small = self._waiting[me].is_small()
        rivals = {other: waiter for other, waiter in self._waiting.items() if waiter.is_small() == is_small}
        if me is not min(rivals, key=lambda other: rivals[other].rank()):
            return False
        holders = [holder for holder in self._holders.values() if not holder.is_urgent]
        moving = [
            holder for holder in holders if holder.is_small == is_small and holder.idle() < self.idle_after_seconds
        ]
        if len(moving) >= self._turns:
            return False
        if len(holders) >= _IDLE_FACTOR * self._turns:
            self._recall_idlest()
            return False
        return True

    def _recall_idlest(self) -> None:
        """One at a time for each who waits."""
        if sum(holder.recalled.is_set() for holder in self._holders.values()) >= len(self._waiting):
            return
        idle = [
            holder
            for holder in self._holders.values()
            if not holder.is_urgent and holder.idle() >= self.idle_after_seconds
        ]
        candidates = [holder for holder in idle if not holder.recalled.is_set()]
        if candidates:
            max(candidates, key=_Holder.idle).recalled.set()
