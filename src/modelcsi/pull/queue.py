"""Which jobs move bytes now: a bounded number, the one with the smallest remainder next.

So a pull of 700 GB does not starve a small one. Jobs below 256 MiB have extra turns of their own, since big jobs may hold
the others for hours.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from modelcsi.pull.claims import Claims
from modelcsi.pull.transfer import Stopped

_SMALL_BYTES = 256 << 20
_LOOK_SECONDS = 0.5


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
        # Under the condition's lock: turns that are taken, by size class, and who waits with what remainder.
        self._taken = {True: 0, False: 0}
        self._waiting: dict[object, Callable[[], int]] = {}

    @contextlib.contextmanager
    def turn(self, remaining: Callable[[], int], stop: threading.Event) -> Iterator[None]:
        """Wait for a turn and hold it. Raises Stopped when `stop` is set meanwhile."""
        me = object()
        is_small = remaining() <= _SMALL_BYTES
        with self._changed:
            self._waiting[me] = remaining
            try:
                while not self._is_next(me, is_small=is_small):
                    if stop.is_set():
                        raise Stopped
                    self._changed.wait(_LOOK_SECONDS)
                self._taken[is_small] += 1
            finally:
                del self._waiting[me]
                self._changed.notify_all()  # another turn may be free, for who is next now
        try:
            yield
        finally:
            with self._changed:
                self._taken[is_small] -= 1
                self._changed.notify_all()

    def _is_next(self, me: object, *, is_small: bool) -> bool:
        if self._taken[is_small] >= self._turns:
            return False
        rivals = [other for other, left in self._waiting.items() if (left() <= _SMALL_BYTES) == is_small]
        return me is min(rivals, key=lambda other: self._waiting[other](), default=me)
