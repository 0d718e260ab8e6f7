"""The answers that a transfer reads at the moment, so that ending it wakes every thread that waits for bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modelcsi.errors import RegistryUnavailable
from modelcsi.registry.blob import Stream

MAX_PAUSE_SECONDS = 30.0
_MAX_RETRY_AFTER_SECONDS = 120.0
"""What a registry may ask for; more would keep newer credentials, and its own recovery, unnoticed."""


class Stopped(Exception):
    """Nobody wants the transfer any more."""


class OpenStreams:
    """Of one transfer; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Under the lock: receivers that wait for an answer, open streams, whether it is over.
        self._asking: set[threading.Thread] = set()
        self._streams: list[Stream] = []
        self._is_over = False

    @contextmanager
    def opened(self, ask: Callable[[], Stream]) -> Iterator[Stream]:
        """The stream that `ask` gives, closed at the end or by `abandon`."""
        me = threading.current_thread()
        with self._lock:
            if self._is_over:
                raise Stopped
            self._asking.add(me)
        stream: Stream | None = None
        try:
            stream = ask()
        finally:
            with self._lock:
                self._asking.discard(me)
                is_over = self._is_over
                if stream is not None:
                    self._streams.append(stream)
        with stream:
            if is_over:
                raise Stopped
            try:
                yield stream
            finally:
                with self._lock:
                    self._streams.remove(stream)

    def abandon(self) -> set[threading.Thread]:
        """Wake the receivers that wait for bytes which may never come; else they would keep the claim on the blob.

        The answer are those that wait for the head of an answer: nothing of the blob is in their hands, and the transport
        ends their wait.
        """
        with self._lock:
            self._is_over = True
            streams, asking = list(self._streams), set(self._asking)
        for stream in streams:
            stream.close()
        return asking


def pause_seconds(error: RegistryUnavailable, failures: int, most: float = MAX_PAUSE_SECONDS) -> float:
    """How long to wait before the next attempt: at once after progress, then doubling, or as long as the registry asked for."""
    pause: float = min(0.05 * 4 ** min(failures - 1, 8), most)  # bounded twice: floats end at 4 ** 512
    if error.retry_after_seconds is not None:
        pause = max(pause, min(error.retry_after_seconds, _MAX_RETRY_AFTER_SECONDS))
    return pause


class Either(threading.Event):
    """Set when one of two events is; waiting looks at the first one at least twice a second."""

    def __init__(self, outer: threading.Event, inner: threading.Event) -> None:
        super().__init__()
        self._outer = outer
        self._inner = inner

    def is_set(self) -> bool:
        """Whether one of them is."""
        return self._outer.is_set() or self._inner.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether one of them is, soon."""
        return self._inner.wait(timeout) or self._outer.is_set()


def start_thread(name: str, work: Callable[[], object], failed: Callable[[BaseException], None]) -> threading.Thread:
    """A thread of a transfer, which is told what ends it."""

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a thread's main: the error is raised again by `run`
            failed(error)

    thread = threading.Thread(target=guarded, name=f"pull-{name}", daemon=True)
    thread.start()
    return thread
