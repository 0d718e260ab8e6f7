"""CSI's Node service: requests to the use cases of `volume`, and their results back.

Checks only what is CSI's (fields, limits, capabilities, in the order that csi-sanity asks for); what the attributes mean is
decided by `volume.spec`, what happens by `volume.volumes`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import grpc

from modelcsi.csi.interceptors import deadline_of
from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc
from modelcsi.csi.requests import MAX_ID_BYTES, check_capabilities, check_text
from modelcsi.deadline import Deadline
from modelcsi.errors import InvalidRequest
from modelcsi.volume.spec import DynamicSpec, VolumeId, VolumeSpec, parse_spec
from modelcsi.volume.tokens import with_vouched_tokens
from modelcsi.volume.volumes import VolumeStats

_MAX_PATH_BYTES = 4096
# CSI says 4 KiB, which kubelet does not enforce and service account tokens outgrow; generous, and far below what hurts.
_MAX_ATTRIBUTES_BYTES = 256 * 1024


class NodeVolumes(Protocol):
    """The use cases, as far as the Node service needs them; `volume.volumes.Volumes` has them."""

    def publish(self, spec: VolumeSpec | DynamicSpec, deadline: Deadline) -> None:
        """Return when the volume is mounted at its target."""

    def unpublish(self, volume_id: VolumeId, target: str) -> None:
        """Return when nothing of the volume is at the target."""

    def stats(self, volume_id: VolumeId, path: str) -> VolumeStats:
        """What the volume at `path` takes; NotFound if it is not there."""


class Node(csi_pb2_grpc.NodeServicer):
    """Publishes, unpublishes and measures volumes on this node."""

    def __init__(
        self,
        volumes: NodeVolumes,
        *,
        service_name: str,
        node_id: str,
        has_context_tokens: Callable[[], bool | None] = lambda: None,
    ) -> None:
        """`has_context_tokens` tells whether kubelet itself writes the service-account tokens that are among the attributes (None:
        not known).
        """
        self._volumes = volumes
        self._has_context_tokens = has_context_tokens
        self._service_name = service_name
        self._node_id = node_id

    def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodePublishVolumeResponse:
        """Mount the model, read-only whatever `readonly` says (kubelet's flag does not follow pv.spec.csi.readOnly)."""
        deadline = deadline_of(context)
        check_text("volume_id", request.volume_id, MAX_ID_BYTES)
        target = _target(request.target_path)
        if not request.HasField("volume_capability"):
            raise InvalidRequest("volume_capability is missing")
        check_capabilities([request.volume_capability])
        attributes = dict(request.volume_context)
        if sum(len(key) + len(value) for key, value in attributes.items()) > _MAX_ATTRIBUTES_BYTES:
            raise InvalidRequest(f"volume_context has over {_MAX_ATTRIBUTES_BYTES} bytes")
        secrets = with_vouched_tokens(request.secrets, attributes, self._has_context_tokens)
        spec = parse_spec(request.volume_id, target, attributes, secrets, self._service_name)
        self._volumes.publish(spec, deadline)
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Unmount and remove the target; OK when there is nothing.

        No limit on the id: it may be of another driver's volume, and a refusal would keep its pod Terminating for ever.
        """
        if not request.volume_id:
            raise InvalidRequest("volume_id is missing")
        self._volumes.unpublish(VolumeId(request.volume_id), _target(request.target_path))
        return csi_pb2.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """Bytes, inodes and condition of a published volume; a relative path is simply not found."""
        check_text("volume_id", request.volume_id, MAX_ID_BYTES)
        path = _normalised("volume_path", request.volume_path)
        stats = self._volumes.stats(VolumeId(request.volume_id), path)
        usage = csi_pb2.VolumeUsage
        return csi_pb2.NodeGetVolumeStatsResponse(
            usage=[
                usage(
                    unit=usage.BYTES,
                    total=stats.total_bytes,
                    used=stats.used_bytes,
                    available=stats.available_bytes,
                ),
                usage(
                    unit=usage.INODES,
                    total=stats.total_inodes,
                    used=stats.used_inodes,
                    available=stats.available_inodes,
                ),
            ],
            volume_condition=csi_pb2.VolumeCondition(abnormal=stats.abnormal, message=stats.message),
        )

    def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        """Statistics with condition. No staging: inline volumes are never staged, and a view is shared by itself."""
        rpc = csi_pb2.NodeServiceCapability.RPC
        kinds = (rpc.GET_VOLUME_STATS, rpc.VOLUME_CONDITION)
        return csi_pb2.NodeGetCapabilitiesResponse(
            capabilities=[csi_pb2.NodeServiceCapability(rpc=rpc(type=kind)) for kind in kinds]
        )

    def NodeGetInfo(
        self, request: csi_pb2.NodeGetInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetInfoResponse:
        """The node's id. No limit of volumes, and no topology: a model can be pulled on every node."""
        return csi_pb2.NodeGetInfoResponse(node_id=self._node_id)


def _target(text: str) -> str:
    target = _normalised("target_path", text)
    if not os.path.isabs(target):
        raise InvalidRequest(f"target_path {text[:200]!r} is not absolute")
    return target


def _normalised(name: str, text: str) -> str:
    """The one spelling of a path, as the kernel's mount table has it: records are found by it.

    A `..` is refused, since what it means depends on symlinks.
    """
    check_text(name, text, _MAX_PATH_BYTES)
    if ".." in text.split("/"):
        raise InvalidRequest(f"{name} {text[:200]!r} has a part '..'")
    path = os.path.normpath(text)
    return path[1:] if path.startswith("//") else path  # POSIX lets two slashes mean something else; Linux does not
