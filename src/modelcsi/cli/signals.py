"""The signals that end the driver.

Not `threading.Event.wait`: the kernel may deliver a signal to any thread, Python's handlers run in the main one, and nothing
wakes that if it waits for a lock (seen: once in sixty ends). A wakeup descriptor is written to whichever thread was hit.
"""

from __future__ import annotations

import signal
import socket
from types import FrameType

_ENDING = frozenset({signal.SIGTERM, signal.SIGINT})


class EndSignal:
    """Made before any other thread starts, by the main thread; from then on SIGTERM and SIGINT only end `wait`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _ENDING:
            signal.signal(number, _ignore)

    def wait(self) -> None:
        """Return when one of the two has come, also if that was before the call."""
        while self._reader.recv(1)[0] not in _ENDING:
            pass  # another signal that has a handler


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The descriptor tells; a handler must exist for it to be written."""
