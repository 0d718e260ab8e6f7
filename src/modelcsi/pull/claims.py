"""One worker per thing at a time, across all jobs: later wishes wait, and then look again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator

from modelcsi.pull.transfer import Stopped

_LOOK_SECONDS = 0.5


class Claims:
    """Keys that are worked on now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: set[Hashable] = set()  # under the condition's lock

    @contextlib.contextmanager
    def hold(self, key: Hashable, stop: threading.Event) -> Iterator[None]:
        """Be the only one who works on `key`; waits for the one who does. Raises Stopped when `stop` is set meanwhile."""
        with self._changed:
            while key in self._held:
                if stop.is_set():
                    raise Stopped
                self._changed.wait(_LOOK_SECONDS)  # `stop` belongs to the waiter's job and wakes nobody here
            self._held.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(key)
                self._changed.notify_all()
