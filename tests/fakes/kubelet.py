"""A small kubelet: its calls, its paths, and its rule which answers mean that a volume is forgotten.

As kubelet 1.36 does (`pkg/volume/csi`): a new unix connection for each call with the authority `localhost`,
NodeGetCapabilities first, the target's parent made with mode 0750, vol_data.json written before the publish and removed
after a final answer, the same call again after 0.5, 1, 2 ... seconds (here faster by `pace`), NodeUnpublishVolume only for
volumes whose vol_data.json is there.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc
from modelcsi.mount.table import mounts_at, read_mount_table

PUBLISH_SECONDS = 120.0
NON_FINAL = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)
"""kubelet, `isFinalError`: after these the volume may still be there; after any other it is forgotten."""
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 122.0
_QUICK_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """How a call ended."""

    code: grpc.StatusCode
    text: str
    seconds: float
    response: Any = None

    @property
    def is_ok(self) -> bool:
        return self.code is grpc.StatusCode.OK

    @property
    def is_final(self) -> bool:
        return self.code not in NON_FINAL


@dataclass(frozen=True)
class PodVolume:
    """A volume of a pod spec; with `handle` a PersistentVolume, which several pods may name, else inline."""

    pod: str
    attributes: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    name: str = "model"
    handle: str = ""
    namespace: str = "default"

    @property
    def volume_id(self) -> str:
        return self.handle or "csi-" + hashlib.sha256(f"{self.pod}{self.name}".encode()).hexdigest()

    def publish_request(self, target: Path) -> csi_pb2.NodePublishVolumeRequest:
        """What kubelet sends for it, with the pod's own facts (podInfoOnMount)."""
        pod = {
            "csi.storage.k8s.io/pod.name": self.pod,
            "csi.storage.k8s.io/pod.namespace": self.namespace,
            "csi.storage.k8s.io/pod.uid": self.pod,
            "csi.storage.k8s.io/serviceAccount.name": "default",
            "csi.storage.k8s.io/ephemeral": "false" if self.handle else "true",
        }
        mode = csi_pb2.VolumeCapability.AccessMode(mode=csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER)
        return csi_pb2.NodePublishVolumeRequest(
            volume_id=self.volume_id,
            target_path=str(target),
            volume_capability=csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=mode),
            readonly=not self.handle,
            volume_context={**self.attributes, **pod},
            secrets=dict(self.secrets),
        )


class Kubelet:
    """Speaks to the driver at `socket`; its pods' directories are below `root`. Any thread may call."""

    def __init__(self, socket: Path, root: Path, *, pace: float = 0.2) -> None:
        self.socket = socket
        self.root = root
        self.pace = pace
        """By what the pauses between attempts are multiplied."""

    def target(self, volume: PodVolume) -> Path:
        """Where the volume is mounted for its pod."""
        return self._directory(volume) / "mount"

    def remembers(self, volume: PodVolume) -> bool:
        """Whether NodeUnpublishVolume will be called when the pod goes."""
        return (self._directory(volume) / "vol_data.json").exists()

    def call(self, service: str, method: str, request: Any, timeout: float | None = _QUICK_SECONDS) -> Answer:
        """One call over a connection of its own."""
        began = time.monotonic()
        options = [("grpc.default_authority", "localhost")]
        with grpc.insecure_channel(f"unix:{self.socket}", options=options) as channel:
            stub = getattr(csi_pb2_grpc, f"{service}Stub")(channel)
            try:
                response = getattr(stub, method)(request, timeout=timeout)
            except grpc.RpcError as error:
                return Answer(error.code(), error.details() or "", time.monotonic() - began)
        return Answer(grpc.StatusCode.OK, "", time.monotonic() - began, response)

    def publish(self, volume: PodVolume, timeout: float | None = PUBLISH_SECONDS) -> Answer:
        """One attempt, and what kubelet does after its answer."""
        target = self.target(volume)
        target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.call("Node", "NodeGetCapabilities", csi_pb2.NodeGetCapabilitiesRequest())
        note = self._directory(volume) / "vol_data.json"
        note.write_text(json.dumps({"specVolID": volume.name, "volumeHandle": volume.volume_id}))
        answer = self.call("Node", "NodePublishVolume", volume.publish_request(target), timeout)
        if not answer.is_ok and answer.is_final:
            note.unlink()
            if target.is_dir() and not target.is_symlink() and not mounts_at(read_mount_table(), str(target)):
                target.rmdir()
        return answer

    def set_up(
        self, volume: PodVolume, *, within_seconds: float = PUBLISH_SECONDS, timeout: float = PUBLISH_SECONDS
    ) -> list[Answer]:
        """Attempts until one succeeds, or the time is over; all answers."""
        ends, pause = time.monotonic() + within_seconds, _FIRST_PAUSE_SECONDS
        answers = [self.publish(volume, timeout)]
        while not answers[-1].is_ok and time.monotonic() + pause * self.pace < ends:
            threading.Event().wait(pause * self.pace)  # the pauses are kubelet's, nothing can end them
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)
            answers.append(self.publish(volume, timeout))
        return answers

    def unpublish(self, volume: PodVolume, timeout: float | None = PUBLISH_SECONDS) -> Answer:
        """The call, whatever is remembered."""
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=str(self.target(volume)))
        answer = self.call("Node", "NodeUnpublishVolume", request, timeout)
        if answer.is_ok:
            (self._directory(volume) / "vol_data.json").unlink(missing_ok=True)
        return answer

    def tear_down(self, volume: PodVolume, *, within_seconds: float = 30.0) -> list[Answer]:
        """The pod is gone: unpublish what is remembered, until it succeeds or the time is over."""
        ends, pause, answers = time.monotonic() + within_seconds, _FIRST_PAUSE_SECONDS, list[Answer]()
        while self.remembers(volume):
            answers.append(self.unpublish(volume))
            if answers[-1].is_ok or time.monotonic() + pause * self.pace >= ends:
                break
            threading.Event().wait(pause * self.pace)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)
        return answers

    def stats(self, volume: PodVolume, path: Path | None = None) -> Answer:
        """NodeGetVolumeStats."""
        request = csi_pb2.NodeGetVolumeStatsRequest(
            volume_id=volume.volume_id, volume_path=str(path or self.target(volume))
        )
        return self.call("Node", "NodeGetVolumeStats", request)

    def probe(self, timeout: float = 1.0) -> Answer:
        """Identity.Probe, as the livenessprobe sidecar asks."""
        return self.call("Identity", "Probe", csi_pb2.ProbeRequest(), timeout)

    def _directory(self, volume: PodVolume) -> Path:
        return self.root / "pods" / volume.pod / "volumes" / "kubernetes.io~csi" / volume.name
