from __future__ import annotations

import threading

import pytest

from modelcsi.pull.claims import Claims
from modelcsi.pull.streams import Stopped


def test_one_at_a_time() -> None:
    """Who comes later waits for the key; other keys are free."""
    claims, never = Claims(), threading.Event()
    order: list[str] = []

    def second() -> None:
        with claims.hold("a", never):
            order.append("second")

    thread = threading.Thread(target=second)
    with claims.hold("a", never):
        thread.start()
        with claims.hold("b", never):
            order.append("first")
    thread.join(10)

    assert ["first", "second"] == order


def test_a_failed_holder_gives_the_key_back() -> None:
    """The next one may try."""
    claims, never = Claims(), threading.Event()
    with pytest.raises(ValueError, match="broken"), claims.hold("a", never):
        raise ValueError("broken")
    with claims.hold("a", never):
        pass


def test_waiting_ends_with_the_job() -> None:
    """Nobody wants it any more."""
    claims, stop = Claims(), threading.Event()
    stop.set()
    with claims.hold("a", threading.Event()), pytest.raises(Stopped), claims.hold("a", stop):
        pass
