"""What keeps logs and requests few: sayings that were said, answers that were just given, a pace."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from modelcsi.kube.client import Answer

_AGAIN_SECONDS = 3600.0
_REMEMBERED = 256
_PATIENCE_SECONDS = 30.0
"""Longer than a request may take, so that it never ends a wait in practice."""


class Once:
    """Whether something is worth a line of log: the first time, and after an hour again."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()  # guards _said
        self._said: OrderedDict[Hashable, float] = OrderedDict()
        self._clock = clock

    def is_due(self, *about: Hashable) -> bool:
        """True for the first who asks about this."""
        now = self._clock()
        with self._lock:
            said = self._said.get(about)
            if said is not None and now - said < _AGAIN_SECONDS:
                return False
            self._said[about] = now
            self._said.move_to_end(about)
            while len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)
        return True


class Recent:
    """Answers that stay good for some seconds; who asks for one that is on its way waits for it instead of asking too."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()  # guards _answers: when it came (None: under way), and what will be told
        self._answers: dict[Hashable, tuple[float | None, Future[Answer]]] = {}
        self._seconds = seconds
        self._clock = clock

    def answer(self, key: Hashable, ask: Callable[[], Answer]) -> Answer:
        """The recent answer, or what `ask` says now."""
        with self._lock:
            now = self._clock()
            self._answers = {
                kept: (came, future)
                for kept, (came, future) in self._answers.items()
                if came is None or now - came < self._seconds
            }
            known = self._answers.get(key)
            future = known[1] if known is not None else Future[Answer]()
            if known is None:
                self._answers[key] = (None, future)
        if known is None:
            self._fulfil(key, future, ask)
        return future.result(_PATIENCE_SECONDS)

    def _fulfil(self, key: Hashable, future: Future[Answer], ask: Callable[[], Answer]) -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)  # nobody may wait for an answer that does not come
            raise
        finally:
            with self._lock:
                self._answers[key] = (self._clock(), future)


class Bucket:
    """A pace: `burst` at once, then `per_second`. Not shared by threads without a lock of theirs."""

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Use one token if there is one."""
        if self.seconds_until_next(now) > 0:
            return False
        self._tokens -= 1
        return True

    def seconds_until_next(self, now: float) -> float:
        """How long until `take` succeeds."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        return max(0.0, (1 - self._tokens) / self._per_second)
