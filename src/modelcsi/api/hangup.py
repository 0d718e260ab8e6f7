"""Notices that a client has closed its end while a thread works for it; a thread and an eventfd for each watch.

For unix sockets, where the kernel tells a closed end (POLLHUP) from one that only sends no more (`nc -N`): a client that has
closed takes no answer. Over TCP both look alike, and nothing is noticed.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watched(connection: socket.socket, gone: Callable[[], None]) -> Iterator[None]:
    """Call `gone`, once and in a thread of its own, if the other end is closed, or this one shut down, within the block."""
    end = os.eventfd(0, os.EFD_CLOEXEC)
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP is always told
    poll.register(end, select.POLLIN)

    def watch() -> None:
        if end not in dict(poll.poll()):
            gone()

    thread = threading.Thread(target=watch, name="http-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(end, 1)
        thread.join()
        os.close(end)
