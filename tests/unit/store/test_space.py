from __future__ import annotations

from pathlib import Path

import pytest

from modelcsi.errors import StoreFull
from modelcsi.store.space import Space

MIB = 1 << 20


class Shelf:
    """What a store holds, and what it can evict, in bytes."""

    def __init__(self, limit: int, stored: int = 0, evictable: int = 0) -> None:
        self.limit = limit
        self.stored = stored
        self.evictable = evictable
        self.asked: list[int] = []

    def make_room(self, need: int) -> int:
        self.asked.append(need)
        freed = min(need, self.evictable)
        self.stored -= freed
        self.evictable -= freed
        return freed

    def space(self, root: Path) -> Space:
        return Space(root, self.make_room, lambda: (self.limit, self.stored))


def test_two_reservations_do_not_share_bytes(tmp_path: Path) -> None:
    """What is promised to one pull is not promised to another, until it is given back."""
    space = Shelf(100).space(tmp_path)
    first = space.reserve(60, "a")
    with pytest.raises(StoreFull):
        space.reserve(60, "b")
    first.close()
    first.close()
    second = space.reserve(60, "b")

    assert (60, 40) == (second.remaining, space.available_bytes())


def test_written_bytes_are_promised_no_more(tmp_path: Path) -> None:
    """They are on the disk, which the next look sees."""
    shelf = Shelf(100)
    space = shelf.space(tmp_path)
    reservation = space.reserve(60, "a")
    shelf.stored += 50
    reservation.used(50)
    before = space.available_bytes()
    reservation.used(1000)

    assert (40, 50, 0) == (before, space.available_bytes(), reservation.remaining)


def test_room_is_made(tmp_path: Path) -> None:
    """What nobody needs goes, as much as is missing; nothing when there is room."""
    shelf = Shelf(100, stored=90, evictable=80)
    space = shelf.space(tmp_path)
    space.reserve(10, "a")
    space.reserve(30, "b")

    assert ([30], 60) == (shelf.asked, shelf.stored)


def test_a_full_store_says_need_and_free_space(tmp_path: Path) -> None:
    """In bytes, for programs, and in units, for people; and what to do."""
    space = Shelf(3 * MIB).space(tmp_path)
    with pytest.raises(StoreFull) as caught:
        space.reserve(10 * MIB, "registry.test/model:v1")

    assert (
        "registry.test/model:v1 needs 10485760 bytes (10.0 MiB); 3145728 (3.0 MiB) are free for models in"
        f" {tmp_path}" == caught.value.message
    )
    assert "disk_usage_limit" in caught.value.hint


def test_the_disk_is_a_limit_too(tmp_path: Path) -> None:
    """No limit of the store is needed for a model that is larger than the disk."""
    space = Space(tmp_path, lambda _: 0, lambda: (None, 0))
    with pytest.raises(StoreFull):
        space.reserve(1 << 60, "a")


def test_nothing_always_fits(tmp_path: Path) -> None:
    """A model that is here already needs no space, however full the disk."""
    shelf = Shelf(100, stored=500)
    reservation = shelf.space(tmp_path).reserve(0, "a")

    assert (0, []) == (reservation.remaining, shelf.asked)


def test_spending_more_than_was_known(tmp_path: Path) -> None:
    """A compressed tar grows: the promise grows with it, in steps, as long as there is room."""
    shelf = Shelf(100 * MIB)
    space = shelf.space(tmp_path)
    reservation = space.reserve(MIB, "a")
    reservation.spend(MIB, "a")
    shelf.stored += MIB
    reservation.spend(MIB, "a")
    shelf.stored += MIB

    assert 63 * MIB == reservation.remaining
    assert 35 * MIB == space.available_bytes()


def test_spending_until_the_store_is_full(tmp_path: Path) -> None:
    """The last bytes are given too; then it is StoreFull."""
    shelf = Shelf(10 * MIB)
    reservation = shelf.space(tmp_path).reserve(MIB, "a")
    for _ in range(10):
        reservation.spend(MIB, "the layer")
        shelf.stored += MIB
    with pytest.raises(StoreFull, match="the layer needs"):
        reservation.spend(MIB, "the layer")


def test_a_disk_that_fills_up_behind_our_back(tmp_path: Path) -> None:
    """Less than nothing is free: no negative amount is told."""
    shelf = Shelf(100, stored=300)
    with pytest.raises(StoreFull, match=r"needs 10 bytes \(10 B\); 0 \(0 B\) are free"):
        shelf.space(tmp_path).reserve(10, "a")
