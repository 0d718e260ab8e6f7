"""Pods that are deleted while their publish waits."""

from __future__ import annotations

import threading

from modelcsi.deadline import Deadline
from modelcsi.pull.patience import Patience
from modelcsi.registry.caller import Pod
from modelcsi.volume.departures import Departures

_POD = Pod("team", "chat", "uid-1", "default")
_OTHER = Pod("team", "search", "uid-2", "default")


class _Pods:
    """Knows which pods are gone; counts the questions."""

    def __init__(self) -> None:
        self.gone: set[Pod] = set()
        self.asked = threading.Semaphore(0)
        self.trouble: Exception | None = None

    def is_gone(self, pod: Pod) -> bool:
        self.asked.release()
        if self.trouble is not None:
            raise self.trouble
        return pod in self.gone


def test_the_publish_of_a_deleted_pod_is_interrupted() -> None:
    """The one whose pod is gone leaves, the other one waits on."""
    pods = _Pods()
    departures = Departures(pods, ask_seconds=0.01)
    leaving, staying = Patience(Deadline.after(60)), Patience(Deadline.after(60))
    woken = threading.Event()
    leaving.attach(woken.set)
    with departures.watching(_POD, leaving), departures.watching(_OTHER, staying):
        assert pods.asked.acquire(timeout=10)
        pods.gone.add(_POD)

        assert woken.wait(10)
        assert not staying.is_over()


def test_a_question_that_fails_is_asked_again() -> None:
    """Whatever went wrong: a watch that ended would leave all later pods waiting."""
    pods = _Pods()
    pods.trouble = TimeoutError("no answer")
    departures, patience, woken = Departures(pods, ask_seconds=0.01), Patience(Deadline.after(60)), threading.Event()
    patience.attach(woken.set)
    with departures.watching(_POD, patience):
        assert pods.asked.acquire(timeout=10)
        pods.gone, pods.trouble = {_POD}, None

        assert woken.wait(10)


def test_nobody_is_asked_for_a_publish_that_is_quick() -> None:
    """Most publishes end before the first question."""
    pods = _Pods()
    departures = Departures(pods, ask_seconds=60)
    with departures.watching(_POD, Patience(Deadline.after(60))):
        pass

    assert not pods.asked.acquire(blocking=False)


def test_without_an_api_server_everybody_waits() -> None:
    """Where nobody knows about pods, nobody is interrupted."""
    patience = Patience(Deadline.after(60))
    with Departures(None).watching(_POD, patience):
        pass

    assert not patience.is_over()
