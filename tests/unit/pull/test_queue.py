from __future__ import annotations

import threading

import pytest

from modelcsi.pull.queue import JobQueue
from modelcsi.pull.streams import Stopped
from tests.unit.pull.conftest import wait_until

SMALL, BIG = 1 << 20, 1 << 30


class Job:
    """Takes a turn and holds it until told."""

    def __init__(self, queue: JobQueue, remaining: int, *, is_stopping: bool = False, idle: float = 0.0) -> None:
        self.remaining = remaining
        self.idle = idle
        self.recalls = 0
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
            while not self.end.is_set():
                with self._queue.turn(lambda: self.remaining, self.stop, lambda: self.idle, self.recalls) as recalled:
                    self.has_turn.set()
                    while not (self.end.wait(0.02) or recalled.is_set()):
                        pass
                self.recalls += 1
        except Stopped:
            self.is_stopped = True

    def finish(self) -> None:
        self.end.set()
        self.stop.set()
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


def test_the_turns_of_a_dead_registry_go_to_who_waits() -> None:
    """However many of its models are wanted, each smaller than that of another registry; and they do not come before it again."""
    queue = JobQueue(1, lambda: 4)
    queue.idle_after_seconds = 0.1
    dead = [Job(queue, SMALL, idle=1e9) for _ in range(8)]
    wait_until(lambda: sum(job.has_turn.is_set() for job in dead) >= 6)
    other = Job(queue, 2 * SMALL)
    wait_until(other.has_turn.is_set)

    assert any(job.recalls for job in dead)
    for job in (other, *dead):
        job.finish()


def test_who_gets_something_keeps_its_turn() -> None:
    """A recall is for those alone who get nothing."""
    queue = JobQueue(1, lambda: 4)
    queue.idle_after_seconds = 0.1
    moving = Job(queue, BIG)
    assert moving.has_turn.wait(5)
    dead = [Job(queue, SMALL, idle=1e9) for _ in range(8)]
    wait_until(lambda: any(job.recalls for job in dead))

    assert 0 == moving.recalls
    for job in (moving, *dead):
        job.finish()
