"""A driver that does nothing but remember, and a loop whose time stands still."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from modelcsi.view.wire import Ahead, Want


class FakeDemand:
    """Satisfies `Demand`."""

    def __init__(self) -> None:
        self.wants: dict[int, tuple[Want, Callable[[int], None]]] = {}
        self.cancelled: list[int] = []
        self.hints: list[tuple[int, int]] = []

    def want(self, want: Want, answered: Callable[[int], None]) -> None:
        self.wants[want.id] = (want, answered)

    def cancel(self, id: int) -> None:
        del self.wants[id]
        self.cancelled.append(id)

    def ahead(self, hint: Ahead) -> None:
        self.hints.append((hint.start, hint.end))

    def ranges(self) -> list[tuple[int, int]]:
        """What is wanted now, in the order in which it was."""
        return [(want.start, want.end) for want, _ in self.wants.values()]

    def answer(self, number: int = 0) -> None:
        """Answer all that is wanted now."""
        for id in tuple(self.wants):
            if id in self.wants:
                self.wants.pop(id)[1](number)


class FakeTimer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """Satisfies `Loop`, without descriptors."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._count = count()

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(when, call)
        self._timers.append((when, next(self._count), timer))
        return timer

    def watch(self, fd: int, ready: Callable[[], None], *, is_writing: bool = False) -> None:
        raise NotImplementedError

    def unwatch(self, fd: int) -> None:
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Do what is due by then, in order."""
        end = self.time + seconds
        while due := [item for item in sorted(self._timers, key=lambda item: item[:2]) if item[0] <= end]:
            self._timers.remove(due[0])
            self.time = max(self.time, due[0][0])
            if not due[0][2].is_cancelled:
                due[0][2].call()
        self.time = end
