"""Publish, unpublish, restore: how a pod gets a model, and what is left on the node at every moment.

A publication is one (volume id, target): one PersistentVolume in two pods of a node is two publications. What is recorded
before what, and what a kill in between leaves:

    record PENDING                     a row without a mount; expires when its caller does not come back, or cannot
    resolve, record the digest, lease  the same, and the content stays
    pull                               half-written content, resumed by the next call
    mount                              a mount at the target beside a PENDING row: `restore` completes it
    record MOUNTED                     complete

Unpublish goes the other way and trusts the kernel, not the rows: they may be lost. Lock order: target, job, store.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelcsi.artifact.layouts import FILES
from modelcsi.deadline import Deadline
from modelcsi.errors import AlreadyPublished, FinalError, NotFound, OperationPending, StoreFull, TransientError
from modelcsi.oci.digest import Digest
from modelcsi.pull.job import PullJob
from modelcsi.pull.patience import Patience
from modelcsi.pull.puller import Puller
from modelcsi.pull.resolve import Resolved, Wish
from modelcsi.registry.caller import Caller
from modelcsi.store.durable import open_directory
from modelcsi.store.records import MOUNTED, PENDING, PublicationRecord
from modelcsi.store.store import Store
from modelcsi.volume.announcements import Announcements, Announcer
from modelcsi.volume.departures import Departures, PodWatch
from modelcsi.volume.dynamic import DynamicVolumes
from modelcsi.volume.failures import Failures
from modelcsi.volume.lazy import LazyVolumes
from modelcsi.volume.mounts import Mounts
from modelcsi.volume.restore import restore, view_at
from modelcsi.volume.slots import PublishSlots
from modelcsi.volume.spec import DynamicSpec, MountMode, VolumeId, VolumeSpec, missing_model
from modelcsi.volume.upstream import remove_upstream_copy, shows_upstream_copy

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
"""Kept of the caller's time for the answer: mounting, and the way back."""
_SHORT_CALL_SECONDS = 10.0
_PATIENCE_WITHOUT_DEADLINE_SECONDS = 115.0
"""kubelet gives 120 s; a caller that names no deadline is treated alike."""
_PENDING_EXPIRES_SECONDS = 600.0
"""Five times the greatest gap between two of kubelet's attempts (122 s)."""
_MAKE_WAY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class VolumeStats:
    """What a volume holds, and whether it is as it should be; bytes and inodes are those of the model."""

    total_bytes: int
    used_bytes: int
    available_bytes: int
    total_inodes: int
    used_inodes: int
    available_inodes: int
    abnormal: bool
    message: str


@dataclass(frozen=True, slots=True)
class Pods:
    """Who tells pods what happens, and who knows whether they are still there; None where no API server is asked."""

    announcer: Announcer | None = None
    watch: PodWatch | None = None


NOBODY_ASKED = Pods()


