"""Who waits for which bytes of a job whose files are read while they arrive, and who is told how far its layers are.

A want outlives the attempts to bring its layer: it is answered by whichever of them has the bytes, or by the job's end. Of a
layer that cannot be read while it arrives, a want is answered when the layer is complete.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from modelcsi.artifact.layer import Layer
from modelcsi.errors import FinalError
from modelcsi.oci.digest import Digest
from modelcsi.pull.order import Urgency

Done = Callable[[Exception | None], None]
"""Told once, by any thread: None when the bytes may be read, else why they will not come."""


class FillObserver(Protocol):
    """Who is told how far the layers of a job are. Called by the job's threads, one call at a time: it must not block."""

    def layer_opened(self, layer: Digest) -> None:
        """Its ingest may be read where it is marked: this job's repository has shown that it holds the blob. The index of a
        tar is fixed.
        """

    def layer_complete(self, layer: Digest) -> None:
        """It is committed, and proven for this job's repository."""

    def layer_restarted(self, layer: Digest, error: Exception) -> None:
        """What is here of it is wrong, whether it was opened by this job or not; told before its ingest is removed. It may be
        opened again.
        """

    def layer_failed(self, layer: Digest, error: FinalError) -> None:
        """It cannot be had, by this job; others still come."""

    def filled(self, error: Exception | None) -> None:
        """The job has ended; nothing follows."""


class _Nobody:
    """An observer for those who only want the tree early."""

    def layer_opened(self, layer: Digest) -> None:
        """Nobody is told."""

    def layer_complete(self, layer: Digest) -> None:
        """Nobody is told."""

    def layer_restarted(self, layer: Digest, error: Exception) -> None:
        """Nobody is told."""

    def layer_failed(self, layer: Digest, error: FinalError) -> None:
        """Nobody is told."""

    def filled(self, error: Exception | None) -> None:
        """Nobody is told."""


NOBODY: FillObserver = _Nobody()


class Feed(Protocol):
    """What brings an open layer, in the order in which its bytes are wanted. Its methods do not block."""

    def is_here(self, start: int, end: int) -> bool:
        """Whether the bytes may be read now."""

    def demand(self, start: int, end: int) -> Callable[[], None]:
        """Bring these first: somebody waits. Returns what takes it back."""

    def hint(self, start: int, end: int) -> None:
        """Bring these next: somebody will want them soon."""


class _State(enum.Enum):
    WAITING = enum.auto()
    OPEN = enum.auto()
    COMPLETE = enum.auto()
    FAILED = enum.auto()


_ENDED = frozenset({_State.COMPLETE, _State.FAILED})


@dataclass(eq=False, slots=True)
class Want:
    """Bytes of a layer that somebody waits for."""

    start: int
    end: int
    _done: Done
    _layer: _LayerDemands
    _lock: threading.Lock
    take_back: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        """Nobody waits any more; `done` is not called from now on, unless that is under way."""
        with self._lock:
            self._layer.wants.pop(self, None)
            take_back = self.take_back
        take_back()

    def answer(self, error: Exception | None) -> None:
        """For `Demands`, which took it off its list."""
        self._done(error)


@dataclass(slots=True)
class _LayerDemands:
    """Under the lock of `Demands`."""

    layer: Layer
    state: _State = _State.WAITING
    is_shown: bool = False
    """Whether this job's repository has shown that it holds the blob: only then may what is there be read."""
    attempt: object = None
    """To bring the layer in a form that can be read while it arrives."""
    feed: Feed | None = None
    wants: dict[Want, None] = field(default_factory=dict)
    """In the order in which they came: a feed begins with who has waited longest."""
    error: Exception | None = None
    """Why it will not come."""


