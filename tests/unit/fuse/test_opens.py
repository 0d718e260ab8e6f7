"""What is open survives a kill at every step, exactly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from modelcsi.fuse.abi import RESENT
from modelcsi.fuse.opens import Opens, Superseded

FILES = 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file will be."""
    return tmp_path / "opens"


@pytest.fixture
def opens(path: Path) -> Iterator[Opens]:
    """Of a mount that has just begun."""
    opened = Opens(path, FILES)
    opened.begin()
    yield opened
    opened.close()


def _states(path: Path, action: Callable[[], None]) -> list[bytes]:
    """What is in the file before each line of `Opens` that the action runs, and at its end."""
    states: list[bytes] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith("fuse/opens.py"):
            return None
        if event == "line":
            states.append(path.read_bytes())
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return [*states, path.read_bytes()]


def _recovered(tmp_path: Path, state: bytes) -> Opens:
    path = tmp_path / "recovered"
    path.write_bytes(state)
    return Opens(path, FILES)


@pytest.mark.parametrize("step", [1, -1])
def test_killed_at_any_step_a_request_counts_once(tmp_path: Path, opens: Opens, path: Path, step: int) -> None:
    """Whenever the process ends while it counts, the same request sent again makes the count right."""
    for unique in (2, 4):
        opens.count(unique, 3, 1)
    opens.count(6, 2, 1)
    states = _states(path, lambda: opens.count(8, 3, step))
    counts = []
    for state in states:
        next_server = _recovered(tmp_path, state)
        next_server.count(8 | RESENT, 3, step)
        next_server.count(8 | RESENT, 3, step)
        counts.append((next_server.cached(3), next_server.cached(2)))
        next_server.close()

    assert len(states) > 5
    assert {(2 + step, 1)} == set(counts)


def test_answered_requests_are_not_taken_for_new_ones(tmp_path: Path, opens: Opens, path: Path) -> None:
    """A kill after the answer: what the next server counts is right at every step of it."""
    opens.count(2, 0, 1)
    for state in _states(path, lambda: opens.count(4, 1, 1)):
        next_server = _recovered(tmp_path, state)
        next_server.count(4 | RESENT, 1, 1)
        next_server.count(6, 0, -1)
        seen = (next_server.cached(0), next_server.cached(1))
        next_server.close()

        assert (0, 1) == seen


def test_resent_request_that_was_not_counted(opens: Opens) -> None:
    """A request that came again and was never counted is counted."""
    opens.count(2, 0, 1)
    opens.count(4 | RESENT, 0, 1)
    applied = (opens.is_applied(4 | RESENT), opens.is_applied(2 | RESENT), opens.is_applied(4))

    assert 2 == opens.cached(0)
    assert (True, False, False) == applied


def test_unknown_mount_is_read_through_the_cache(path: Path) -> None:
    """Without the file nobody knows what is open: every file counts as open, until a new mount begins."""
    opens = Opens(path, FILES)
    before = [opens.cached(file) for file in range(FILES)]
    opens.begin()
    after = [opens.cached(file) for file in range(FILES)]
    opens.close()

    assert ([1] * FILES, [0] * FILES) == (before, after)


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"mcsiopn1" + bytes(500)])
def test_file_of_something_else_is_begun_anew(path: Path, content: bytes) -> None:
    """A file that is not that of this view, or was cut, says nothing."""
    path.write_bytes(content)
    opens = Opens(path, FILES)
    seen = (opens.cached(0), opens.backing(0, 0), opens.is_applied(RESENT))
    opens.close()

    assert (1, 0, False) == seen


def test_backing_file_is_of_an_epoch(opens: Opens, path: Path) -> None:
    """An id is remembered across servers, and not used for bytes that began again."""
    first = opens.keep_backing(1, 7, 0)
    second = Opens(path, FILES)
    seen = (second.backing(1, 0), second.backing(1, 1), second.backing_count)
    replaced = second.keep_backing(1, 9, 1)
    then = (second.backing(1, 0), second.backing(1, 1), second.backing_count)
    second.close()

    assert (0, 7) == (first, replaced)
    assert ((7, 0, 1), (0, 9, 1)) == (seen, then)


def test_last_one_to_come_is_the_owner(opens: Opens, path: Path) -> None:
    """A server that was replaced while it was stopped changes nothing any more."""
    other = Opens(path, FILES)
    with pytest.raises(Superseded):
        opens.count(2, 0, 1)
    seen = (opens.is_mine(), other.is_mine(), other.cached(0))
    other.close()

    assert (False, True, 0) == seen


def test_count_does_not_fall_below_nothing(opens: Opens) -> None:
    """A close that was never counted as an open is harmless."""
    opens.count(2, 0, -1)

    assert 0 == opens.cached(0)


def test_epochs_that_the_kernel_forgot(opens: Opens, path: Path) -> None:
    """What the kernel was told is known to the next server."""
    opens.settle(4, 3)
    other = Opens(path, FILES)
    seen = [other.settled(file) for file in range(FILES)]
    other.close()

    assert [0, 0, 0, 0, 3] == seen
