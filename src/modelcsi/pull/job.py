"""One download, shared by everybody who wants the same files of the same artifact from the same repository.

The job runs in threads of its own and outlives the calls that wait for it. It stops when its last owner has gone; what was
verified stays, and what was half received is resumed by the next job. With an observer its files are read while they arrive
(`pull/demands.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from modelcsi.artifact.image_tree import reading_of, settled
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.members import Member
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import FileTree, build_tree, wanted_layers
from modelcsi.errors import FinalError, ModelCsiError, PullPending, TransientError, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.pull.demands import Demands, Done, FillObserver, Want
from modelcsi.pull.filling import LayerWork, shared_tars
from modelcsi.pull.indexing import first_members
from modelcsi.pull.layerpool import LayerPool
from modelcsi.pull.layers import LayerPuller
from modelcsi.pull.progress import LayerLog, Progress
from modelcsi.pull.queue import JobQueue
from modelcsi.pull.resolve import Resolved
from modelcsi.pull.sources import Sources
from modelcsi.pull.streams import Either, Stopped
from modelcsi.pull.treeahead import TreeAhead, TreeKnown
from modelcsi.registry.client import Repository
from modelcsi.store.space import Reservation
from modelcsi.store.store import Store

logger = logging.getLogger(__name__)


LayerFinished = Callable[[int, float, Exception | None], None]
"""Told (bytes, seconds, error) of each layer."""


class PullJob:
    """`wait` until it is done; `join` and `leave` say who wants it."""

    def __init__(
        self, resolved: Resolved, store: Store, layers: LayerPuller, queue: JobQueue, layer_finished: LayerFinished
    ) -> None:
        wish = resolved.wish
        self.reference = wish.reference
        self.artifact = resolved.artifact
        self.selection = wish.selection
        self._layout = wish.layout
        self.layers = wanted_layers(resolved.artifact, wish.selection)
        self.view = wish.view_of(self.artifact.digest)
        self.progress = Progress(sum(layer.size for layer in self.layers))
        self.layer_log = LayerLog(len(self.layers))
        self.began_at = time.time()
        self._began = time.monotonic()
        self._store = store
        self._puller = layers
        self._queue = queue
        self._layer_finished = layer_finished
        self._sources = Sources(self.nudge)
        self._demands = Demands(self.layers, self._begin_now)
        self._shared = shared_tars(self.artifact)
        self._ahead = TreeAhead(self.artifact, self.layers, (wish.selection, wish.layout), self._shared)
        self._stop, self._has_room = threading.Event(), threading.Event()
        self._changed = threading.Condition()
        # Under the condition's lock:
        self._owners: set[str] = set()
        self._pool: LayerPool | None = None
        self._tree: TreeKnown | None = None
        self._is_finished = False
        self._error: Exception | None = None
        self._path: Path | None = None
        self._seconds = 0.0

    @staticmethod
    def key(resolved: Resolved) -> Hashable:
        """Jobs with equal keys are one job. The repository is part of it: another one must prove the blobs itself."""
        repository = resolved.repository
        return (resolved.wish.view_of(resolved.artifact.digest), repository.host, repository.name)

    def join(self, owner: str, repository: Repository) -> bool:
        """`owner` wants the job, and brings its proven credentials; False when it is too late, and a new job is needed."""
        with self._changed:
            if self._is_finished or self._stop.is_set():
                return False
            self._owners.add(owner)
        self._sources.add(repository)
        return True

    def leave(self, owner: str) -> None:
        """`owner` does not want it any more; with the last one the job stops."""
        with self._changed:
            self._owners.discard(owner)
            if not self._owners and not self._is_finished:
                self._stop.set()
                self._changed.notify_all()

    @property
    def error(self) -> Exception | None:
        """What ended it; None while it runs and when it succeeded."""
        with self._changed:
            return self._error

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        with self._changed:
            return self._seconds if self._is_finished else time.monotonic() - self._began

    @property
    def received(self) -> Mapping[str, int]:
        """Bytes by the host, of the registry or a mirror, that sent them so far."""
        return self._sources.received

    @property
    def owners(self) -> frozenset[str]:
        """Who wants it."""
        with self._changed:
            return frozenset(self._owners)

    def wait(self, is_over: Callable[[], bool], timeout: Callable[[], float], repository: Repository) -> Path:
        """The complete view.

        Raises what ended the job, or PullPending (or the last error while nothing arrives) when `is_over`; `nudge` makes
        waiters look again. `repository` is the source that the caller brought.
        """
        with self._changed:
            self._wait(lambda: self._is_finished, is_over, timeout, repository)
            assert self._path is not None, "a job without an error has a view"
            return self._path

    def wait_for_tree(
        self, is_over: Callable[[], bool], timeout: Callable[[], float], repository: Repository
    ) -> Path | TreeKnown:
        """The tree as soon as it is known, or the complete view; as `wait`."""
        with self._changed:
            self._wait(lambda: self._is_finished or self._tree is not None, is_over, timeout, repository)
            if self._path is not None:
                return self._path
            assert self._tree is not None, "waited for"
            return self._tree

    def observe(self, observer_of: Callable[[PullJob], FillObserver] | None) -> None:
        """Files are read while they arrive: tell an observer, and know the tree early.

        Layers that began before there was any observer are told of when they are complete. `observer_of` must not block.
        """
        if observer_of is not None:
            self._demands.observe(lambda: observer_of(self))
        with suppress(UnsupportedArtifact):  # the job will say so itself
            self._look_for_tree()

    def want(self, layer: Digest, start: int, end: int, done: Done) -> Want:
        """Bring these bytes of a layer's blob first; `done` is told when they may be read, or the job has ended.

        `done` is called once, by any thread, perhaps before this returns; it must not block. Of a layer that cannot be read
        while it arrives (compressed, undecided), as `want_complete`.
        """
        return self._demands.want(layer, start, end, done)

    def want_complete(self, layer: Digest, done: Done) -> Want:
        """The same for a whole layer, verified and committed."""
        return self._demands.want_complete(layer, done)

    def ahead(self, layer: Digest, start: int, end: int) -> None:
        """Somebody who reads on will want these bytes next. A hint: nobody is told."""
        self._demands.hint(layer, start, end)

    def stop(self) -> None:
        """Stop, whoever wants it."""
        self._stop.set()
        self.nudge()

    def join_thread(self, timeout_seconds: float) -> None:
        """Wait until it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_finished, min(timeout_seconds, threading.TIMEOUT_MAX))

    def nudge(self) -> None:
        """Make those who wait look whether they still want to."""
        with self._changed:
            self._changed.notify_all()

    def pending(self) -> TransientError:
        """What a caller who cannot wait longer is told."""
        report = self.progress.report()
        if report.trouble is not None:
            return type(report.trouble)(
                f"pulling {self.reference}: {report}: {report.trouble.message}", hint=report.trouble.hint
            )
        return PullPending(f"pulling {self.reference}: {report}")

    def run(self) -> None:
        """Do the work, in the calling thread; ends with an outcome for everybody who waits, whatever happens."""
        path: Path | None = None
        error: Exception | None = None
        try:
            path = self._pull_in_turns()
        except Stopped:
            error = PullPending(f"pulling {self.reference} was stopped: nobody waited for it any more")
        except Exception as raised:
            error = raised
            if not isinstance(raised, ModelCsiError):
                logger.exception("pulling %s failed", self.reference)
        with self._changed:
            self._is_finished, self._error, self._path = True, error, path
            self._seconds = time.monotonic() - self._began
            self._changed.notify_all()
        self._demands.finish(error)

    def _pull_in_turns(self) -> Path:
        if not self._demands.is_observed:
            self._has_room.set()  # or will have, once it has a turn
            return self._pull_in_turn(self._reserve)
        # Who was shown the tree must find room for it; and he is not asked to wait for a turn to see it.
        with self._reserve() as reservation, closing(self._ahead):
            self._has_room.set()
            self._learn_tree(self._work(reservation, self._stop))
            return self._pull_in_turn(lambda: nullcontext(reservation))

    def _pull_in_turn(self, reserve: Callable[[], AbstractContextManager[Reservation]]) -> Path:
        """Several, if the registry gives nothing while others wait; what was received stays."""
        progress, recalls, is_urgent = self.progress, 0, self._demands.is_anything_wanted
        while True:
            with self._queue.turn(
                lambda: progress.remaining_bytes, self._stop, progress.idle_seconds, recalls, is_urgent
            ) as recalled:
                try:
                    with reserve() as reservation:
                        tree = self._pull(self._work(reservation, Either(self._stop, recalled)))
                    return self._build_view(self._layout.arrange(tree, self.artifact.digest))
                except Stopped:
                    if self._stop.is_set():
                        raise
            recalls += 1
            progress.begin_again()
            logger.info("pulling %s gave its turn to others, since nothing arrives", self.reference)

    def _work(self, reservation: Reservation, stop: threading.Event) -> LayerWork:
        everywhere = (self.selection, self._shared, self._sources, self.progress)
        return LayerWork(*everywhere, reservation, stop, self._demands, self._ahead)

    def _learn_tree(self, work: LayerWork) -> None:
        """Tell which files there are before they are here, as far as that can be learned."""
        for layer in self.layers:
            if self._puller.is_ready(layer, work):
                self._demands.complete(layer)
        self._ahead.learn(
            self._demands.is_complete,
            lambda layer: self._puller.index(layer, work),
            lambda layer: first_members(layer, work.ranges(layer)),
        )
        self._look_for_tree()

    def _pull(self, work: LayerWork) -> FileTree:
        # The largest first, that they may end together; but who reads wants the small files that tell how to read the others.
        layers = sorted(self.layers, key=lambda layer: layer.size, reverse=not self._demands.is_observed)
        self._pull_layers(layers, work)
        selection = self._settle(layers, work) if self.artifact.overlay else self.selection
        tree = build_tree(self.artifact, self._members(selection), selection)
        for warning in (*self.artifact.warnings, *tree.warnings):
            logger.warning("%s: %s", self.reference, warning)
        return tree

    def _settle(self, layers: list[Layer], work: LayerWork) -> Selection:
        """Which directory of an image is shown: most layers are here for that, a second reading of some may be needed."""

        def read(selection: Selection) -> Mapping[Digest, Sequence[Member]]:
            missing = [layer for layer in layers if not self._puller.holds(layer, selection)]
            if missing:
                logger.info("reading %d layers of %s again, for %s", len(missing), self.reference, selection)
                self.progress.take_back(sum(layer.size for layer in missing))
                self._pull_layers(missing, replace(work, selection=selection))
            return self._members(selection)

        return settled(self.artifact.layers, self.selection, read)

    def _members(self, selection: Selection) -> dict[Digest, tuple[Member, ...]]:
        """Those of the layers that are kept as members; an undecided one need not be."""
        members: dict[Digest, tuple[Member, ...]] = {}
        for layer in filter(lambda layer: layer.codec.is_packed, self.layers):
            found = self._recorded(layer, selection)
            if found is not None:
                members[layer.digest] = found
            elif not layer.undecided:
                raise PullPending(f"pulling {self.reference}: {layer.where} is being unpacked in another form")
        return members

    def _build_view(self, tree: FileTree) -> Path:
        origin = {
            "manifest": str(self.artifact.digest),
            "reference": str(self.reference),
            "selection": self.selection.key(),
            "layout": self._layout.key,
            "size_bytes": str(tree.size_bytes),
            "files": str(len(tree.entries)),
        }
        with self._queue.views.hold(self.view, self._stop):
            return self._store.views.build(self.view, tree, origin)

    def _pull_layers(self, layers: list[Layer], work: LayerWork) -> None:
        """Several layers at a time; the first error ends all of them, but for those that somebody may be reading."""
        pool = LayerPool(layers, self._queue.layers_at_once(), work.stop, self._is_read)
        inner = replace(work, stop=Either(work.stop, pool.failed))
        with self._changed:
            self._pool = pool
        for layer in filter(self._demands.is_wanted, layers):
            pool.begin_now(layer)
        try:
            pool.run(lambda layer: self._pull_layer(layer, inner))
        finally:
            with self._changed:
                self._pool = None

    def _pull_layer(self, layer: Layer, work: LayerWork) -> None:
        began, error = time.monotonic(), None
        self.layer_log.begin(layer)
        try:
            self._puller.pull(layer, work)
            self.layer_log.end(layer)
            self._check(layer)
            self._demands.complete(layer)
            self._look_for_tree()
        except Exception as raised:
            error = raised
            if isinstance(error, FinalError) and self._is_read():
                self._demands.failed(layer, error)
            raise
        finally:
            self._layer_finished(layer.size, time.monotonic() - began, error)

    def _is_read(self) -> bool:
        """Whether files may be read that are not here yet."""
        with self._changed:
            return self._tree is not None and self._demands.is_observed

    def _reserve(self) -> closing[Reservation]:
        need = sum(self._puller.need_bytes(layer, self.selection, self._sources.host) for layer in self.layers)
        return closing(self._store.space.reserve(need, str(self.reference)))

    def _check(self, layer: Layer) -> None:
        """What was told of a layer before it was here must be so."""
        try:
            self._ahead.check(layer, self._recorded)
        except UnsupportedArtifact as error:
            self._demands.restarted(layer, error)
            raise

    def _begin_now(self, layer: Layer) -> None:
        """Somebody waits for bytes of a layer that is not open."""
        with self._changed:
            pool = self._pool
        if pool is not None:
            pool.begin_now(layer)
        self._queue.look_again()

    def _look_for_tree(self) -> None:
        """Know the tree as soon as it can be known, if somebody wants to read it before it is complete."""
        if self._tree is None and self._has_room.is_set() and self._demands.is_observed:
            tree = self._ahead.known(self._members_of)
            with self._changed:
                self._tree = tree
                self._changed.notify_all()

    def _members_of(self, layer: Layer) -> Sequence[Member] | None:
        """Of a layer that is here and proven."""
        if not self._demands.is_complete(layer):
            return None
        return self._recorded(layer) or ()

    def _recorded(self, layer: Layer, selection: Selection | None = None) -> tuple[Member, ...] | None:
        return self._store.content.members(layer.digest, reading_of(layer, selection or self.selection))

    def _wait(
        self,
        condition: Callable[[], bool],
        is_over: Callable[[], bool],
        timeout: Callable[[], float],
        repository: Repository,
    ) -> None:
        """With the lock held. Raises what `wait` raises."""
        while not condition():
            refusal = self._sources.error_of(repository)
            if refusal is not None:
                raise refusal
            if self._stop.is_set() or is_over():
                raise self.pending()
            self._changed.wait(min(timeout(), threading.TIMEOUT_MAX))
        if self._error is not None:
            raise self._error
