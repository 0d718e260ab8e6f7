"""One lazy view: its job tells how far each layer is, servers ask for bytes of files, and this connects them.

A view outlives its jobs: one that ended by an error is followed by another (`volume/lazy.py`), and what servers want waits for
it. Nothing here waits; calls come from threads that pull and from the one that serves demands.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modelcsi.artifact.entries import EntryType
from modelcsi.errors import CorruptContent, FinalError, ModelCsiError, NotFound
from modelcsi.oci.digest import Digest
from modelcsi.pull.demands import FillObserver
from modelcsi.pull.demands import Want as PullWant
from modelcsi.pull.job import PullJob
from modelcsi.store.layout import LazyViewFiles
from modelcsi.view.fill import FileState, FillMap
from modelcsi.view.plan import ViewPlan
from modelcsi.view.wire import MAX_CHANGED_FILES, Ahead, Changed, ToServer, Want

logger = logging.getLogger(__name__)

Done = Callable[[Exception | None], None]
_MAYBE_READ = frozenset({FileState.ARRIVING, FileState.FAILED})


class FillNews(Protocol):
    """Who is told what becomes of a view's bytes; calls come from threads that pull, and must not wait."""

    def damaged(self, view: LazyView, error: Exception) -> None:
        """Bytes that pods may have read are not those of the artifact."""

    def failed(self, view: LazyView, error: FinalError) -> None:
        """Some of it cannot be had at present."""

    def ended(self, view: LazyView, error: Exception | None) -> None:
        """The job has ended; None: the view is complete."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """What a server waits for."""

    layer: Digest
    start: int
    end: int
    is_verified: bool
    done: Done
    want: PullWant | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Told:
    """Hears a job for a view: what an older job tells of its end is none of the view's, which another one fills by then."""

    view: LazyView
    job: PullJob

    def layer_opened(self, layer: Digest) -> None:
        self.view.layer_opened(layer)

    def layer_complete(self, layer: Digest) -> None:
        self.view.layer_complete(layer)

    def layer_restarted(self, layer: Digest, error: Exception) -> None:
        self.view.layer_restarted(layer, error)

    def layer_failed(self, layer: Digest, error: FinalError) -> None:
        self.view.layer_failed(layer, error)

    def filled(self, error: Exception | None) -> None:
        if self.view.job is self.job:
            self.view.filled(error)


