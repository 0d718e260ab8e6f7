"""Who waits for which bytes of one view: any number of readers, each chunk asked for once."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import NamedTuple

from modelcsi.view.link import Demand
from modelcsi.view.loop import Loop, Timer
from modelcsi.view.wire import Want

_TRUSTED_REPEATS = 3
_REPEAT_SECONDS = 0.1
_ASKED_AGAIN_SECONDS = 1.0
"""In which the kernel asks once more for the first page of what it read ahead and did not get; it does so at once."""
_MAX_ERRNO = 4095  # more is no errno for the kernel

Range = tuple[int, int]


class Need(NamedTuple):
    """What a reader waits for."""

    file: int
    start: int
    end: int
    is_verified: bool = False
    """Not for bytes, but for the file to be complete."""
    epoch: int | None = None
    """Of the handle that reads; None: none."""
    reader: int = 0
    """The thread, where the kernel tells it."""

    def is_part_of(self, other: Need) -> bool:
        """Whether the same reader wants the same bytes, or some of them."""
        is_same = self._replace(start=0, end=0) == other._replace(start=0, end=0)
        return is_same and other.start <= self.start and self.end <= other.end


class Verdict(NamedTuple):
    """How it is with a need: met, hopeless (`errno`), or bytes are `missing`."""

    errno: int = 0
    missing: tuple[Range, ...] = ()
    arrived: int = 0
    """Of what comes as a whole or not at all: how much of it is here. Who waits for that is patient while it grows."""


class Waiting:
    """A need that is not met yet."""

    __slots__ = ("arrived", "deadline", "need", "pending", "repeats", "resume")

    def __init__(self, need: Need, resume: Callable[[int], None], deadline: float, arrived: int) -> None:
        self.need = need
        self.arrived = arrived
        self.resume = resume
        self.deadline = deadline
        self.pending: set[_Key] = set()
        self.repeats = 0


_Key = tuple[int, int, int, bool]


class _Asked:
    __slots__ = ("id", "waiting")

    def __init__(self, id: int) -> None:
        self.id = id
        self.waiting: dict[Waiting, None] = {}  # in order: who came first goes on first


class Waits:
    """The needs of a view's readers. `judge` says how it is with one now."""

    def __init__(
        self,
        view: str,
        judge: Callable[[Need], Verdict],
        demand: Demand,
        loop: Loop,
        *,
        timeout_seconds: float,
        ids: Iterator[int],
    ) -> None:
        self._view = view
        self._judge = judge
        self._demand = demand
        self._loop = loop
        self._timeout_seconds = timeout_seconds
        self._ids = ids
        self._asked: dict[_Key, _Asked] = {}
        self._waiting: dict[Waiting, None] = {}  # in order of their deadlines: all wait equally long
        self._timer: Timer | None = None
        self._given_up: dict[Need, float] = {}  # and when that is no matter any more

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, need: Need, missing: tuple[Range, ...], resume: Callable[[int], None], arrived: int = 0) -> Waiting:
        """Have what is missing fetched; `resume` is told once, later: 0 when it is worth to look again, or an errno.

        `arrived` as the verdict had it. Who has waited in vain just now is refused when he asks again: the kernel does so with
        what it read ahead, and readers would wait twice as long as they should.
        """
        now = self._loop.now()
        waiting = Waiting(need, resume, now + self._timeout_seconds, arrived)
        self._waiting[waiting] = None
        if self._is_asked_again(need, now):
            self._loop.call_at(now, lambda: self._finish(waiting, errno.EIO))
            return waiting
        if self._timer is None:
            self._timer = self._loop.call_at(waiting.deadline, self._expire)
        self._ask(waiting, missing)
        return waiting

    def cancel(self, waiting: Waiting) -> None:
        """Nobody waits any more; `resume` is not called. Repeatable."""
        self._waiting.pop(waiting, None)
        for key in waiting.pending:
            asked = self._asked[key]
            asked.waiting.pop(waiting, None)
            if not asked.waiting:
                del self._asked[key]
                self._demand.cancel(asked.id)
        waiting.pending = set()

    def look_again(self) -> None:
        """Something may have changed without an answer."""
        for waiting in tuple(self._waiting):
            verdict = self._judge(waiting.need)
            if not verdict.missing:
                self._finish(waiting, verdict.errno)

    def close(self) -> None:
        """Forget all; nobody is told."""
        for waiting in tuple(self._waiting):
            self.cancel(waiting)
        if self._timer is not None:
            self._timer.cancel()

    def _ask(self, waiting: Waiting, missing: tuple[Range, ...]) -> None:
        need = waiting.need
        for start, end in missing:
            key = (need.file, start, end, need.is_verified)
            asked = self._asked.get(key)
            if asked is None:
                asked = self._asked[key] = _Asked(next(self._ids))
                want = Want(asked.id, self._view, need.file, start, end, need.is_verified)
                self._demand.want(want, lambda number, key=key: self._answered(key, number))  # type: ignore[misc]
            asked.waiting[waiting] = None
            waiting.pending.add(key)

    def _answered(self, key: _Key, number: int) -> None:
        answered = self._asked.pop(key).waiting
        for waiting in answered:  # all first: who goes on may cancel another, or ask for the same anew
            waiting.pending.discard(key)
        for waiting in answered:
            if number:
                self._finish(waiting, number if number <= _MAX_ERRNO else errno.EIO)
            elif not waiting.pending and waiting in self._waiting:
                self._check(waiting)

    def _check(self, waiting: Waiting) -> None:
        verdict = self._judge(waiting.need)
        if not verdict.missing:
            self._finish(waiting, verdict.errno)
            return
        # The driver says it is here and the maps say it is not: another chunk, or it was dropped since. If that goes on,
        # not as fast as two processes can tell each other so.
        waiting.repeats += 1
        if waiting.repeats <= _TRUSTED_REPEATS:
            self._ask(waiting, verdict.missing)
        else:
            self._loop.call_at(self._loop.now() + _REPEAT_SECONDS, lambda: self._ask_if_waiting(waiting))

    def _ask_if_waiting(self, waiting: Waiting) -> None:
        if waiting in self._waiting and not waiting.pending:
            verdict = self._judge(waiting.need)
            if verdict.missing:
                self._ask(waiting, verdict.missing)
            else:
                self._finish(waiting, verdict.errno)

    def _finish(self, waiting: Waiting, number: int) -> None:
        if waiting in self._waiting:
            self.cancel(waiting)
            waiting.resume(number)

    def _is_asked_again(self, need: Need, now: float) -> bool:
        self._given_up = {known: end for known, end in self._given_up.items() if now < end}
        for known in self._given_up:
            if need.is_part_of(known):
                del self._given_up[known]
                return True
        return False

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.now()
        for waiting in tuple(self._waiting):
            if waiting.deadline > now:
                break
            verdict = self._judge(waiting.need)
            if not verdict.missing:
                self._finish(waiting, verdict.errno)
            elif verdict.arrived <= waiting.arrived:
                self._given_up[waiting.need] = now + _ASKED_AGAIN_SECONDS
                self._finish(waiting, errno.EIO)
            elif waiting in self._waiting:  # it comes, if slowly
                waiting.arrived, waiting.deadline = verdict.arrived, now + self._timeout_seconds
                del self._waiting[waiting]
                self._waiting[waiting] = None
        first = next(iter(self._waiting), None)
        if first is not None and self._timer is None:
            self._timer = self._loop.call_at(first.deadline, self._expire)
