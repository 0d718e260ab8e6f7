from __future__ import annotations

import threading

import pytest

from modelcsi.pull.queue import JobQueue
from modelcsi.pull.transfer import Stopped
from tests.unit.pull.conftest import wait_until

SMALL, BIG = 1 << 20, 1 << 30


class Job:
    """Takes a turn and holds it until told."""

    def __init__(self, queue: JobQueue, remaining: int, *, is_stopping: bool = False) -> None:
        self.remaining = remaining
        self.has_turn = threading.Event()
        self.stop = threading.Event()
        if is_stopping:
            self.stop.set()
        self.is_stopped = False
        self.end = threading.Event()
        self._queue = queue
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self._queue.turn(lambda: self.remaining, self.stop):
                self.has_turn.set()
                self.end.wait(10)
        except Stopped:
            self.is_stopped = True

    def finish(self) -> None:
        self.end.set()
        self.thread.join(10)


def test_small_jobs_pass_big_ones() -> None:
    """Big jobs that hold every turn of theirs for hours do not keep a small one waiting."""
    queue = JobQueue(1, lambda: 4)
    big = Job(queue, BIG)
    assert big.has_turn.wait(5)
    waiting, small = Job(queue, BIG), Job(queue, SMALL)

    assert (True, False) == (small.has_turn.wait(5), waiting.has_turn.is_set())
    for job in (small, big, waiting):
        job.finish()


def test_the_smallest_remainder_is_next() -> None:
    """In each class; whoever came first."""
    queue = JobQueue(1, lambda: 4)
    running = Job(queue, BIG)
    assert running.has_turn.wait(5)
    jobs = [Job(queue, BIG * factor) for factor in (3, 1, 2)]
    wait_until(lambda: len(queue._waiting) == 3)
    order: list[Job] = []
    running.finish()
    while len(order) < 3:
        wait_until(lambda: any(job.has_turn.is_set() and job not in order for job in jobs))
        order.append(next(job for job in jobs if job.has_turn.is_set() and job not in order))
        order[-1].finish()

    assert [BIG, 2 * BIG, 3 * BIG] == [job.remaining for job in order]


def test_two_turns_that_end_together_are_both_taken() -> None:
    """Nobody waits half a second beside a free turn."""
    queue = JobQueue(2, lambda: 4)
    running = [Job(queue, BIG) for _ in range(2)]
    assert all(job.has_turn.wait(5) for job in running)
    waiting = [Job(queue, BIG * factor) for factor in (2, 1)]
    wait_until(lambda: len(queue._waiting) == 2)
    for job in running:
        job.end.set()

    assert all(job.has_turn.wait(0.4) for job in waiting)
    for job in (*running, *waiting):
        job.finish()


def test_a_stopped_job_gives_up_its_place() -> None:
    """And takes nobody's turn."""
    queue = JobQueue(1, lambda: 4)
    running = Job(queue, BIG)
    assert running.has_turn.wait(5)
    stopped = Job(queue, BIG, is_stopping=True)
    stopped.thread.join(10)
    running.finish()
    last = Job(queue, 2 * BIG)

    assert (True, True) == (stopped.is_stopped, last.has_turn.wait(5))
    last.finish()


def test_a_failed_job_gives_its_turn_back() -> None:
    """Whatever happened in it."""
    queue, never = JobQueue(1, lambda: 4), threading.Event()
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"), queue.turn(lambda: BIG, never):
            raise ValueError("broken")
