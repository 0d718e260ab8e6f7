"""One dynamic volume: a directory in which its pod mounts and unmounts models while it runs.

A mount is a tree of hard links below the volume, since a mount that is made later would not reach a running container. Pulled
with the credentials of the publish that made the volume; these are in memory only, so after a restart of the driver they are
gone until kubelet publishes again. Any thread; one call works on a mount id at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from modelcsi.artifact.layer import Layer
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import wanted_layers
from modelcsi.deadline import Deadline
from modelcsi.errors import (
    AlreadyPublished,
    Forbidden,
    InvalidRequest,
    NotFound,
    OperationPending,
    PullPending,
    StoreFull,
    Unauthenticated,
)
from modelcsi.oci.reference import Reference
from modelcsi.pull.job import PullJob
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.progress import LayerLog
from modelcsi.pull.puller import Puller
from modelcsi.pull.resolve import Resolved, Wish
from modelcsi.store.content import empty_trash
from modelcsi.store.dynamic import key_of
from modelcsi.store.store import Store
from modelcsi.volume.dynamic_status import (
    DynamicMount,
    MountId,
    MountRequest,
    MountState,
    parse_record,
    progress_document,
    record_document,
)
from modelcsi.volume.spec import DynamicSpec

logger = logging.getLogger(__name__)

MAX_MOUNTS = 64
"""In one volume. A guess: each may be a tree of 100,000 names, which are inodes and directory blocks of the node's disk."""
_LEASES = "dynamic"
"""The first word of the owners of leases."""
_MAKE_WAY_SECONDS = 10.0
_BRING_THEM_AGAIN = (
    "the volume's secret or token was forgotten when the driver was started anew: start the pod again, or set requiresRepublish "
    "in the CSIDriver object, by which kubelet brings them every minute or two"
)


@dataclass(slots=True)
class _Pull:
    """A call that makes a mount."""

    reference: str
    log: LayerLog


