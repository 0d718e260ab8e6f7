"""How long a caller waits, and what makes it leave before its time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from modelcsi.deadline import Deadline
from modelcsi.errors import PullPending

_Result = TypeVar("_Result")


class Patience:
    """A caller waits until its deadline, or until it is interrupted."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._is_interrupted = False
        self._nudge: Callable[[], None] = lambda: None

    def interrupt(self) -> None:
        """Make the caller leave now; the job goes on while somebody wants it. Any thread."""
        self._is_interrupted = True
        self._nudge()

    def is_over(self) -> bool:
        """Whether the caller leaves."""
        return self._is_interrupted or self.deadline.is_over()

    def attach(self, nudge: Callable[[], None]) -> None:
        """What wakes the caller where it waits now."""
        self._nudge = nudge

    def wait_for(self, work: Callable[[], _Result], what: str) -> _Result:
        """The result of `work`, which has no other way to be interrupted than to be left to itself.

        `work` ends by a deadline of its own. Raises PullPending naming `what` when the caller leaves.
        """
        future: Future[_Result] = Future()
        looked = threading.Event()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - a thread's main: raised again by `result`
                future.set_exception(error)
            looked.set()

        self.attach(looked.set)
        threading.Thread(target=run, name="pull-ask", daemon=True).start()
        if not self._is_interrupted:
            looked.wait(self.deadline.remaining_seconds() if self.deadline != Deadline.never() else None)
        if not future.done():
            raise PullPending(f"{what}: the registry has not answered yet")
        return future.result()
