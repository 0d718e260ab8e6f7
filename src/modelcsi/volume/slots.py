"""How many publishes may be under way: when all slots are taken, the one that waited longest for a pull makes place.

So a publish of a cached model, which takes milliseconds, is never refused because others wait for their downloads.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from modelcsi.errors import Busy
from modelcsi.pull.patience import Patience

_PLACE_SECONDS = 5.0
"""How long a new call waits for the one that was asked to make place; that one only has to write its answer."""


class PublishSlots:
    """A bounded number of calls."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._changed = threading.Condition()
        # Under the condition's lock: calls inside; those that wait for the network, oldest first.
        self._inside = 0
        self._waiting: dict[Patience, None] = {}

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Take a slot. Raises Busy when nobody could make place."""
        with self._changed:
            if self._inside >= self._count:
                oldest = next(iter(self._waiting), None)
                if oldest is not None:
                    del self._waiting[oldest]
                    oldest.interrupt()
                if oldest is None or not self._changed.wait_for(lambda: self._inside < self._count, _PLACE_SECONDS):
                    raise Busy(
                        f"{self._count} publishes are under way on this node", hint="it is tried again by itself"
                    )
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def waiting(self, patience: Patience) -> Iterator[None]:
        """The call that holds a slot waits for a registry or a pull, and may be asked to leave."""
        with self._changed:
            self._waiting[patience] = None
        try:
            yield
        finally:
            with self._changed:
                self._waiting.pop(patience, None)