class DynamicVolume:
    """The models in one volume; `caller` is replaced when kubelet publishes it again."""

    def __init__(self, store: Store, puller: Puller, spec: DynamicSpec, check_enabled: Callable[[], None]) -> None:
        """`check_enabled` raises while no new mounts are allowed."""
        self.volume_id = spec.volume_id
        self.target = spec.target
        self.caller = spec.caller
        self.has_lost_secrets = False
        """Whether the caller had brought some to the process before this one, which are nowhere written."""
        self.key = key_of(spec.volume_id, spec.target)
        self.path = store.dynamic.path(self.key)
        self._check_enabled = check_enabled
        self._store = store
        self._puller = puller
        self._changed = threading.Condition()
        # Under the condition's lock: what is mounted; what is being pulled; the ids that a call works on; the calls that
        # want to mount, and what; whether the volume ends.
        self._mounts: dict[MountId, DynamicMount] = {}
        self._pulls: dict[MountId, _Pull] = {}
        self._busy: set[MountId] = set()
        self._calls: dict[Patience, MountId] = {}
        self._is_closed = False

    def load(self) -> None:
        """Know again what the directory shows; before the first call."""
        for name, document in self._store.dynamic.mounts(self.key).items():
            mount = _parsed(name, document)
            if mount is None:
                empty_trash(*self._store.dynamic.discard_mount(self.key, name))
            else:
                self._mounts[mount.mount_id] = mount

    def mount(self, request: MountRequest, patience: Patience) -> None:
        """Returning normally means that the model is in the volume, not that this call brought it.

        Waits for the pull as long as `patience` lasts; then, and after any error, nothing of the mount is left. Raises
        AlreadyPublished if the id shows another model, InvalidRequest if there are too many mounts, OperationPending if the
        call was sent away, and whatever resolving and pulling raise.
        """
        mount_id = request.mount_id
        with self._sent_away_by_unmount(mount_id, patience), self._working_on(mount_id, patience):
            if self._is_known(request):
                return
            try:
                self._check_enabled()
                self._pull(request, patience)
            except PullPending as error:
                raise OperationPending(
                    f"the mount {mount_id} of {request.written} was cancelled", hint="mount it again"
                ) from error
            finally:
                with self._changed:
                    self._pulls.pop(mount_id, None)
        logger.info("mounted %s as %s in %s", request.written, mount_id, self.target)

    def unmount(self, mount_id: MountId) -> None:
        """Returning normally means that the volume has no such mount; a call that pulls it is sent away.

        Who has files open keeps them until they are closed. Raises OperationPending.
        """
        self._send_away(mount_id)
        with self._working_on(mount_id, Patience(Deadline.after(_MAKE_WAY_SECONDS))):
            trash = self._store.dynamic.discard_mount(self.key, mount_id)
            with self._changed:
                self._mounts.pop(mount_id, None)
            try:
                self._store.records.end_lease(self._owner(mount_id))
            finally:  # on a full disk the lease stays until the next attempt, which this may make room for
                empty_trash(*trash)

    def mounts(self) -> list[DynamicMount]:
        """All mounts, by their ids; with those on their way."""
        with self._changed:
            pulls = [
                DynamicMount(mount_id, pull.reference, MountState.PULLING, _progress(pull.log))
                for mount_id, pull in self._pulls.items()
            ]
            return sorted([*self._mounts.values(), *pulls], key=lambda mount: mount.mount_id)

    def find(self, mount_id: MountId) -> DynamicMount:
        """One of them. Raises NotFound."""
        for mount in self.mounts():
            if mount.mount_id == mount_id:
                return mount
        raise NotFound(f"volume_name {self.volume_id} with mount_id {mount_id} is not found")

    def leases(self) -> Mapping[str, str]:
        """Owner -> manifest, of what is mounted."""
        with self._changed:
            return {self._owner(mount_id): mount.manifest for mount_id, mount in self._mounts.items()}

    def close(self) -> None:
        """Make no more mounts, and wait until the calls that do have left. Raises OperationPending."""
        with self._changed:
            self._is_closed = True
        self._send_away()
        with self._changed:
            if not self._changed.wait_for(lambda: not self._busy and not self._calls, _MAKE_WAY_SECONDS):
                raise OperationPending(f"models are being mounted in {self.target}", hint="it is tried again by itself")

    def _is_known(self, request: MountRequest) -> bool:
        with self._changed:
            known = self._mounts.get(request.mount_id)
            if known is None:
                if len(self._mounts) + len(self._pulls) >= MAX_MOUNTS:
                    raise InvalidRequest(
                        f"the volume has {MAX_MOUNTS} mounts, the most that one may have", hint="unmount one of them"
                    )
                self._pulls[request.mount_id] = _Pull(request.written, LayerLog(0))
                return False
        if Reference.parse(known.reference) != request.reference or known.selection != request.selection.key():
            raise AlreadyPublished(
                f"mount_id {request.mount_id} is re-used for different reference, origin: {known.reference}, "
                f"want: {request.written}",
                hint="unmount it first, or use another id; patterns must be the same too",
            )
        return True

    def _pull(self, request: MountRequest, patience: Patience) -> None:
        owner = self._owner(request.mount_id)
        policy = PullPolicy.default(request.reference)
        try:
            resolved = self._resolve(Wish(request.reference, policy, request.selection, self.caller), patience)
            logs: list[LayerLog] = []

            def joined(job: PullJob) -> None:
                logs.append(job.layer_log)
                with self._changed:
                    self._pulls[request.mount_id].log = job.layer_log

            pulled = self._puller.pull(resolved, owner, patience, joined)
            log = logs[0] if logs else _complete(wanted_layers(resolved.artifact, request.selection))
            origin = self._store.views.record(pulled.view) or {}
            mount = DynamicMount(
                *(request.mount_id, request.written, MountState.MOUNTED, _progress(log)),
                selection=request.selection.key(),
                manifest=str(resolved.artifact.digest),
                size_bytes=int(origin.get("size_bytes", 0)),
                files=int(origin.get("files", 0)),
            )
            record = record_document(self.volume_id, mount)
            self._store.dynamic.add(self.key, request.mount_id, pulled.view, record)
        except BaseException:
            self._puller.leave(owner)
            self._store.records.end_lease(owner)
            raise
        with self._changed:
            self._mounts[request.mount_id] = mount

    def _resolve(self, wish: Wish, patience: Patience) -> Resolved:
        try:
            return self._puller.resolve(wish, patience)
        except (Unauthenticated, Forbidden) as error:
            if not self.has_lost_secrets:
                raise
            raise type(error)(error.message, hint=_BRING_THEM_AGAIN) from error

    def _owner(self, mount_id: MountId) -> str:
        return _owner(self.volume_id, self.target, mount_id)

    def _send_away(self, mount_id: MountId | None = None) -> None:
        """Those that mount this id, or any."""
        with self._changed:
            calls = [patience for patience, wanted in self._calls.items() if mount_id in (None, wanted)]
        for patience in calls:  # outside of the lock: it wakes them where they wait
            patience.interrupt()

    @contextmanager
    def _sent_away_by_unmount(self, mount_id: MountId, patience: Patience) -> Iterator[None]:
        with self._changed:
            self._calls[patience] = mount_id
        try:
            yield
        finally:
            with self._changed:
                del self._calls[patience]
                self._changed.notify_all()

    @contextmanager
    def _working_on(self, mount_id: MountId, patience: Patience) -> Iterator[None]:
        """Be the only call for an id; others wait for it."""
        patience.attach(self._nudge)
        with self._changed:
            self._changed.wait_for(
                lambda: mount_id not in self._busy or self._is_closed or patience.is_over(),
                min(patience.deadline.remaining_seconds(), threading.TIMEOUT_MAX),
            )
            if self._is_closed:
                raise OperationPending(f"the volume {self.volume_id} ends")
            if mount_id in self._busy or patience.is_over():
                raise OperationPending(f"another call works on the mount {mount_id}", hint="try again")
            self._busy.add(mount_id)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(mount_id)
                self._changed.notify_all()

    def _nudge(self) -> None:
        with self._changed:
            self._changed.notify_all()


