"""The use case: make an artifact's tree available on this node, once, for everybody who may have it.

resolve   what the reference means, and that the caller's own credentials may pull it
pull      the complete view: at once when all is here and proven for the caller's repository, else by joining or
          starting the one job; a caller who cannot wait leaves with PullPending and the job goes on
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from modelcsi.artifact.entries import FileTree
from modelcsi.artifact.image_tree import reading_of
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.tree import build_tree, wanted_layers
from modelcsi.deadline import Deadline
from modelcsi.errors import FinalError, Forbidden, ModelCsiError, NotFound, Unauthenticated
from modelcsi.oci.digest import Digest
from modelcsi.pull.demands import NOBODY, FillObserver
from modelcsi.pull.filling import is_told
from modelcsi.pull.job import PullJob
from modelcsi.pull.layers import LayerPuller
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.progress import ProgressReport
from modelcsi.pull.queue import JobQueue
from modelcsi.pull.resolve import Resolved, Resolver, Wish
from modelcsi.pull.window import MemoryBudget
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain
from modelcsi.store.records import ArtifactRecord
from modelcsi.store.store import Store

logger = logging.getLogger(__name__)


_View = TypeVar("_View")
_ObserverOf = Callable[[PullJob], FillObserver]
_Joined = Callable[[PullJob], None]

_RESOLVE_SECONDS = 115.0
"""As long as kubelet would wait for a publish; a manifest and a few tokens take seconds."""


class PullObserver(Protocol):
    """Who is told what jobs do (metrics, later events)."""

    def pull_started(self, job: PullJob) -> None:
        """A job began."""

    def pull_finished(self, job: PullJob, error: Exception | None) -> None:
        """A job ended; `error` is None when the view is complete."""

    def layer_finished(self, size_bytes: int, seconds: float, error: Exception | None) -> None:
        """A layer of any job was brought here, or found, or failed."""


@dataclass(frozen=True, slots=True)
class PulledView:
    """A complete tree."""

    view: str
    path: Path


@dataclass(frozen=True, slots=True)
class Filling:
    """A tree whose bytes are on their way: `job.want` tells when some of them may be read."""

    job: PullJob
    tree: FileTree
    """As the layout arranges it."""
    offsets: Mapping[tuple[Digest, int | None], int]
    """By layer and member (None: the whole blob is the file): where in the blob the file begins. Of a file that is not in here
    nothing can be read before its layer is complete.
    """
    waited_for: tuple[str, ...]
    """Why the tree was not known at once: a sentence for each layer that had to be here first."""


@dataclass(frozen=True, slots=True)
class PullStatus:
    """A running job, for people."""

    reference: str
    digest: str
    began_at: float
    progress: ProgressReport
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PullLimits:
    """How much is done at once."""

    jobs: int = 4
    layers_at_once: Callable[[], int] = lambda: 4
    memory_bytes: int = 64 << 20


class Puller:
    """One per store; `observer` may be set after construction."""

    def __init__(self, store: Store, registry: Registry, keychain: Keychain, limits: PullLimits) -> None:
        self.observer: PullObserver | None = None
        self._store = store
        self._resolver = Resolver(store, registry, keychain)
        self._layers = LayerPuller(store, MemoryBudget(limits.memory_bytes))
        self._queue = JobQueue(limits.jobs, limits.layers_at_once)
        self._lock = threading.Lock()
        # Under the lock: jobs that run; and those that ended with a final error which some owners were not told yet.
        self._jobs: dict[Hashable, PullJob] = {}
        self._failed: dict[Hashable, PullJob] = {}

    def use(self, registry: Registry, keychain: Keychain) -> None:
        """Use these from the next wish on; jobs that run keep what they have."""
        self._resolver.use(registry, keychain)

    def stop(self, patience: Deadline) -> None:
        """Stop all jobs and wait until they have, at most as long as told; what they received stays."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop()
        for job in jobs:
            job.join_thread(patience.remaining_seconds())

    def resolve(self, wish: Wish, patience: Patience) -> Resolved:
        """See `Resolver.resolve`; a caller whose patience ends first gets PullPending."""
        return self._asked(lambda deadline: self._resolver.resolve(wish, deadline), wish, patience)

    def pull(
        self,
        resolved: Resolved,
        owner: str,
        patience: Patience,
        joined: Callable[[PullJob], None] | None = None,
    ) -> PulledView:
        """The complete view of what was resolved; `owner` holds a lease on the artifact from here on.

        `joined` is told which job the caller waits for, if it has to.

        Raises PullPending while the job runs on without this caller, and what ended the job. After a final error the
        caller ends its lease. Raises NotFound with `Never` where something would have to be asked for.
        """
        return self._renewed(resolved, patience, lambda known: self._pull(known, owner, patience, joined))

    def begin(
        self,
        resolved: Resolved,
        owner: str,
        patience: Patience,
        observer_of: Callable[[PullJob], FillObserver] | None,
        joined: Callable[[PullJob], None] | None = None,
    ) -> PulledView | Filling:
        """As `pull`, but returns as soon as it is known which files there are; the job goes on.

        `observer_of` makes who is told how far the layers are; `PullJob.observe` of what is found does so later.
        """
        return self._renewed(
            resolved, patience, lambda known: self._begin(known, owner, patience, (observer_of, joined))
        )

    def tree_of(self, resolved: Resolved) -> FileTree:
        """The files of what is complete here, as `begin` tells them."""
        wish, artifact, content = resolved.wish, resolved.artifact, self._store.content
        packed = [layer for layer in wanted_layers(artifact, wish.selection) if layer.codec.is_packed]
        found = {layer.digest: content.members(layer.digest, reading_of(layer, wish.selection)) for layer in packed}
        members = {digest: known for digest, known in found.items() if known is not None}
        return wish.layout.arrange(build_tree(artifact, members, wish.selection), artifact.digest)

    def leave(self, owner: str) -> None:
        """The owner's lease is gone: jobs that nobody else wants stop."""
        with self._lock:
            jobs = [*self._jobs.values(), *self._failed.values()]
        for job in jobs:
            job.leave(owner)
        with self._lock:
            self._failed = {key: job for key, job in self._failed.items() if job.owners}

    def running(self) -> list[PullStatus]:
        """What is being pulled now."""
        with self._lock:
            jobs = list(self._jobs.values())
        return [
            PullStatus(
                str(job.reference),
                str(job.artifact.digest),
                job.began_at,
                job.progress.report(),
                tuple(sorted(job.owners)),
            )
            for job in jobs
        ]

    def _asked(self, ask: Callable[[Deadline], Resolved], wish: Wish, patience: Patience) -> Resolved:
        # Whoever asks may have left, or wait without end: what asks the registry for him ends by itself.
        deadline = min(patience.deadline, Deadline.after(_RESOLVE_SECONDS), key=lambda limit: limit.at_seconds)
        return patience.wait_for(lambda: ask(deadline), str(wish.reference))

    def _renewed(self, resolved: Resolved, patience: Patience, pull: Callable[[Resolved], _View]) -> _View:
        try:
            return pull(resolved)
        except (Unauthenticated, Forbidden):
            if not resolved.is_remembered:
                raise
            logger.info("%s: what was accepted before is refused now; asking again", resolved.wish.reference)
        return pull(self._asked(lambda deadline: self._resolver.renew(resolved, deadline), resolved.wish, patience))

    def _pull(
        self, resolved: Resolved, owner: str, patience: Patience, joined: Callable[[PullJob], None] | None
    ) -> PulledView:
        here = self._keep(resolved, owner)
        if here is not None:
            return here
        job = self._join(resolved, owner)
        if joined is not None:
            joined(job)
        patience.attach(job.nudge)
        try:
            path = job.wait(patience.is_over, patience.deadline.remaining_seconds, resolved.repository)
        except FinalError:
            self.leave(owner)  # told now
            raise
        return PulledView(job.view, path)

    def _begin(
        self, resolved: Resolved, owner: str, patience: Patience, told: tuple[_ObserverOf | None, _Joined | None]
    ) -> PulledView | Filling:
        here = self._keep(resolved, owner)
        if here is not None:
            return here
        observer_of, joined = told
        job = self._join(resolved, owner, observer_of or (lambda _: NOBODY))
        if joined is not None:
            joined(job)
        patience.attach(job.nudge)
        try:
            found = job.wait_for_tree(patience.is_over, patience.deadline.remaining_seconds, resolved.repository)
        except FinalError:
            self.leave(owner)  # told now
            raise
        if isinstance(found, Path):
            return PulledView(job.view, found)
        return Filling(job, found.tree, found.offsets, found.waited_for)

    def _keep(self, resolved: Resolved, owner: str) -> PulledView | None:
        """Take the owner's lease; the answer is the view if that is complete and proven. Raises NotFound with `Never`."""
        artifact, wish = resolved.artifact, resolved.wish
        layers = wanted_layers(artifact, wish.selection)
        size = sum(layer.size for layer in layers)
        record = ArtifactRecord(artifact.digest, str(wish.reference), artifact.kind, size, 0, 0)
        self._store.collector.keep(record, [*(layer.digest for layer in layers), *resolved.documents], owner)
        for digest, content in resolved.documents.items():  # another tag may have led here by other ones
            self._store.content.keep_manifest(digest, content)
        view = wish.view_of(artifact.digest)
        path = self._store.views.path(view)
        if path is not None and self._is_proven(resolved, layers):
            return PulledView(view, path)
        if wish.policy is PullPolicy.NEVER and not self._is_here(resolved, layers):
            raise NotFound(
                f"{wish.reference} is on this node in part only, or not for these credentials, and pullPolicy is Never",
                hint="pull it with another policy first",
            )
        self._store.content.keep_manifest(artifact.digest, resolved.manifest)
        return None

    def _layer_finished(self, size_bytes: int, seconds: float, error: Exception | None) -> None:
        if self.observer is not None:
            self.observer.layer_finished(size_bytes, seconds, error)

    def _is_here(self, resolved: Resolved, layers: Sequence[Layer]) -> bool:
        """Whether a job would have to ask nobody for anything."""
        selection = resolved.wish.selection
        return self._is_proven(resolved, layers) and all(
            is_told(layer) or self._layers.holds(layer, selection) for layer in layers
        )

    def _is_proven(self, resolved: Resolved, layers: Sequence[Layer]) -> bool:
        repository = resolved.repository
        needed = {layer.digest for layer in layers if not is_told(layer)}
        return needed == self._store.records.deliveries(needed, repository.host, repository.name)

    def _join(self, resolved: Resolved, owner: str, observer_of: _ObserverOf | None = None) -> PullJob:
        job, key = self._found_or_new(resolved, owner)
        if observer_of is not None:
            job.observe(observer_of)
        if key is not None:
            threading.Thread(target=self._run, args=(key, job), name="pull-job", daemon=True).start()
        return job

    def _found_or_new(self, resolved: Resolved, owner: str) -> tuple[PullJob, Hashable | None]:
        """A job, and its key if it is to be run."""
        key = PullJob.key(resolved)
        with self._lock:
            failed = self._failed.get(key)
            if failed is not None and owner in failed.owners:
                return failed, None  # it ended while this owner was away, and would end so again
            job = self._jobs.get(key)
            if job is not None and job.join(owner, resolved.repository):
                return job, None
            job = PullJob(resolved, self._store, self._layers, self._queue, self._layer_finished)
            job.join(owner, resolved.repository)
            self._jobs[key] = job
        return job, key

    def _run(self, key: Hashable, job: PullJob) -> None:
        logger.info("pulling %s (%s), %d bytes", job.reference, job.artifact.digest, job.progress.remaining_bytes)
        if self.observer is not None:
            self.observer.pull_started(job)
        job.run()
        with self._lock:
            if self._jobs.get(key) is job:
                del self._jobs[key]
            if isinstance(job.error, FinalError) and job.owners:
                self._failed[key] = job
        error = job.error
        if self.observer is not None:
            self.observer.pull_finished(job, error)
        if error is None:
            sources = ", ".join(f"{size} from {host}" for host, size in sorted(job.received.items()))
            size = job.progress.downloaded_bytes
            logger.info("pulled %s (%s), %d bytes downloaded (%s)", job.reference, job.artifact.digest, size, sources)
        elif isinstance(error, ModelCsiError):
            logger.warning("pulling %s ended: %s", job.reference, error)
