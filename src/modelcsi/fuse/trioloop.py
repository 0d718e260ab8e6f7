"""`view.loop.Loop` in trio: each call and each watched descriptor is a task of one nursery."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio


class TrioLoop:
    """Satisfies `Loop`. All calls are made in trio's thread, from tasks of their own."""

    def __init__(self, nursery: trio.Nursery) -> None:
        """Ends with the nursery, whose tasks the calls are: one that raises ends all."""
        self._nursery = nursery
        self._watching: dict[int, list[trio.CancelScope]] = {}

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def call_at(self, when: float, call: Callable[[], None]) -> trio.CancelScope:
        """`Loop.call_at`."""
        scope = trio.CancelScope()
        self._nursery.start_soon(self._call_later, scope, when, call)
        return scope

    def watch(self, fd: int, ready: Callable[[], None], *, is_writing: bool = False) -> None:
        """`Loop.watch`."""
        self.unwatch(fd)
        waits: list[Callable[[int], Awaitable[None]]] = [trio.lowlevel.wait_readable]
        if is_writing:
            waits.append(trio.lowlevel.wait_writable)
        self._watching[fd] = [trio.CancelScope() for _ in waits]
        for scope, wait in zip(self._watching[fd], waits, strict=True):
            self._nursery.start_soon(self._watch, scope, wait, fd, ready)

    def unwatch(self, fd: int) -> None:
        """`Loop.unwatch`: trio lets go of the descriptor before this returns."""
        for scope in self._watching.pop(fd, ()):
            scope.cancel()

    async def _call_later(self, scope: trio.CancelScope, when: float, call: Callable[[], None]) -> None:
        with scope:
            await trio.sleep(max(0.0, when - time.monotonic()))
            if not scope.cancel_called:  # by who ran between the end of the sleep and this
                call()

    async def _watch(
        self, scope: trio.CancelScope, wait: Callable[[int], Awaitable[None]], fd: int, ready: Callable[[], None]
    ) -> None:
        with scope:
            while not scope.cancel_called:
                await wait(fd)
                if not scope.cancel_called:
                    ready()