def hold_leases(store: Store) -> None:
    """Let the leases of dynamic mounts be those of what is on the disk: the database may be lost, or a kill came between."""
    try:
        store.records.replace_leases(_LEASES, _leases_on_disk(store))
    except StoreFull:  # a driver must start on a full disk; the links keep the bytes of what pods see
        logger.warning("the leases of dynamic mounts could not be recorded: the disk is full")


def _leases_on_disk(store: Store) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, record in store.dynamic.records().items():
        for name, document in store.dynamic.mounts(key).items():
            mount = _parsed(name, document)
            if mount is not None:
                found[_owner(record.get("volume_id"), record.get("target"), mount.mount_id)] = mount.manifest
    return found


def _owner(volume_id: object, target: object, mount_id: MountId) -> str:
    return f"{_LEASES} {volume_id} {target} {mount_id}"


def _parsed(name: str, document: Mapping[str, object]) -> DynamicMount | None:
    try:
        mount = parse_record(document)
        Reference.parse(mount.reference)
        Selection.from_key(mount.selection)
    except (KeyError, TypeError, ValueError, InvalidRequest) as error:
        logger.warning("the record of the mount %s is not understood: %s", name, error)
        return None
    return mount if mount.mount_id == name else None


def _complete(layers: Sequence[Layer]) -> LayerLog:
    """Of a pull that had nothing to do."""
    log = LayerLog(len(layers))
    for layer in layers:
        log.begin(layer)
        log.end(layer)
    return log


def _progress(log: LayerLog) -> Mapping[str, object]:
    return progress_document(log.moments(), log.count)
