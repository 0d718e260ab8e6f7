"""The last publishes that failed, for `modelcsi status`: what a person looks for first when a pod does not start."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from modelcsi.errors import ModelCsiError, OperationPending, PullPending
from modelcsi.registry.caller import Pod

_KEPT = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """One publication whose last attempt failed; times are Unix seconds."""

    reference: str
    pod: str
    target: str
    error: str
    kind: str
    first_at: float
    last_at: float
    attempts: int


class Failures:
    """Remembered in memory, the last twenty publications; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _failures
        self._failures: OrderedDict[str, Failure] = OrderedDict()

    def failed(self, target: str, pod: Pod | None, reference: str, error: ModelCsiError) -> None:
        """An attempt failed; one that only has to wait did not."""
        if isinstance(error, PullPending | OperationPending):
            return
        now = time.time()
        with self._lock:
            before = self._failures.pop(target, None)
            self._failures[target] = Failure(
                *(reference, str(pod or ""), target, str(error), type(error).__name__),
                first_at=before.first_at if before else now,
                last_at=now,
                attempts=before.attempts + 1 if before else 1,
            )
            while len(self._failures) > _KEPT:
                self._failures.popitem(last=False)

    def mended(self, target: str) -> None:
        """What is at the target is as it should be: mounted, or gone."""
        with self._lock:
            self._failures.pop(target, None)

    def list(self) -> list[Failure]:
        """The latest last."""
        with self._lock:
            return [*self._failures.values()]