class Volumes:
    """The publications of this node."""

    def __init__(
        self,
        store: Store,
        puller: Puller,
        mounts: Mounts,
        slots: PublishSlots,
        *,
        pods: Pods = NOBODY_ASKED,
        dynamic: DynamicVolumes | None = None,
    ) -> None:
        """`dynamic`: the volumes without a model; None where there are none."""
        self._store = store
        self.announcements = Announcements(pods.announcer)
        self.lazy: LazyVolumes | None = None
        """The volumes that are mounted before they are complete; set before `restore`, None where there are none."""
        self._departures = Departures(pods.watch)
        self.failures = Failures()
        self._puller = puller
        self._mounts = mounts
        self._slots = slots
        self._dynamic = dynamic
        self._changed = threading.Condition()
        # Under the condition's lock: targets that a call works on, with the patience of that call; when the owner of a
        # PENDING publication was last here (monotonic seconds).
        self._busy: dict[str, Patience] = {}
        self._seen: dict[str, float] = {}

    def publish(self, spec: VolumeSpec | DynamicSpec, deadline: Deadline) -> None:
        """Returning normally means that the model is mounted read-only at the target, not that this call mounted it.

        Waits for the pull until shortly before the deadline. Raises PullPending while the pull goes on without this call,
        OperationPending while another call works on the target, AlreadyPublished, Busy, and whatever resolving, pulling
        and mounting raise; after a final error nothing of the volume is left on the node.
        """
        patience = Patience(_until(deadline))
        if isinstance(spec, DynamicSpec):
            with self._working_on(spec.target, patience):
                self._publish_dynamic(spec)
            return
        with self._working_on(spec.target, patience), self._slots.enter():
            known = self._known(spec)
            if known is not None and known.state == MOUNTED and self._shows(known.target, known.view):
                self._touch(known)
                if self.lazy is not None:
                    self.lazy.renew(known, Caller(spec.secrets, spec.pod, spec.tokens))
                return
            if self._shows_upstream_copy(spec):
                return
            record = PublicationRecord(
                *(spec.volume_id, spec.target, spec.arguments, str(spec.reference), PENDING),
                manifest=known.manifest if known else "",
                pod=str(spec.pod or ""),
            )
            self._see(record.owner)
            self._store.records.put_publication(record)
            self.announcements.begins(record.owner, spec.pod, record.reference)
            try:
                self._publish(spec, record, patience)
            except TransientError as error:
                self.failures.failed(record.target, spec.pod, record.reference, error)
                raise
            except FinalError as error:
                self._forget(record)
                self.announcements.failed(record.owner, spec.pod, record.reference, error)
                self.failures.failed(record.target, spec.pod, record.reference, error)
                raise
            except Exception:  # an undo block: to kubelet a bug is a final answer, too
                self._mounts.unmount(record.target)
                self._forget(record)
                raise
            self._see(record.owner, is_done=True)

    def unpublish(self, volume_id: VolumeId, target: str) -> None:
        """Returning normally means that nothing is mounted at the target, its directory is gone, and its lease ended.

        An unknown volume or target is fine. A publish that waits there is sent away first. Raises OperationPending,
        InvalidRequest, RollbackFailed.
        """
        with self._working_on(target, Patience(Deadline.never()), sends_others_away=True):
            records = self._store.records.publications(target)
            if records and all(record.volume_id not in ("", volume_id) for record in records):
                logger.warning("%s is published for another volume than %s: left alone", target, volume_id)
                return
            if self._dynamic is not None and self._dynamic.is_other(volume_id, target):
                logger.warning("%s shows another dynamic volume than %s: left alone", target, volume_id)
                return
            if self.lazy is None or not self.lazy.unmount(target):
                self._mounts.unmount(target)
            if self._dynamic is not None:
                self._dynamic.unpublish(volume_id, target)
            self.failures.mended(target)
            remove_upstream_copy(self._store.layout.root, volume_id, self._mounts)
            try:
                for record in records:
                    self._forget(record)
            except StoreFull:  # a pod must be able to go although the disk is full; `expire` forgets the row later
                logger.warning("%s is unmounted, and its record could not be removed: the disk is full", target)

    def stats(self, volume_id: VolumeId, path: str) -> VolumeStats:
        """Size and condition of a published volume. Raises NotFound when it is not published at `path`."""
        usage = None if self._dynamic is None else self._dynamic.usage(volume_id, path)
        if usage is not None:
            size, files, is_shown = usage
            message = f"a dynamic volume is {'' if is_shown else 'not '}mounted at {path}"
            return VolumeStats(size, size, 0, files, files, 0, not is_shown, message)
        records = self._store.records.publications(path)
        record = next((item for item in records if item.volume_id in ("", volume_id) and item.state == MOUNTED), None)
        if record is None:
            raise NotFound(f"volume {volume_id} is not published at {path}")
        origin = self._origin(record.view)
        size, files = int(origin.get("size_bytes", 0)), int(origin.get("files", 0))
        trouble = f"is not mounted at {path} any more"
        if self._shows(path, record.view):
            error = None if self.lazy is None else self.lazy.trouble(record.view)
            trouble = "" if error is None else f"cannot be read in full: {error}"
        message = f"{record.reference} {trouble or 'is mounted'}"
        return VolumeStats(size, size, 0, files, files, 0, bool(trouble), message)

    def restore(self) -> None:
        """Bring rows and mounts together after a start, however the last process ended; before the first publish."""
        if self.lazy is not None:
            self.lazy.restore()
        for owner in restore(self._store, self._mounts, self.lazy):
            self._see(owner)
        if self._dynamic is not None:
            self._dynamic.restore()

    def shut_down(self) -> None:
        """Send every waiting publish away: its caller comes back to the next process."""
        with self._changed:
            for patience in self._busy.values():
                patience.interrupt()
        if self._dynamic is not None:
            self._dynamic.shut_down()

    def expire(self) -> None:
        """Give up publications whose caller has not come back, or whose mount has gone; called now and then."""
        for record in self._store.records.publications():
            is_lost = record.state == PENDING or not self._shows(record.target, record.view)
            if is_lost and self._is_expired(record):
                try:
                    with self._working_on(record.target, Patience(Deadline.never())):
                        if self._is_expired(record):
                            self._give_up(record)
                except OperationPending:
                    continue  # its caller has just come back

    def _give_up(self, record: PublicationRecord) -> None:
        view = view_at(self._store, self._mounts, self.lazy, record.target)
        if view is not None:  # mounted, and the record could not be written (a full disk)
            self._store.records.put_publication(replace(record, state=MOUNTED, view=view))
            self._see(record.owner, is_done=True)
            return
        logger.info("nobody came back for %s at %s: given up", record.reference, record.target)
        self._forget(record)

    def _is_expired(self, record: PublicationRecord) -> bool:
        # kubelet makes the parent before each publish, and keeps it until the unpublish: without it nobody comes back. So it is
        # when somebody removed a pod's directory by hand, or made the node anew around the store.
        if not Path(record.target).parent.is_dir():
            return True
        with self._changed:
            return time.monotonic() - self._seen.setdefault(record.owner, time.monotonic()) >= _PENDING_EXPIRES_SECONDS

    def _see(self, owner: str, *, is_done: bool = False) -> None:
        """The owner of a PENDING publication is here, or it is PENDING no more."""
        with self._changed:
            if is_done:
                self._seen.pop(owner, None)
            else:
                self._seen[owner] = time.monotonic()

    def _publish(self, spec: VolumeSpec, record: PublicationRecord, patience: Patience) -> None:
        pinned = Digest.parse(record.manifest) if record.manifest else None
        caller = Caller(spec.secrets, spec.pod, spec.tokens)
        wish = Wish(spec.reference, spec.pull_policy, spec.selection, caller, pinned, spec.layout)
        with self._slots.waiting(patience), self._departures.watching(spec.pod, patience):
            resolved = self._puller.resolve(wish, patience)
            digest = resolved.artifact.digest
            if digest != pinned:
                record = replace(record, manifest=str(digest))
                self._store.records.put_publication(record)
            view = self._mount(spec, resolved, record, patience)
        self._store.records.put_publication(replace(record, state=MOUNTED, view=view))
        self.failures.mended(spec.target)
        logger.info("published %s (%s) at %s", spec.reference, digest, spec.target)

    def _publish_dynamic(self, spec: DynamicSpec) -> None:
        if self._shows_upstream_copy(spec):
            return
        if self._dynamic is None:
            raise missing_model()
        self._dynamic.publish(spec)

    def _shows_upstream_copy(self, spec: VolumeSpec | DynamicSpec) -> bool:
        """kubelet publishes all volumes again when it starts: a pod of before the change of drivers keeps what it has."""
        is_shown = shows_upstream_copy(self._store.layout.root, spec.volume_id, spec.target, self._mounts)
        if is_shown:
            logger.info("%s shows what the upstream driver mounted: left as it is", spec.target)
        return is_shown

    def _touch(self, record: PublicationRecord) -> None:
        try:
            self._store.records.touch(Digest.parse(record.manifest))
        except StoreFull:  # what is mounted stays mounted; only the order of eviction does not learn of this
            logger.debug("the use of %s could not be recorded: the disk is full", record.reference)

    def _mount(self, spec: VolumeSpec, resolved: Resolved, record: PublicationRecord, patience: Patience) -> str:
        """Mount what was resolved; returns the view that is shown."""

        def joined(job: PullJob) -> None:
            self.announcements.pulls(record.owner, job, resolved.repository.source)

        if self.lazy is not None:
            self.lazy.make_way(record.target)
            if spec.mount_mode is MountMode.LAZY and (view := self.lazy.publish(resolved, record, patience, joined)):
                return view
        pulled = self._puller.pull(resolved, record.owner, patience, joined)
        with open_directory(pulled.path) as source_fd:
            self._mounts.bind_read_only(source_fd, record.target)
        self.announcements.mounted(record.owner, resolved.artifact.digest)
        return pulled.view

    def _known(self, spec: VolumeSpec) -> PublicationRecord | None:
        """What is recorded of this publication; completes a row that was made from the mount table."""
        for record in self._store.records.publications(spec.target):
            if record.volume_id == spec.volume_id and record.arguments == spec.arguments:
                return record
            if record.state != MOUNTED or not self._shows(record.target, record.view):
                self._forget(record)
                continue
            origin = self._origin(record.view)
            shows = (origin.get("selection"), origin.get("layout", FILES))
            if record.volume_id or shows != (spec.selection.key(), spec.layout.key):
                raise AlreadyPublished(
                    f"{spec.target} shows {record.reference} with other arguments",
                    hint="unpublish it first; a volume's attributes cannot change while it is mounted",
                )
            if origin.get("reference") != str(spec.reference):
                continue  # maybe another name of the same artifact: resolving tells, and the mounter adopts or refuses
            self._store.records.remove_publication(record.volume_id, record.target)
            completed = replace(record, volume_id=spec.volume_id, arguments=spec.arguments, pod=str(spec.pod or ""))
            self._store.records.put_publication(completed)
            return completed
        return None

    def _origin(self, view: str) -> Mapping[str, str]:
        """What a view shows, lazy or not; empty when nobody knows."""
        lazily = None if self.lazy is None else self.lazy.origin(view)
        return lazily or self._store.views.record(view) or {}

    def _shows(self, target: str, view: str) -> bool:
        if self.lazy is not None and self.lazy.is_lazy(view):
            return self.lazy.shows(target, view)
        path = self._store.views.path(view) if view else None
        return path is not None and self._mounts.shows(target, path)

    def _forget(self, record: PublicationRecord) -> None:
        self._puller.leave(record.owner)
        self.announcements.left(record.owner)
        if self.lazy is not None:
            self.lazy.left(record.target)
        self._store.records.remove_publication(record.volume_id, record.target)
        self._puller.leave(record.owner)  # again: who goes on filling may have joined since, and looks at the record
        self._see(record.owner, is_done=True)

    @contextmanager
    def _working_on(self, target: str, patience: Patience, *, sends_others_away: bool = False) -> Iterator[None]:
        """Be the only call at a target."""
        with self._changed:
            other = self._busy.get(target)
            if other is not None and sends_others_away:
                other.interrupt()
                self._changed.wait_for(lambda: target not in self._busy, _MAKE_WAY_SECONDS)
            if target in self._busy:
                raise OperationPending(f"another call works on {target}", hint="it is tried again by itself")
            self._busy[target] = patience
        try:
            yield
        finally:
            with self._changed:
                del self._busy[target]
                self._changed.notify_all()


def _until(deadline: Deadline) -> Deadline:
    """When a publish stops waiting: 5 s before its caller does, at half time of a short call, after 115 s without end."""
    remaining = deadline.remaining_seconds()
    if remaining < _SHORT_CALL_SECONDS:
        return Deadline.after(remaining / 2)
    return Deadline.after(min(remaining - _ANSWER_SECONDS, _PATIENCE_WITHOUT_DEADLINE_SECONDS))
