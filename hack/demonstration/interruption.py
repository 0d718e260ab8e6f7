"""Signals that ask the demonstration to end, as an exception in the main thread; never while something is being acquired."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Not an Exception: nobody below may take it for a failure of its own."""


class Interruption:
    """The first signal raises Interrupted wherever the main thread is, unless that is in a `shielded` block; others do nothing."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._shields = 0

    def arm(self) -> None:
        """From now on."""
        for number in _SIGNALS:
            signal.signal(number, self._receive)

    def disarm(self) -> None:
        """From now on signals do nothing: what cleans up must not be interrupted."""
        self._shields += 1

    def check(self) -> None:
        """Raise what a shield kept back, or what was lost because it was raised inside a finaliser."""
        if self.signal_number is not None and not self._shields:
            raise Interrupted

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Within the block a thing is acquired and its end is registered: both happen, or neither."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        self.check()

    def _receive(self, number: int, _frame: object) -> None:
        if self.signal_number is None:
            self.signal_number = number
            self.check()