class LazyView:
    """The bytes of one view, on their way."""

    def __init__(self, view: str, files: LazyViewFiles, news: FillNews, tell: Callable[[ToServer], None]) -> None:
        """`tell` reaches the servers."""
        self.view = view
        self.files = files
        self.mounting = threading.Lock()
        """Held while the view is mounted for the first time, or its last mount has gone."""
        self._news = news
        self._tell = tell
        self._lock = threading.Lock()
        # Under the lock: the plan once the tree is known, with the map of its files; the layers' states before and after; the job
        # that fills the view now; what servers wait for, in the order in which they came; what is wrong.
        self._plan: ViewPlan | None = None
        self._fill: FillMap | None = None
        self._files_of: dict[Digest, list[int]] = {}
        self._states: dict[Digest, FileState] = {}
        self._job: PullJob | None = None
        self._waiting: dict[_Waiting, None] = {}
        self._error: ModelCsiError | None = None
        self._damage: Exception | None = None
        self._was_read: set[Digest] = set()  # layers of which somebody may have unverified bytes
        self._is_closed = False

    # What the lazy volumes ask

    @property
    def plan(self) -> ViewPlan | None:
        """The tree; None until it is known."""
        return self._plan

    @property
    def trouble(self) -> Exception | None:
        """Why some of it cannot be read, or what was read was wrong; None while all is well."""
        with self._lock:
            return self._error or self._damage

    @property
    def job(self) -> PullJob | None:
        """What fills it now."""
        with self._lock:
            return self._job

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for bytes."""
        with self._lock:
            return bool(self._waiting)

    @property
    def is_complete(self) -> bool:
        """Whether every file is verified."""
        with self._lock:
            return self._plan is not None and all(
                self._states.get(layer) is FileState.COMPLETE for layer in self._files_of
            )

    def observe(self, job: PullJob) -> FillObserver:
        """From now on this job fills the view: it is told what servers wait for."""
        told = _Told(self, job)
        with self._lock:
            if self._job is job or self._is_closed:
                return told
            for layer in self._files_of if self._error is not None else ():  # what could not be had is asked for again
                if self._states.get(layer) is FileState.FAILED:
                    self._states[layer] = FileState.WAITING
                self._put(layer, self._states.get(layer, FileState.WAITING))
            self._job, self._error = job, None
            waiting = list(self._waiting)
        for item in waiting:
            self._begin(item, job)
        return told

    def complete(self) -> None:
        """All of it is here, by whatever job."""
        for layer in tuple(self._files_of):
            self.layer_complete(layer)
        self.filled(None)

    def show(self, plan: ViewPlan) -> None:
        """The tree is known: from here on servers may be told of its files. Raises OSError."""
        with self._lock:
            if self._plan is not None:
                return
            self._fill = FillMap(self.files.fill, len(plan.entries), is_writer=True)
            self._plan = plan
            for number, planned in enumerate(plan.entries):
                entry = planned.entry
                if entry.layer is not None:
                    self._files_of.setdefault(entry.layer, []).append(number)
                elif entry.type is EntryType.FILE:
                    self._fill.put(number, FileState.COMPLETE)
            for layer, files in self._files_of.items():
                self._recall(layer, {self._fill.state(number) for number in files})
                self._put(layer, self._states[layer])

    def close(self) -> None:
        """Nobody shows it any more; what servers still wait for ends."""
        gone = NotFound("the volume has gone")
        with self._lock:
            self._is_closed = True
            waiting, self._waiting, self._job = self._waiting, {}, None
            if self._fill is not None:
                self._fill.close()
                self._fill = None
        for item in waiting:
            self._end(item, gone)

    # What servers ask

    def want(self, want: Want, done: Done) -> Callable[[], None]:
        """See `Demands.want`. Raises ValueError for what is not a range of a file."""
        plan = self._plan
        if plan is None or want.file >= len(plan.entries) or want.end > plan.entries[want.file].entry.size:
            raise ValueError(f"no such range: {want}")
        planned = plan.entries[want.file]
        layer, offset = planned.entry.layer, planned.offset
        if layer is None:
            done(None)
            return _nothing
        is_verified = want.verified or offset is None
        item = _Waiting(layer, (offset or 0) + want.start, (offset or 0) + want.end, is_verified, done)
        with self._lock:
            state, error, job = self._states.get(layer), self._error, self._job
            is_over = state is FileState.FAILED or (job is None and error is not None)
            if state is not FileState.COMPLETE and not is_over:
                self._waiting[item] = None
        if state is FileState.COMPLETE or is_over:
            done(None if state is FileState.COMPLETE else error)
            return _nothing
        if job is not None:
            self._begin(item, job)
        return lambda: self._give_up(item)

    def ahead(self, ahead: Ahead) -> None:
        """See `Demands.ahead`."""
        plan, job = self._plan, self.job
        if plan is None or job is None or ahead.file >= len(plan.entries):
            return
        planned = plan.entries[ahead.file]
        end = min(ahead.end, planned.entry.size)
        if planned.entry.layer is not None and planned.offset is not None and ahead.start < end:
            job.ahead(planned.entry.layer, planned.offset + ahead.start, planned.offset + end)

    # What the job tells (pull.filling.FillObserver)

    def layer_opened(self, layer: Digest) -> None:
        """What arrives of it may be read."""
        with self._lock:
            if self._states.get(layer) is not FileState.COMPLETE:
                self._states[layer] = FileState.ARRIVING
                self._was_read.add(layer)
                self._put(layer, FileState.ARRIVING)

    def layer_complete(self, layer: Digest) -> None:
        """It is verified, and at its final place."""
        with self._lock:
            self._states[layer] = FileState.COMPLETE
            self._was_read.discard(layer)
            self._put(layer, FileState.COMPLETE)
            here = self._take(layer)
        for item in here:
            item.done(None)

    def layer_restarted(self, layer: Digest, error: Exception) -> None:
        """What arrived of it was wrong: nobody goes on with what he has of it."""
        if self._begin_again(layer, error):
            self._news.damaged(self, error)

    def dropping(self, directory: Path, ingest_of: Callable[[Digest, str], Path]) -> None:
        """An ingest is about to be thrown away, maybe by a job of others: what was read of it nobody will ever have verified."""
        plan = self._plan
        if plan is None:
            return
        with self._lock:
            layers = [layer for layer in self._was_read if ingest_of(layer, plan.host) == directory]
        for layer in layers:
            if self._begin_again(layer, None):
                logger.warning("%s: what had arrived of %s is thrown away by another pull", plan.reference, layer)

    def _begin_again(self, layer: Digest, damage: Exception | None) -> bool:
        """Returns whether anybody may have read what was there."""
        with self._lock:
            if self._states.get(layer) is not FileState.COMPLETE:
                self._states[layer] = FileState.WAITING
            if layer not in self._was_read:
                return False
            self._was_read.discard(layer)
            files = list(self._files_of.get(layer, ()))
            if self._fill is not None:
                for number in files:
                    self._fill.begin_again(number, FileState.WAITING)
            self._damage = damage or self._damage
        for start in range(0, len(files), MAX_CHANGED_FILES):
            self._tell(Changed(self.view, tuple(files[start : start + MAX_CHANGED_FILES])))
        return True

    def layer_failed(self, layer: Digest, error: FinalError) -> None:
        """It cannot be had: who waits for it is told, and it cannot be read until another job brings it."""
        with self._lock:
            self._states[layer], self._error = FileState.FAILED, error
            self._put(layer, FileState.FAILED)
            failed = self._take(layer)
        for item in failed:
            item.done(error)
        self._news.failed(self, error)

    def filled(self, error: Exception | None) -> None:
        """The job has ended. What is final makes what is not here unreadable; anything else is waited for."""
        with self._lock:
            self._job = None
            failed: dict[_Waiting, None] = {}
            if error is None:
                self._damage = None  # what was wrong was read again, and is right
            elif isinstance(error, FinalError) or not isinstance(error, ModelCsiError):
                self._error = error if isinstance(error, ModelCsiError) else CorruptContent(f"a defect: {error!r}")
                failed, self._waiting = self._waiting, {}
                for layer in self._files_of:
                    if self._states.get(layer) is not FileState.COMPLETE:
                        self._put(layer, FileState.FAILED)
        for item in failed:
            item.done(self._error)
        self._news.ended(self, error)

    def _recall(self, layer: Digest, states: set[FileState]) -> None:
        """How far a layer is, by what the last driver left in the map; the caller holds the lock.

        What could not be had is asked for again; it may have been read before that.
        """
        if states == {FileState.COMPLETE}:
            self._states.setdefault(layer, FileState.COMPLETE)
        elif FileState.ARRIVING in states:
            self._states.setdefault(layer, FileState.ARRIVING)
        if self._states.setdefault(layer, FileState.WAITING) is not FileState.COMPLETE and states & _MAYBE_READ:
            self._was_read.add(layer)

    def _put(self, layer: Digest, state: FileState) -> None:
        """In the map; the caller holds the lock."""
        if self._fill is None or self._plan is None:
            return
        for number in self._files_of.get(layer, ()):
            # Of a compressed tar nothing can be read before all of it.
            is_opaque = state is FileState.ARRIVING and self._plan.entries[number].offset is None
            self._fill.put(number, FileState.WAITING if is_opaque else state)

    def _take(self, layer: Digest) -> list[_Waiting]:
        """Who waits for the layer, and need not from now on; the caller holds the lock."""
        taken = [item for item in self._waiting if item.layer == layer]
        for item in taken:
            del self._waiting[item]
        return taken

    def _begin(self, item: _Waiting, job: PullJob) -> None:
        def done(error: Exception | None) -> None:
            self._answered(item, error)

        if item.is_verified:
            item.want = want = job.want_complete(item.layer, done)
        else:
            item.want = want = job.want(item.layer, item.start, item.end, done)
        with self._lock:
            is_given_up = item not in self._waiting
        if is_given_up:  # meanwhile: by who did not know this want yet
            want.cancel()

    def _answered(self, item: _Waiting, error: Exception | None) -> None:
        """A job that was stopped, or met what may pass, answers nobody: the next one is asked."""
        if error is not None and not isinstance(error, FinalError):
            return
        with self._lock:
            if item not in self._waiting:
                return
            del self._waiting[item]
        item.done(error)

    def _give_up(self, item: _Waiting) -> None:
        with self._lock:
            self._waiting.pop(item, None)
        if item.want is not None:
            item.want.cancel()

    def _end(self, item: _Waiting, error: Exception) -> None:
        if item.want is not None:
            item.want.cancel()
        item.done(error)


def _nothing() -> None:
    """What was answered cannot be given up."""


def row_of(
    view: LazyView,
    origin: Mapping[str, str] | None,
    targets: Mapping[str, str],
    is_served: bool,  # noqa: FBT001 - a field of the row
) -> dict[str, Any]:
    """What `modelcsi status` says of a view."""
    job, trouble = view.job, view.trouble
    return {
        "view": view.view,
        "reference": (origin or {}).get("reference", ""),
        "digest": (origin or {}).get("manifest", ""),
        "is_complete": view.is_complete,
        "is_served": is_served,
        "percent": None if job is None else job.progress.report().percent,
        "targets": sorted(target for target, shown in targets.items() if shown == view.view),
        "trouble": None if trouble is None else str(trouble),
    }
