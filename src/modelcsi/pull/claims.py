"""One worker per thing at a time, across all jobs: later wishes wait in line, and then look again."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator

from modelcsi.pull.streams import Stopped

_LOOK_SECONDS = 0.5


class Claims:
    """Keys that are worked on now, and who waits for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Under the condition's lock: for each key the parties in line, the holder first.
        self._lines: defaultdict[Hashable, deque[object]] = defaultdict(deque)

    @contextlib.contextmanager
    def hold(self, key: Hashable, stop: threading.Event) -> Iterator[None]:
        """Be the only one who works on `key`; waits for those who came first. Raises Stopped when `stop` is set meanwhile."""
        me = object()
        with self._changed:
            line = self._lines[key]
            line.append(me)
            try:
                while line[0] is not me:
                    if stop.is_set():
                        raise Stopped
                    self._changed.wait(_LOOK_SECONDS)  # `stop` belongs to the waiter's job and wakes nobody here
            except BaseException:
                self._leave(key, me)
                raise
        try:
            yield
        finally:
            with self._changed:
                self._leave(key, me)

    def _leave(self, key: Hashable, party: object) -> None:
        self._lines[key].remove(party)
        if not self._lines[key]:
            del self._lines[key]
        self._changed.notify_all()
