"""What is fetched before it is asked for."""

from __future__ import annotations

from itertools import pairwise

from modelcsi.view.readahead import ReadAhead

MIB = 1 << 20
KEY = ("view", 0)
SIZE = 1 << 30


def _windows(reads: list[int]) -> list[tuple[int, int] | None]:
    ahead = ReadAhead()
    hints = [ahead.next_hint(KEY, start * MIB, (start + 1) * MIB, SIZE) for start in reads]
    return [hint and (hint[0] // MIB, hint[1] // MIB) for hint in hints]


def test_window_doubles_for_who_goes_on() -> None:
    """4 MiB ahead, then 8, 16, 32 and no more; each byte is told once, and at least half a window is always ahead."""
    hints = [hint for hint in _windows(list(range(64))) if hint]

    assert [(2, 6), (6, 12), (12, 24), (24, 48)] == hints[:4]
    assert all(later[0] == earlier[1] for earlier, later in pairwise(hints))
    assert all(end - begin <= 32 for begin, end in hints)


def test_jumps_fetch_nothing_ahead() -> None:
    """A reader that only jumps costs nothing but what it reads."""
    assert [None] * 6 == _windows([0, 100, 50, 700, 300, 900])


def test_reader_that_jumps_and_goes_on() -> None:
    """After a jump the window begins anew at the new place."""
    assert [None, (2, 6), None, (502, 506)] == _windows([0, 1, 500, 501])


def test_readers_are_told_apart() -> None:
    """Two readers of one file in turn are both sequential."""
    assert [None, None, (2, 6), (402, 406)] == _windows([0, 400, 1, 401])


def test_nothing_behind_the_end() -> None:
    """A hint ends with the file, and there is none when all of it was told."""
    ahead = ReadAhead()
    ahead.next_hint(KEY, 0, MIB, 3 * MIB)

    assert (2 * MIB, 3 * MIB) == ahead.next_hint(KEY, MIB, 2 * MIB, 3 * MIB)
    assert ahead.next_hint(KEY, 2 * MIB, 3 * MIB, 3 * MIB) is None


def test_memory_is_bounded() -> None:
    """The files that were read longest ago are forgotten, and so is a view that has gone."""
    ahead = ReadAhead()
    for file in range(3000):
        ahead.next_hint(("view", file), 0, MIB, SIZE)
    kept = len(ahead._files)
    ahead.forget_view("view")

    assert (1024, 0) == (kept, len(ahead._files))
