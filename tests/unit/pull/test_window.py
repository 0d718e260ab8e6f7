from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from modelcsi.pull.window import PIECE_BYTES, MemoryBudget, Window
from tests.unit.pull.conftest import wait_until

MIB = 1 << 20


class Parallel:
    """Runs functions in threads and keeps what they raised."""

    def __init__(self, *functions: Callable[[], object]) -> None:
        self.errors: list[Exception] = []
        self.threads = [threading.Thread(target=self._run, args=(function,)) for function in functions]
        for thread in self.threads:
            thread.start()

    def _run(self, function: Callable[[], object]) -> None:
        try:
            function()
        except ValueError as error:
            self.errors.append(error)

    def join(self) -> list[Exception]:
        for thread in self.threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self.threads)
        return self.errors


def read_all(window: Window, reader: int) -> bytes:
    """What a reader gets."""
    return b"".join(iter(lambda: window.read(reader), b""))


def test_pieces_in_any_order_are_read_in_order() -> None:
    """By each of two readers."""
    window = Window(6, 2, MemoryBudget(0))
    for offset, piece in ((4, b"ef"), (0, b"ab"), (2, b"cd")):
        window.put(offset, piece)

    assert [b"abcdef", b"abcdef"] == [read_all(window, 0), read_all(window, 1)]


def test_the_empty_blob_is_at_its_end() -> None:
    """Nobody waits for nothing."""
    assert b"" == Window(0, 1, MemoryBudget(0)).read(0)


def test_a_reader_waits_for_its_piece() -> None:
    """And goes on as soon as it comes."""
    window = Window(2, 1, MemoryBudget(0))
    got: list[bytes] = []
    reading = Parallel(lambda: got.append(read_all(window, 0)))
    window.put(1, b"b")
    window.put(0, b"a")

    assert ([], [b"ab"]) == (reading.join(), got)


def test_a_receiver_too_far_ahead_waits() -> None:
    """Memory is bounded by the slowest reader, not by the fastest."""
    window = Window(100 * MIB, 2, MemoryBudget(4 * MIB))
    for offset in range(4):
        window.put(offset * MIB, bytes(MIB))
    ahead = Parallel(lambda: window.put(4 * MIB, bytes(MIB)))
    wait_until(window.is_full)
    window.read(0)
    is_full_for_the_slow_reader = window.is_full() and ahead.threads[0].is_alive()
    window.read(1)
    ahead.join()

    assert (True, False) == (is_full_for_the_slow_reader, window.is_full())


def test_the_piece_that_is_needed_next_never_waits() -> None:
    """However full the window is: nothing can lock up."""
    window = Window(100 * MIB, 1, MemoryBudget(4 * MIB))
    for offset in (1, 2, 3):
        window.put(offset * MIB, bytes(MIB))
    window.put(0, bytes(50 * MIB))

    assert 50 * MIB == len(window.read(0))


def test_a_failure_wakes_everybody() -> None:
    """Readers, receivers, and whoever comes later; the first error counts."""
    window = Window(100 * MIB, 1, MemoryBudget(4 * MIB))
    window.put(MIB, b"x")
    waiting = Parallel(lambda: window.read(0), lambda: window.put(50 * MIB, b"x"))
    wait_until(window.is_full)
    first = ValueError("first")
    window.fail(first)
    window.fail(ValueError("second"))
    errors = waiting.join()
    with pytest.raises(ValueError, match="first"):
        window.put(0, b"x")

    assert ([first, first], first) == (errors, window.error)


def test_a_budget_is_shared() -> None:
    """By the windows there are, but no window starves."""
    budget = MemoryBudget(64 * MIB)
    shares = [budget.share()]
    for _ in range(32):
        budget.join()
        shares.append(budget.share())
    budget.leave()

    assert [64 * MIB, 64 * MIB, 32 * MIB, 2 * MIB] == [shares[0], shares[1], shares[2], shares[32]]
    assert (64 * MIB // 31, 2 * PIECE_BYTES) == (budget.share(), MemoryBudget(0).share())