class Demands:
    """The wants of one job. `wanted` is called, without a lock held, for a layer that somebody wants and that is not open."""

    def __init__(self, layers: Iterable[Layer], wanted: Callable[[Layer], None]) -> None:
        self.urgency = Urgency()
        """Shared by the transfers of the job's blobs."""
        self._wanted = wanted
        self._telling = threading.RLock()
        """Held around each call of the observer: they come in the order of what they tell. Taken before the others."""
        self._lock = threading.Lock()
        # Under the lock: the layers; whether the job has ended and how; who is told, replaced as a whole.
        self._layers = {layer.digest: _LayerDemands(layer) for layer in layers}
        self._is_over = False
        self._error: Exception | None = None
        self._observers: tuple[FillObserver, ...] = ()

    @property
    def is_observed(self) -> bool:
        """Whether somebody reads while the bytes arrive."""
        return bool(self._observers)

    def is_anything_wanted(self) -> bool:
        """Whether somebody waits."""
        with self._lock:
            return any(layer.wants for layer in self._layers.values())

    def is_wanted(self, layer: Layer) -> bool:
        """Whether somebody waits for bytes of this layer."""
        with self._lock:
            return bool(self._layers[layer.digest].wants)

    def is_complete(self, layer: Layer) -> bool:
        """Whether the layer is here and proven."""
        with self._lock:
            return self._layers[layer.digest].state is _State.COMPLETE

    def observe(self, observer_of: Callable[[], FillObserver]) -> None:
        """Tell an observer from now on, unless it is told already: first of what is so already."""
        with self._telling:
            observer = observer_of()
            with self._lock:
                if observer in self._observers:
                    return
                self._observers += (observer,)
                layers = [(layer, found.state, found.is_shown, found.error) for layer, found in self._layers.items()]
                is_over, error = self._is_over, self._error
            for layer, state, is_shown, failure in layers:
                if state is _State.OPEN and is_shown:
                    observer.layer_opened(layer)
                elif state is _State.COMPLETE:
                    observer.layer_complete(layer)
                elif isinstance(failure, FinalError):
                    observer.layer_failed(layer, failure)
            if is_over:
                observer.filled(error)

    def want(self, layer: Digest, start: int, end: int, done: Done) -> Want:
        """See `PullJob.want`."""
        return self._want(layer, done, (start, end))

    def want_complete(self, layer: Digest, done: Done) -> Want:
        """See `PullJob.want_complete`."""
        return self._want(layer, done, None)

    def hint(self, layer: Digest, start: int, end: int) -> None:
        """See `PullJob.ahead`."""
        with self._lock:
            feed = self._layers[layer].feed
        if feed is not None:
            feed.hint(start, end)

    def attempt(self, layer: Layer) -> object:
        """The layer is about to arrive in a form that can be read: what `opened` wants to see."""
        token = object()
        with self._lock:
            self._layers[layer.digest].attempt = token
        return token

    def opened(self, layer: Layer, feed: Feed, attempt: object, *, is_shown: bool = True) -> None:
        """`feed` brings what is wanted, unless the attempt has ended; the layer's ingest may be read where it is marked, once it
        is shown that this job's repository holds the blob: `arrived` says so later.
        """
        with self._telling:
            with self._lock:
                found = self._layers[layer.digest]
                if found.attempt is not attempt:
                    return
                found.state, found.feed = _State.OPEN, feed
                found.is_shown = is_shown = is_shown or found.is_shown
                wants = list(found.wants)
            for observer in self._observers if is_shown else ():
                observer.layer_opened(layer.digest)
        for want in wants:
            self._serve(want, feed)
        self.look(layer)

    def arrived(self, layer: Layer) -> None:
        """Bytes have come from this job's repository, which shows that it holds the blob; then as `look`."""
        if not self._layers[layer.digest].is_shown:
            with self._telling:
                with self._lock:
                    found = self._layers[layer.digest]
                    is_news = found.state is _State.OPEN and not found.is_shown
                    found.is_shown = found.is_shown or is_news
                for observer in self._observers if is_news else ():
                    observer.layer_opened(layer.digest)
        self.look(layer)

    def look(self, layer: Layer) -> None:
        """More bytes of an open layer are here: answer who waited for them."""
        with self._lock:
            found = self._layers[layer.digest]
            feed = found.feed
            if feed is None or not found.wants:
                return
            answered = [want for want in found.wants if feed.is_here(want.start, want.end)]
            for want in answered:
                del found.wants[want]
        _answer(answered, None)

    def ended(self, layer: Layer, *, is_whole: bool) -> None:
        """The attempt has ended. What came can still be read; if it is not all, it stays so until another attempt."""
        with self._lock:
            found = self._layers[layer.digest]
            found.attempt = None
            found.feed = found.feed if is_whole else None

    def restarted(self, layer: Layer, error: Exception) -> None:
        """What is here of the layer is wrong, and is about to be removed: also what a job before this one let be read."""
        with self._telling:
            with self._lock:
                found = self._layers[layer.digest]
                found.state, found.feed, found.is_shown = _State.WAITING, None, False
            for observer in self._observers:
                observer.layer_restarted(layer.digest, error)

    def complete(self, layer: Layer) -> None:
        """The layer is committed and proven."""
        with self._telling:
            with self._lock:
                found = self._layers[layer.digest]
                if found.state is _State.COMPLETE:
                    return
                found.state, found.feed = _State.COMPLETE, None
                wants = list(found.wants)
                found.wants.clear()
            for observer in self._observers:
                observer.layer_complete(layer.digest)
        _answer(wants, None)

    def failed(self, layer: Layer, error: FinalError) -> None:
        """The layer will not come."""
        with self._telling:
            with self._lock:
                found = self._layers[layer.digest]
                found.state, found.feed, found.error = _State.FAILED, None, error
                wants = list(found.wants)
                found.wants.clear()
            for observer in self._observers:
                observer.layer_failed(layer.digest, error)
        _answer(wants, error)

    def finish(self, error: Exception | None) -> None:
        """The job has ended."""
        with self._telling:
            with self._lock:
                self._is_over, self._error = True, error
                wants = [want for found in self._layers.values() for want in found.wants]
                for found in self._layers.values():
                    found.wants.clear()
                    found.feed = None
            for observer in self._observers:
                observer.filled(error)
        _answer(wants, error)

    def _want(self, layer: Digest, done: Done, span: tuple[int, int] | None) -> Want:
        with self._lock:
            found = self._layers[layer]
            size = found.layer.size
            # Only a complete layer has a byte behind its end.
            start, end = span or (size, size + 1)
            want = Want(start, end, done, found, self._lock)
            is_answered = found.state in _ENDED or self._is_over
            error = None if found.state is _State.COMPLETE else found.error or self._error
            if not is_answered:
                found.wants[want] = None
            feed = found.feed
        if is_answered:
            want.answer(error)
        elif feed is None:
            self._wanted(found.layer)
        else:
            self._serve(want, feed)
            self.look(found.layer)
        return want

    def _serve(self, want: Want, feed: Feed) -> None:
        take_back = feed.demand(want.start, want.end)
        with self._lock:
            want.take_back = take_back
            is_gone = want not in want._layer.wants  # noqa: SLF001 - a part of this class
        if is_gone:
            take_back()


def _answer(wants: list[Want], error: Exception | None) -> None:
    for want in wants:
        want.answer(error)
