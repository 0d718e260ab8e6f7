from __future__ import annotations

import threading

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import Busy
from modelcsi.pull.patience import Patience
from modelcsi.volume.slots import PublishSlots


class Waiter:
    """A publish that waits for a pull until it is sent away."""

    def __init__(self, slots: PublishSlots) -> None:
        self.patience = Patience(Deadline.never())
        self.is_waiting = threading.Event()
        self.sent_away = threading.Event()
        self.patience.attach(self.sent_away.set)
        self.thread = threading.Thread(target=self._run, args=(slots,))
        self.thread.start()
        assert self.is_waiting.wait(5)

    def _run(self, slots: PublishSlots) -> None:
        with slots.enter(), slots.waiting(self.patience):
            self.is_waiting.set()
            self.sent_away.wait(10)

    def end(self) -> None:
        self.patience.interrupt()
        self.thread.join(10)


def test_the_oldest_waiter_makes_place() -> None:
    """Whoever comes takes the slot of the one that waited longest, at once."""
    slots = PublishSlots(2)
    oldest, younger = Waiter(slots), Waiter(slots)
    with slots.enter():
        assert (True, False) == (oldest.sent_away.is_set(), younger.sent_away.is_set())
    for waiter in (oldest, younger):
        waiter.end()


def test_beyond_is_busy() -> None:
    """A call that does not wait for a pull cannot be sent away."""
    slots = PublishSlots(1)
    with slots.enter(), pytest.raises(Busy, match="1 publishes are under way"), slots.enter():
        pass
    with slots.enter():
        pass


def test_a_failed_call_gives_its_slot_back() -> None:
    """Whatever happened in it."""
    slots = PublishSlots(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"), slots.enter(), slots.waiting(Patience(Deadline.never())):
            raise ValueError("broken")


def test_nobody_is_sent_away_while_there_is_room() -> None:
    """Slots are for that."""
    slots = PublishSlots(2)
    waiter = Waiter(slots)
    with slots.enter():
        sent_away = waiter.sent_away.is_set()
    waiter.end()

    assert not sent_away
