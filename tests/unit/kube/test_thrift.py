from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from modelcsi.kube.client import Answer
from modelcsi.kube.thrift import Bucket, Once, Recent
from tests.unit.kube.conftest import Clock


def test_something_is_said_once_an_hour(clock: Clock) -> None:
    """The first who asks says it, each thing for itself."""
    once = Once(clock=clock)
    said = [once.is_due("a"), once.is_due("a"), once.is_due("b")]
    clock.advance(3600.0)

    assert [True, False, True, True] == [*said, once.is_due("a")]


def test_a_recent_answer_is_not_asked_for_again(clock: Clock) -> None:
    """Within its seconds an answer serves everybody, then it is asked for anew."""
    recent, asked = Recent(1.0, clock=clock), list[int]()

    def ask() -> Answer:
        asked.append(len(asked))
        return Answer(200 + len(asked))

    answers = [recent.answer("pod", ask), recent.answer("pod", ask), recent.answer("other", ask)]
    clock.advance(1.0)
    answers.append(recent.answer("pod", ask))

    assert [201, 201, 202, 203] == [answer.status for answer in answers]


def test_who_asks_meanwhile_waits_for_the_same_answer(clock: Clock) -> None:
    """Callers at the same time make one request."""
    recent, begun, may_end, asked = Recent(1.0, clock=clock), threading.Event(), threading.Event(), list[int]()

    def ask() -> Answer:
        asked.append(1)
        begun.set()
        assert may_end.wait(10)
        return Answer(200)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(recent.answer, "pod", ask)
        assert begun.wait(10)
        second = pool.submit(recent.answer, "pod", ask)
        may_end.set()

        assert [200, 200] == [first.result(10).status, second.result(10).status]
    assert [1] == asked


def test_a_bucket_gives_its_burst_and_then_its_pace() -> None:
    """Tokens come back with time, up to the burst."""
    bucket = Bucket(2, 0.5, now=0.0)
    taken = [bucket.take(0.0), bucket.take(0.0), bucket.take(0.0), bucket.take(1.9), bucket.take(2.0)]

    assert [True, True, False, False, True] == taken
    assert 2.0 == bucket.seconds_until_next(2.0)
    assert [True, True, False] == [bucket.take(100.0) for _ in range(3)]
