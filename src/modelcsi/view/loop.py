"""What waiting needs of the event loop that an adapter runs: `fuse.loop` is one, trio with pyfuse3 another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Something that was put off."""

    def cancel(self) -> None:
        """It need not be done any more. Repeatable, also after it was done."""


class Loop(Protocol):
    """Calls back, always in the loop's one thread and never from within the call that asks for it."""

    def now(self) -> float:
        """Monotonic seconds."""

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Call once at a time of `now`."""

    def watch(self, fd: int, ready: Callable[[], None], *, is_writing: bool = False) -> None:
        """Call each time that the descriptor can be read, or with `is_writing` also when it can be written. Replaces what was said
        of the descriptor before.
        """

    def unwatch(self, fd: int) -> None:
        """No calls any more; to be said before the descriptor is closed."""
