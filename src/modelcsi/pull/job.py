"""One download, shared by everybody who wants the same files of the same artifact from the same repository.

The job runs in threads of its own and outlives the calls that wait for it. It stops when its last owner has gone; what was
verified stays, and what was half received is resumed by the next job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from modelcsi.artifact.image_tree import reading_of, settled
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.members import Member
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import FileTree, build_tree, wanted_layers
from modelcsi.errors import FinalError, ModelCsiError, PullPending, TransientError
from modelcsi.oci.digest import Digest
from modelcsi.pull.layers import LayerPuller, LayerWork
from modelcsi.pull.progress import LayerLog, Progress
from modelcsi.pull.queue import JobQueue
from modelcsi.pull.resolve import Resolved
from modelcsi.pull.sources import Sources
from modelcsi.pull.transfer import Stopped
from modelcsi.registry.client import Repository
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
        self._stop = threading.Event()
        self._changed = threading.Condition()
        # Under the condition's lock:
        self._owners: set[str] = set()
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
            while not self._is_finished:
                refusal = self._sources.error_of(repository)
                if refusal is not None:
                    raise refusal
                if self._stop.is_set() or is_over():
                    raise self.pending()
                self._changed.wait(min(timeout(), threading.TIMEOUT_MAX))
            if self._error is not None:
                raise self._error
            assert self._path is not None, "a job without an error has a view"
            return self._path

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

    def _pull_in_turns(self) -> Path:
        """Several, if the registry gives nothing while others wait; what was received stays."""
        progress, recalls = self.progress, 0
        while True:
            with self._queue.turn(
                lambda: progress.remaining_bytes, self._stop, progress.idle_seconds, recalls
            ) as recalled:
                try:
                    return self._pull(_Either(self._stop, recalled))
                except Stopped:
                    if self._stop.is_set():
                        raise
            recalls += 1
            progress.begin_again()
            logger.info("pulling %s gave its turn to others, since nothing arrives", self.reference)

    def _pull(self, stop: threading.Event) -> Path:
        layers = sorted(self.layers, key=lambda layer: layer.size, reverse=True)
        need = sum(self._puller.need_bytes(layer, self.selection, self._sources.host) for layer in layers)
        reservation = self._store.space.reserve(need, str(self.reference))
        try:
            # An image's layers have nothing of their own to say, however often they are named.
            tars = [layer.digest for layer in self.artifact.layers if layer.codec.is_tar and not layer.is_image]
            uses = Counter(tars)
            shared = frozenset(digest for digest, count in uses.items() if count > 1)
            work = LayerWork(self.selection, shared, self._sources, self.progress, reservation, stop)
            self._pull_layers(layers, work)
            selection = self._settle(layers, work) if self.artifact.overlay else self.selection
        finally:
            reservation.close()
        tree = build_tree(self.artifact, self._members(selection), selection)
        for warning in (*self.artifact.warnings, *tree.warnings):
            logger.warning("%s: %s", self.reference, warning)
        return self._build_view(self._layout.arrange(tree, self.artifact.digest))

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
            found = self._store.content.members(layer.digest, reading_of(layer, selection))
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
        """Several layers at a time; the first error ends all of them."""
        waiting, errors = deque(layers), list[Exception]()
        failed = threading.Event()
        inner = replace(work, stop=_Either(work.stop, failed))

        def pull_some() -> None:
            while not errors and not work.stop.is_set():
                try:
                    layer = waiting.popleft()
                except IndexError:
                    return
                began, error = time.monotonic(), None
                self.layer_log.begin(layer)
                try:
                    self._puller.pull(layer, inner)
                    self.layer_log.end(layer)
                except Exception as raised:  # noqa: BLE001 - a thread's main: raised again below
                    error = raised
                    errors.append(raised)
                    failed.set()
                self._layer_finished(layer.size, time.monotonic() - began, error)

        count = min(self._queue.layers_at_once(), len(layers))
        threads = [threading.Thread(target=pull_some, name="pull-layer", daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if work.stop.is_set():
            raise Stopped
        if errors:
            raise next((error for error in errors if isinstance(error, FinalError)), errors[0])


class _Either(threading.Event):
    """Set when one of two events is; waiting looks at the first one at least twice a second."""

    def __init__(self, outer: threading.Event, inner: threading.Event) -> None:
        super().__init__()
        self._outer = outer
        self._inner = inner

    def is_set(self) -> bool:
        return self._outer.is_set() or self._inner.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._inner.wait(timeout) or self._outer.is_set()
