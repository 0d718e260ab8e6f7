from __future__ import annotations

import socket
import threading

from modelcsi.api.hangup import watched


def test_a_closed_end_is_told() -> None:
    """Once, within the block."""
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    with watched(ours, gone.set):
        theirs.close()
        told = gone.wait(10)
    ours.close()

    assert told


def test_an_end_that_only_sends_no_more_is_there() -> None:
    """`nc -N` and others half-close and wait for the answer; the block ends without a call."""
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    with watched(ours, gone.set):
        theirs.shutdown(socket.SHUT_WR)
        assert b"" == ours.recv(1)
    told = gone.is_set()
    ours.close()
    theirs.close()

    assert not told


def test_our_own_end_counts() -> None:
    """A server that stops shuts its connections down: who works for them is told."""
    ours, theirs = socket.socketpair()
    gone = threading.Event()
    with watched(ours, gone.set):
        ours.shutdown(socket.SHUT_RDWR)
        told = gone.wait(10)
    ours.close()
    theirs.close()

    assert told
