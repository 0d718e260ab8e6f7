"""The event loop of a server."""

from __future__ import annotations

import os
import signal

from modelcsi.fuse.loop import EpollLoop


def test_calls_who_is_ready() -> None:
    """A descriptor that can be read has its call, in turn with others, until it is not watched any more."""
    loop, calls = EpollLoop(), []
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")

    def ready() -> None:
        calls.append("ready")
        loop.unwatch(read_end)
        loop.call_at(loop.now(), loop.stop)

    loop.watch(read_end, ready)
    loop.run()
    os.close(read_end)
    os.close(write_end)

    assert ["ready"] == calls


def test_timers_are_in_order_and_may_be_cancelled() -> None:
    """Each is called once, the earliest first, and none that was cancelled."""
    loop, calls = EpollLoop(), []
    now = loop.now()
    loop.call_at(now + 0.02, loop.stop)
    loop.call_at(now + 0.01, lambda: calls.append("second"))
    loop.call_at(now, lambda: calls.append("first"))
    loop.call_at(now + 0.005, lambda: calls.append("never")).cancel()
    loop.run()

    assert ["first", "second"] == calls


def test_signal_ends_it() -> None:
    """SIGTERM lets it return, also when nothing else happens."""
    before = signal.getsignal(signal.SIGTERM)
    loop = EpollLoop()
    try:
        loop.stop_at(signal.SIGTERM)
        loop.call_at(loop.now(), lambda: os.kill(os.getpid(), signal.SIGTERM))
        loop.run()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
