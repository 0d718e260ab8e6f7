"""Lets a pod go that is deleted while its publish waits.

kubelet neither cancels the call nor says that the pod is gone, and unpublishes only once the call has returned. So the pods of
those that wait are asked for, where somebody can be asked; the call of one that is gone returns at once.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Protocol

from modelcsi.pull.patience import Patience
from modelcsi.registry.caller import Pod

logger = logging.getLogger(__name__)

_ASK_SECONDS = 2.0
"""A guess: soon enough for a person, and one small question a pod for the API server."""


class PodWatch(Protocol):
    """Who knows about pods: the Kubernetes API."""

    def is_gone(self, pod: Pod) -> bool:
        """Whether the pod is being deleted, or is not there; False when nobody can tell."""


class Departures:
    """Interrupts those whose pod is gone; any thread."""

    def __init__(self, pods: PodWatch | None, *, ask_seconds: float = _ASK_SECONDS) -> None:
        self._pods = pods
        self._ask_seconds = ask_seconds
        self._changed = threading.Condition()
        # Under the condition's lock: who waits for whom.
        self._waiting: dict[Patience, Pod] = {}
        self._is_running = False

    @contextlib.contextmanager
    def watching(self, pod: Pod | None, patience: Patience) -> Iterator[None]:
        """While the caller waits, interrupt it once its pod is gone."""
        if self._pods is None or pod is None:
            yield
            return
        with self._changed:
            self._waiting[patience] = pod
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._watch, args=(self._pods,), name="departures", daemon=True).start()
        try:
            yield
        finally:
            with self._changed:
                del self._waiting[patience]
                self._changed.notify_all()

    def _watch(self, pods: PodWatch) -> None:
        while True:
            with self._changed:
                # A publish that is done in the meantime, as nearly all are, costs no question.
                self._changed.wait_for(lambda: not self._waiting, self._ask_seconds)
                if not self._waiting:
                    self._is_running = False
                    return
                waiting = list(self._waiting.items())
            for patience, pod in waiting:
                if _is_gone(pods, pod):
                    logger.info("the pod %s is being deleted: its publish waits no longer", pod)
                    patience.interrupt()


def _is_gone(pods: PodWatch, pod: Pod) -> bool:
    try:
        return pods.is_gone(pod)
    except Exception:  # a thread's main: the others who wait are asked for as well, and this one again
        logger.exception("the pod %s could not be asked for", pod)
        return False
