"""CSI's Controller service, for the external-provisioner: it keeps nothing, because a volume is only its parameters.

A claim's volume is the StorageClass's parameters, handed back as volume_context; the nodes pull the model. So a volume id
is a function of the name: the same name gives the same id (CSI's idempotency), on every replica and after every restart.
"""

from __future__ import annotations

import hashlib
import re

import grpc

from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc
from modelcsi.csi.requests import MAX_ID_BYTES, check_capabilities, check_text
from modelcsi.errors import InvalidRequest, NotFound
from modelcsi.volume.spec import check_parameters

# The prefix by which the existing driver's metrics tell volumes of claims from inline ones.
_ID_PREFIX = "pvc-"
_OWN_ID = re.compile(rf"{_ID_PREFIX}[0-9a-f]{{64}}")


class Controller(csi_pb2_grpc.ControllerServicer):
    """Creates and deletes volumes without doing anything."""

    def __init__(self, service_name: str) -> None:
        self._service_name = service_name

    def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.CreateVolumeResponse:
        """Check the parameters and name the volume.

        The capacity is 0, "unknown": the size of a claim says nothing about the size of a model, and any claim is big enough.
        """
        check_text("name", request.name, MAX_ID_BYTES)
        check_capabilities(request.volume_capabilities)
        if request.HasField("volume_content_source"):
            raise InvalidRequest("a model cannot be made from a snapshot or another volume")
        parameters = dict(request.parameters)
        check_parameters(parameters, self._service_name)
        volume = csi_pb2.Volume(volume_id=volume_id_of(request.name), capacity_bytes=0, volume_context=parameters)
        return csi_pb2.CreateVolumeResponse(volume=volume)

    def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.DeleteVolumeResponse:
        """Nothing was made, nothing is deleted: OK for every id, whoever named it."""
        if not request.volume_id:
            raise InvalidRequest("volume_id is missing")
        return csi_pb2.DeleteVolumeResponse()

    def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        """Confirm everything but block devices; NotFound for ids that CreateVolume never gives."""
        check_text("volume_id", request.volume_id, MAX_ID_BYTES)
        if not request.volume_capabilities:
            raise InvalidRequest("volume_capabilities are missing")
        if not _OWN_ID.fullmatch(request.volume_id):
            raise NotFound(f"volume {request.volume_id} does not exist")
        answer = csi_pb2.ValidateVolumeCapabilitiesResponse
        try:
            check_capabilities(request.volume_capabilities)
        except InvalidRequest as error:
            return answer(message=error.message)
        return answer(
            confirmed=answer.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
            )
        )

    def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        """Create and delete."""
        rpc = csi_pb2.ControllerServiceCapability.RPC
        capability = csi_pb2.ControllerServiceCapability(rpc=rpc(type=rpc.CREATE_DELETE_VOLUME))
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=[capability])


def volume_id_of(name: str) -> str:
    """The id of the volume of this name: 68 characters, so that it fits where the name (up to 128) might not."""
    return f"{_ID_PREFIX}{hashlib.sha256(name.encode()).hexdigest()}"
