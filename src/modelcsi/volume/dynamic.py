"""The dynamic volumes of this node: made, served to their pods, known again after a start, and removed.

A volume is a directory of the store (`store/dynamic.py`), bound read-only at its target: nothing in it can be written,
replaced or linked elsewhere by the pod, whose only way to change it is the socket in it. Whoever serves that socket is passed
in. What is recorded before what, and what a kill in between leaves:

    record and directory    a volume that is mounted nowhere: removed at the start
    socket                  the same
    mount                   complete

`Volumes` calls `publish` and `unpublish` while it holds the target, so that one call works on a volume.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from modelcsi.errors import AlreadyPublished, InvalidRequest, MountFailed, PolicyDenied, StoreFull
from modelcsi.pull.puller import Puller
from modelcsi.registry.caller import Caller, Pod
from modelcsi.store.content import empty_trash
from modelcsi.store.durable import open_directory
from modelcsi.store.store import Store
from modelcsi.volume.dynamic_mounts import DynamicVolume, hold_leases
from modelcsi.volume.dynamic_status import MountState, is_identifier, status_document
from modelcsi.volume.mounts import Mounts
from modelcsi.volume.spec import DynamicSpec, VolumeId, missing_model

logger = logging.getLogger(__name__)


class Served(Protocol):
    """A socket of a volume that answers."""

    def stop(self) -> None:
        """Answer no more, and send those away who wait."""


Serve = Callable[[Path, DynamicVolume], Served]
"""Puts a socket into the directory of a volume, in place of one that is there, and answers on it."""


@dataclass(frozen=True, slots=True)
class _Open:
    volume: DynamicVolume
    served: Served


class DynamicVolumes:
    """All of them, by their targets."""

    def __init__(
        self, store: Store, puller: Puller, mounts: Mounts, serve: Serve, is_enabled: Callable[[], bool]
    ) -> None:
        """`is_enabled` is asked at each publish and each mount: what is there stays when it says no."""
        self._store = store
        self._puller = puller
        self._mounts = mounts
        self._serve = serve
        self._is_enabled = is_enabled
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}  # under the lock

    def publish(self, spec: DynamicSpec) -> None:
        """Returning normally means that the volume is at its target, with a socket that answers.

        A volume that is there gets the credentials of this call, also where no new ones are allowed. Raises
        InvalidRequest, AlreadyPublished, and what mounting raises; after an error nothing of a new volume is left.
        """
        known = self._at(spec.target)
        if known is not None and self._mounts.shows(spec.target, known.path):
            if known.volume_id != spec.volume_id:
                raise AlreadyPublished(
                    f"{spec.target} shows the dynamic volume {known.volume_id}", hint="unpublish it first"
                )
            known.caller = spec.caller
            known.has_lost_secrets = False
            return
        if not self._is_enabled():
            raise missing_model()
        if not is_identifier(spec.volume_id):
            raise InvalidRequest(
                f"the id {spec.volume_id[:200]!r} cannot be a dynamic volume's: its API knows volumes by a name of letters, "
                "digits, - and _",
                hint="choose another volumeHandle for the PersistentVolume",
            )
        if known is not None:
            self._end(known)
        self._make(spec)
        logger.info("published a dynamic volume at %s", spec.target)

    def unpublish(self, volume_id: VolumeId, target: str) -> None:
        """Remove the volume that was unmounted from its target, its socket and all its mounts; fine if there is none.

        Raises OperationPending while a model is being mounted.
        """
        known = self._at(target)
        if known is not None and known.volume_id == volume_id:
            self._end(known)

    def is_other(self, volume_id: VolumeId, target: str) -> bool:
        """Whether the target is another dynamic volume's."""
        known = self._at(target)
        return known is not None and known.volume_id != volume_id

    def usage(self, volume_id: VolumeId, target: str) -> tuple[int, int, bool] | None:
        """Bytes and files of all models of a volume, and whether it is mounted; None if there is no such volume."""
        known = self._at(target)
        if known is None or known.volume_id != volume_id:
            return None
        mounts = known.mounts()
        is_shown = self._mounts.shows(target, known.path)
        return sum(mount.size_bytes for mount in mounts), sum(mount.files for mount in mounts), is_shown

    def restore(self) -> None:
        """Serve again what is still mounted, and remove what is not; before the first call."""
        empty_trash(*self._store.dynamic.discard_leftovers())
        for key, record in self._store.dynamic.records().items():
            volume = self._known_volume(key, record)
            if volume is None or not self._mounts.shows(volume.target, volume.path):
                logger.info("the dynamic volume %s is not mounted any more: removed", key)
                empty_trash(*self._store.dynamic.discard(key))
                continue
            volume.load()
            try:
                self._add(volume)
            except MountFailed as error:  # the other volumes must be served, and pods keep what they have
                logger.warning("the dynamic volume at %s has no socket until the next start: %s", volume.target, error)
        hold_leases(self._store)

    def shut_down(self) -> None:
        """Answer no more; volumes and their models stay, and their sockets are served by the next process."""
        with self._lock:
            opened = list(self._open.values())
        for item in opened:
            item.served.stop()

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """What `modelcsi status` shows: a row for each volume, and one for each mount."""
        for volume in self._volumes():
            pod = str(volume.caller.pod or "")
            whole = {"volume_id": volume.volume_id, "pod": pod}
            yield {**whole, "target": volume.target, "reference": "(dynamic volume)", "digest": "", "state": "MOUNTED"}
            for mount in volume.mounts():
                yield {
                    **whole,
                    "target": str(Path(volume.target, "models", mount.mount_id)),
                    "mount_id": mount.mount_id,
                    "reference": mount.reference,
                    "digest": mount.manifest,
                    "state": "MOUNTED" if mount.state is MountState.MOUNTED else mount.state.value,
                }

    def _make(self, spec: DynamicSpec) -> None:
        volume = self._new(spec)
        pod = None if spec.caller.pod is None else asdict(spec.caller.pod)
        has_secrets = bool(spec.caller.secrets or spec.caller.tokens)
        record = {"volume_id": spec.volume_id, "target": spec.target, "pod": pod, "has_secrets": has_secrets}
        empty_trash(*self._store.dynamic.discard(volume.key))  # what an unpublish left that could not end
        try:
            self._store.dynamic.create(volume.key, record, status_document(spec.volume_id))
            self._add(volume)
            with open_directory(volume.path) as source_fd:
                self._mounts.bind_read_only(source_fd, spec.target)
        except BaseException:
            self._end(volume)
            raise

    def _add(self, volume: DynamicVolume) -> None:
        served = self._serve(volume.path, volume)
        with self._lock:
            self._open[volume.target] = _Open(volume, served)

    def _end(self, volume: DynamicVolume) -> None:
        with self._lock:
            item = self._open.get(volume.target)
        if item is not None:
            item.served.stop()
        volume.close()
        owners = volume.leases()
        trash = self._store.dynamic.discard(volume.key)
        with self._lock:
            self._open.pop(volume.target, None)
        try:
            for owner in owners:
                self._store.records.end_lease(owner)
        except StoreFull:  # a pod must be able to go although the disk is full; the next start ends them
            logger.warning("the leases of %s could not be ended: the disk is full", volume.target)
        empty_trash(*trash)

    def _known_volume(self, key: str, record: Mapping[str, Any]) -> DynamicVolume | None:
        try:
            pod = None if record["pod"] is None else Pod(**record["pod"])
            volume = self._new(DynamicSpec(VolumeId(str(record["volume_id"])), str(record["target"]), Caller(pod=pod)))
        except (KeyError, TypeError) as error:
            logger.warning("the record of the dynamic volume %s is not understood: %s", key, error)
            return None
        volume.has_lost_secrets = bool(record.get("has_secrets"))
        return volume if volume.key == key else None

    def _new(self, spec: DynamicSpec) -> DynamicVolume:
        return DynamicVolume(self._store, self._puller, spec, self._check_enabled)

    def _check_enabled(self) -> None:
        if not self._is_enabled():
            raise PolicyDenied(
                "dynamic mounts are switched off on this node",
                hint="features.dynamic_mounts of the driver's configuration switches them on",
            )

    def _at(self, target: str) -> DynamicVolume | None:
        with self._lock:
            item = self._open.get(target)
        return None if item is None else item.volume

    def _volumes(self) -> list[DynamicVolume]:
        with self._lock:
            return [item.volume for item in self._open.values()]
