"""What pods are told while they wait, and how often."""

from __future__ import annotations

import pytest

from modelcsi.errors import NotFound
from modelcsi.oci.digest import Digest
from modelcsi.pull.progress import Progress
from modelcsi.registry.caller import Pod
from modelcsi.volume.announcements import Announcement, Announcements

_POD = Pod("team", "chat", "uid-1", "default")
_DIGEST = Digest.of(b"manifest")
_MIB = 1 << 20
_MODEL = "registry.example.com/models/tiny:v1"


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Heard:
    """An announcer that remembers."""

    def __init__(self) -> None:
        self.announcements: list[Announcement] = []

    def announce(self, pod: Pod, announcement: Announcement) -> None:
        assert _POD == pod
        self.announcements.append(announcement)

    @property
    def reasons(self) -> list[str]:
        return [announcement.reason for announcement in self.announcements]


class _Pull:
    """A pull whose time is the test's."""

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock
        self._began = clock.now
        self.progress = Progress(100 * _MIB, clock=clock)

    @property
    def seconds(self) -> float:
        return self._clock.now - self._began


@pytest.fixture
def clock() -> _Clock:
    """A clock that stands still."""
    return _Clock()


@pytest.fixture
def heard() -> _Heard:
    """What was announced."""
    return _Heard()


@pytest.fixture
def announcements(heard: _Heard, clock: _Clock) -> Announcements:
    """What is tested, at the test's time."""
    return Announcements(heard, clock=clock)


def test_a_cached_model_is_one_sentence(announcements: Announcements, heard: _Heard) -> None:
    """A pod whose model is here is told the full reference and the digest, once."""
    announcements.begins("a", _POD, _MODEL)
    announcements.mounted("a", _DIGEST)
    announcements.mounted("a", _DIGEST)

    assert [
        Announcement("Pulled", f"{_MODEL} ({_DIGEST}) is already on this node: nothing was downloaded")
    ] == heard.announcements


def test_a_pull_from_its_begin_to_its_end(announcements: Announcements, heard: _Heard, clock: _Clock) -> None:
    """Size and source at first; at the end the digest, bytes, duration and rate."""
    pull = _Pull(clock)
    announcements.begins("a", _POD, _MODEL)
    announcements.pulls("a", pull, "registry.example.com")
    pull.progress.add(100 * _MIB)
    clock.now += 4
    announcements.mounted("a", _DIGEST)

    assert [
        Announcement("Pulling", f"Pulling {_MODEL} (100 MiB) from registry.example.com"),
        Announcement(
            "Pulled", f"Pulled {_MODEL} ({_DIGEST}): 100 MiB, of which 100 MiB were downloaded, in 4 s (25.0 MiB/s)"
        ),
    ] == heard.announcements


def test_a_call_that_joins_the_same_pull_again_says_nothing_new(
    announcements: Announcements, heard: _Heard, clock: _Clock
) -> None:
    """kubelet's later attempts join the pull that the pod knows of."""
    pull = _Pull(clock)
    for _ in range(3):
        announcements.begins("a", _POD, _MODEL)
        announcements.pulls("a", pull, "registry.example.com")
    announcements.left("a")

    assert ["Pulling"] == heard.reasons


def test_progress_comes_after_ten_seconds_and_then_with_each_tenth(
    announcements: Announcements, heard: _Heard, clock: _Clock
) -> None:
    """Looked at every second for 200 s at 1 MiB/s: first at 10 s, then at tenths that are 30 s apart."""
    pull = _Pull(clock)
    announcements.begins("a", _POD, _MODEL)
    announcements.pulls("a", pull, "registry.example.com")
    said_at = []
    for second in range(1, 96):
        clock.now += 1
        pull.progress.add(_MIB)
        before = len(heard.announcements)
        announcements.look()
        said_at += [second] * (len(heard.announcements) - before)
    announcements.left("a")

    assert [10, 40, 70] == said_at
    assert f"Pulling {_MODEL}: 40% (40/100 MiB, 1.0 MiB/s, ETA 1 min 0 s)" == heard.announcements[2].message


def test_a_failure_is_said_once_until_it_changes(announcements: Announcements, heard: _Heard, clock: _Clock) -> None:
    """kubelet asks again and again; the same sentence with its hint comes once in ten minutes, another at once."""
    first, second = NotFound("there is no tag v1", hint="check the tag"), NotFound("there is no repository")
    for error in (first, first, second, second):
        announcements.begins("a", _POD, _MODEL)
        announcements.failed("a", _POD, _MODEL, error)
    clock.now += 601
    announcements.failed("a", _POD, _MODEL, second)

    assert [f"{_MODEL}: {error}" for error in (first, second, second)] == [
        announcement.message for announcement in heard.announcements
    ]
    assert all(announcement.is_warning for announcement in heard.announcements)


def test_without_a_pod_nobody_is_told(announcements: Announcements, heard: _Heard, clock: _Clock) -> None:
    """A caller that names no pod has nobody to tell."""
    announcements.begins("a", None, _MODEL)
    announcements.pulls("a", _Pull(clock), "registry.example.com")
    announcements.mounted("a", _DIGEST)
    announcements.failed("a", None, _MODEL, NotFound("no"))

    assert [] == heard.announcements
