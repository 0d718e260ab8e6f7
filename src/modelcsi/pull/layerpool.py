"""Brings the layers of a job, several at a time; one that somebody waits for begins at once, beside those that are under way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from modelcsi.artifact.layer import Layer
from modelcsi.errors import FinalError
from modelcsi.pull.streams import Stopped

_MOST_PRESSED = 32
"""Begun beside the others since somebody waits, at a time. Each takes some threads; a pod may open thousands of files at once, and
its registry may never send one."""


class LayerPool:
    """`run` once; `begin_now` from any thread. The first error ends all of them: `failed` is set then.

    Where `others_go_on`, a final error ends its own layer alone, and is raised when the others are here.
    """

    def __init__(
        self, layers: Iterable[Layer], at_once: int, stop: threading.Event, others_go_on: Callable[[], bool]
    ) -> None:
        self.failed = threading.Event()
        self._others_go_on = others_go_on
        self._at_once = at_once
        self._stop = stop
        self._lock = threading.Lock()
        # Under the lock: layers that nobody has begun, how many of them cannot wait; those that come before all others, and how
        # many threads there are for such ones; the threads there were, what went wrong, and whether no thread may start.
        self._waiting = deque(layers)
        self._pressing = 0
        self._pressed = deque[Layer]()
        self._beside = 0
        self._threads: list[threading.Thread] = []
        self._errors: list[Exception] = []
        self._is_over = False
        self._bring: Callable[[Layer], None] = lambda _: None

    def run(self, bring: Callable[[Layer], None]) -> None:
        """Bring all of them. Raises Stopped, or what `bring` raised, the final error first."""
        with self._lock:
            self._bring = bring
            for _ in range(min(max(self._at_once, min(self._pressing, _MOST_PRESSED)), len(self._waiting))):
                self._start(self._bring_some)
        joined = 0
        while True:
            with self._lock:
                self._is_over = joined == len(self._threads)
                if self._is_over:
                    break
                thread = self._threads[joined]
            thread.join()
            joined += 1
        if self._stop.is_set():
            raise Stopped
        if self._errors:
            raise next((error for error in self._errors if isinstance(error, FinalError)), self._errors[0])

    def begin_now(self, layer: Layer) -> None:
        """Begin this layer if nobody has; where that would be too many, as soon as another one ends."""
        with self._lock:
            if self._is_over or layer not in self._waiting:
                return
            self._waiting.remove(layer)
            if not self._threads:  # the first ones, then
                self._waiting.appendleft(layer)
                self._pressing += 1
                return
            self._pressed.append(layer)
            if self._beside < _MOST_PRESSED:
                self._beside += 1
                self._start(self._bring_pressed)

    def _start(self, work: Callable[[], None]) -> None:
        """With the lock held: `run` must not see a layer that nobody waits for and nobody brings."""
        thread = threading.Thread(target=work, name="pull-layer", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _bring_some(self) -> None:
        while not self.failed.is_set() and not self._stop.is_set():
            with self._lock:
                waiting = self._pressed or self._waiting
                layer = waiting.popleft() if waiting else None
            if layer is None:
                return
            self._bring_one(layer)

    def _bring_pressed(self) -> None:
        while True:
            with self._lock:
                if not self._pressed or self.failed.is_set() or self._stop.is_set():
                    self._beside -= 1
                    return
                layer = self._pressed.popleft()
            self._bring_one(layer)

    def _bring_one(self, layer: Layer) -> None:
        try:
            self._bring(layer)
        except Exception as raised:  # noqa: BLE001 - a thread's main: raised again by `run`
            self._errors.append(raised)
            if not (isinstance(raised, FinalError) and self._others_go_on()):
                self.failed.set()
