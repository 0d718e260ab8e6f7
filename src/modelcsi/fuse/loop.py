"""The event loop of a server process: epoll, timers, and the end by a signal. Satisfies `view.loop.Loop`. One thread."""

from __future__ import annotations

import heapq
import os
import select
import signal
import time
from collections.abc import Callable
from itertools import count

_MAX_EVENTS = 64


class EpollTimer:
    """A call that was put off; satisfies `view.loop.Timer`."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """It is not made."""
        self.call = None


class EpollLoop:
    """Runs until `stop`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, EpollTimer]] = []
        self._count = count()
        self._is_stopped = False

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def call_at(self, when: float, call: Callable[[], None]) -> EpollTimer:
        """Call once at a time of `now`."""
        timer = EpollTimer(call)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def watch(self, fd: int, ready: Callable[[], None], *, is_writing: bool = False) -> None:
        """`Loop.watch`."""
        mask = select.EPOLLIN | (select.EPOLLOUT if is_writing else 0)
        if fd in self._ready:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._ready[fd] = ready

    def unwatch(self, fd: int) -> None:
        """`Loop.unwatch`."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def stop(self) -> None:
        """Let `run` return after what it does now."""
        self._is_stopped = True

    def stop_at(self, *signals: int) -> None:
        """Let `run` return when one of these signals comes."""
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # epoll_wait(2) is begun again after a handler (PEP 475); a descriptor that can be read ends it.
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: self.stop())
        self.watch(read_end, self.stop)

    def run(self) -> None:
        """Call whoever is ready, until stopped. May be called again."""
        while not self._is_stopped:
            for fd, _ in self._epoll.poll(self._timeout(), _MAX_EVENTS):
                ready = self._ready.get(fd)
                if ready is not None:  # else unwatched by a call before it
                    ready()
            self._run_timers()
        self._is_stopped = False

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic() if self._timers else 0.0
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                call()
