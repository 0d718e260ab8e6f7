from __future__ import annotations

import pytest

from modelcsi.errors import RegistryUnavailable
from modelcsi.pull.progress import Progress, ProgressReport
from modelcsi.quantities import format_amounts, format_seconds, format_size

GIB = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_text_that_a_person_reads() -> None:
    """Percent, amounts in one unit, rate and the time that is left."""
    report = ProgressReport(int(12.3 * GIB), int(36.1 * GIB), 410 * (1 << 20), None)

    assert "34% (12.3/36.1 GiB, 410 MiB/s, ETA 59 s)" == str(report)


def test_nothing_arrives() -> None:
    """The end is unknown then."""
    assert "0% (0.0/1.0 GiB, 0 B/s, ETA unknown)" == str(ProgressReport(0, GIB, 0.0, None))


@pytest.mark.parametrize(("done", "total", "percent"), [(0, 0, 100), (999, 1000, 99), (1000, 1000, 100), (7, 3, 100)])
def test_percent_is_rounded_down(done: int, total: int, percent: int) -> None:
    """100 means all."""
    assert percent == ProgressReport(done, total, 0.0, None).percent


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (99.94 * 1024, "99.9 KiB"),
        (100 << 20, "100 MiB"),
        (1 << 60, "1048576 TiB"),
    ],
)
def test_sizes(size: float, text: str) -> None:
    """Three digits, binary units."""
    assert text == format_size(size)


def test_amounts_share_the_unit_of_the_whole() -> None:
    """So that a person sees the part at once."""
    assert ["0.0/2.0 GiB", "512/900 MiB"] == [format_amounts(1, 2 * GIB), format_amounts(512 << 20, 900 << 20)]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"), (12000, "3 h 20 min")]
)
def test_durations(seconds: float, text: str) -> None:
    """Two units at the most."""
    assert text == format_seconds(seconds)


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    """An hour at full speed does not hide that nothing comes now."""
    clock = Clock()
    progress = Progress(10**9, clock=clock)
    for _ in range(100):
        clock.now += 1
        progress.add(1000)
    fast = progress.report().rate
    clock.now += 5
    slowing = progress.report().rate
    clock.now += 60
    progress.report()

    assert (1000, 500, 0, None) == (round(fast), round(slowing), progress.report().rate, progress.report().eta_seconds)


def test_found_bytes_have_no_rate() -> None:
    """What was on the disk counts as done, not as downloaded."""
    clock = Clock()
    progress = Progress(100, clock=clock)
    clock.now += 1
    progress.add(60, is_downloaded=False)
    progress.add(30)

    assert (90, 30, 10) == (progress.report().done_bytes, progress.downloaded_bytes, progress.remaining_bytes)
    assert 30 == round(progress.report().rate)


def test_worthless_bytes_are_taken_back() -> None:
    """They were downloaded all the same."""
    progress = Progress(100)
    progress.add(40)
    progress.take_back(40)

    assert (0, 40, 100) == (progress.report().done_bytes, progress.downloaded_bytes, progress.remaining_bytes)


def test_trouble_ends_with_the_next_byte() -> None:
    """A person is told why nothing arrives, while nothing arrives."""
    progress, error = Progress(100), RegistryUnavailable("down")
    progress.failed(error)
    before = progress.report().trouble
    progress.add(1)

    assert (error, None) == (before, progress.report().trouble)
