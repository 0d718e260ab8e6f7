"""What kubelet does to a CSI driver for a pod's inline volume: the same calls, arguments, paths, deadlines and repetitions."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # read when grpc is imported; we fork only to execute
import grpc

from hack.demonstration.failure import DemonstrationFailed
from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc

_DEADLINE_SECONDS = 120.0  # kubelet, pkg/volume/csi: csiTimeout
_QUICK_SECONDS = 20.0
_GIVE_UP_SECONDS = 300.0
_WATCH_SECONDS = 0.03
# kubelet, isFinalError: after these it asks again.
_PENDING = frozenset({
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with one inline volume, called `model`."""

    name: str
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def volume_id(self) -> str:
        """As kubelet makes it: stable for a pod and its volume."""
        return "csi-" + hashlib.sha256(f"{self.uid}/model".encode()).hexdigest()

    @property
    def information(self) -> dict[str, str]:
        """What podInfoOnMount adds to the volume's attributes."""
        return {
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.name": self.name,
            "csi.storage.k8s.io/pod.namespace": "default",
            "csi.storage.k8s.io/pod.uid": self.uid,
            "csi.storage.k8s.io/serviceAccount.name": "default",
        }


class Kubelet:
    """One node's kubelet, as far as a CSI driver sees it."""

    def __init__(self, socket: Path, directory: Path, watch: Callable[[], None]) -> None:
        """`watch` is called often while the driver works."""
        self._directory = directory
        self._watch = watch
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")])
        self._identity = csi_pb2_grpc.IdentityStub(self._channel)
        self._node = csi_pb2_grpc.NodeStub(self._channel)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def driver_name(self) -> str:
        """What registration asks first."""
        answer = self._identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=_QUICK_SECONDS)
        return f"{answer.name} {answer.vendor_version}"

    def target(self, pod: Pod) -> Path:
        """Where the pod's container will find its volume."""
        return self._directory / "pods" / pod.uid / "volumes" / "kubernetes.io~csi" / "model" / "mount"

    def publish(self, pod: Pod, attributes: dict[str, str]) -> float:
        """Mount the pod's volume; the seconds that the last call took, the one that mounted it."""
        capabilities = self._node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest(), timeout=_QUICK_SECONDS)
        staged = csi_pb2.NodeServiceCapability.RPC.STAGE_UNSTAGE_VOLUME
        if any(capability.rpc.type == staged for capability in capabilities.capabilities):
            raise DemonstrationFailed("the driver wants inline volumes staged, which kubelet never does")
        target = self.target(pod)
        target.parent.mkdir(parents=True, mode=0o750)  # the target itself is made by the driver
        capability = csi_pb2.VolumeCapability
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=pod.volume_id,
            target_path=str(target),
            volume_capability=capability(
                mount=capability.MountVolume(),
                access_mode=capability.AccessMode(mode=capability.AccessMode.SINGLE_NODE_READER_ONLY),
            ),
            readonly=True,
            volume_context={**attributes, **pod.information},
        )
        return self._call(self._node.NodePublishVolume, request)

    def unpublish(self, pod: Pod) -> float:
        """Take the pod's volume away; the seconds it took."""
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=pod.volume_id, target_path=str(self.target(pod)))
        return self._call(self._node.NodeUnpublishVolume, request)

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Any, Any], request: object) -> float:
        """Call, and call again after an answer that is not final: what the driver works on goes on meanwhile."""
        give_up = time.monotonic() + _GIVE_UP_SECONDS
        pause_seconds = 0.5  # kubelet, exponentialbackoff: doubled each time, two minutes at the most
        while True:
            began = time.monotonic()
            call = method.future(request, timeout=_DEADLINE_SECONDS)
            while not _has_ended(call):
                self._watch()
            seconds = time.monotonic() - began
            if call.code() is grpc.StatusCode.OK:
                return seconds
            if call.code() not in _PENDING or time.monotonic() > give_up:
                raise DemonstrationFailed(f"the driver answered {call.code().name}: {call.details()}")
            pause_ends = time.monotonic() + pause_seconds
            while time.monotonic() < pause_ends:
                self._watch()
                time.sleep(_WATCH_SECONDS)
            pause_seconds = min(pause_seconds * 2, 120.0)


def _has_ended(call: grpc.Future[Any]) -> bool:
    """Whether it has been answered, after waiting a little: waiting by `result` returns with the answer, not a tick later."""
    try:
        call.result(timeout=_WATCH_SECONDS)
    except grpc.FutureTimeoutError:
        return False
    except grpc.RpcError:
        return True  # `code` says what
    return True
