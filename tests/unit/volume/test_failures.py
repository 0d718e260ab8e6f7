"""The last failures, as `modelcsi status` shows them."""

from __future__ import annotations

from modelcsi.errors import NotFound, PullPending, StoreFull
from modelcsi.registry.caller import Pod
from modelcsi.volume.failures import Failures

_POD = Pod("team", "chat", "uid", "default")


def test_attempts_of_one_target_are_one_failure() -> None:
    """kubelet tries again and again: the last error counts, and how often it was tried."""
    failures = Failures()
    failures.failed("/t", _POD, "r/m:v1", NotFound("no tag", hint="check it"))
    failures.failed("/t", _POD, "r/m:v1", StoreFull("no space"))
    (failure,) = failures.list()

    assert ("team/chat", "no space", "StoreFull", 2) == (failure.pod, failure.error, failure.kind, failure.attempts)


def test_waiting_is_no_failure() -> None:
    """A pull that goes on is not listed."""
    failures = Failures()
    failures.failed("/t", _POD, "r/m:v1", PullPending("34%"))

    assert [] == failures.list()


def test_what_is_mended_is_forgotten() -> None:
    """A mounted volume has no failure any more."""
    failures = Failures()
    failures.failed("/t", None, "r/m:v1", NotFound("no tag"))
    failures.mended("/t")

    assert [] == failures.list()


def test_the_oldest_makes_place() -> None:
    """A node whose every pod fails does not fill the memory."""
    failures = Failures()
    for index in range(30):
        failures.failed(f"/t{index}", None, "r/m:v1", NotFound("no tag"))

    assert [f"/t{index}" for index in range(10, 30)] == [failure.target for failure in failures.list()]
