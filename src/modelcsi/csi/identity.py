"""CSI's Identity service: who this driver is and whether it is ready."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc

_DISTRIBUTION = "model-csi-driver"


class Identity(csi_pb2_grpc.IdentityServicer):
    """Answers from what it was given; `is_ready` must return at once."""

    def __init__(self, service_name: str, is_ready: Callable[[], bool]) -> None:
        self._service_name = service_name
        self._is_ready = is_ready
        self._version = metadata.version(_DISTRIBUTION)

    def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginInfoResponse:
        """Name and version."""
        return csi_pb2.GetPluginInfoResponse(name=self._service_name, vendor_version=self._version)

    def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """There is a Controller service; topology is none of our concern: a model can be pulled on every node."""
        kind = csi_pb2.PluginCapability.Service
        capability = csi_pb2.PluginCapability(service=kind(type=kind.CONTROLLER_SERVICE))
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=[capability])

    def Probe(self, request: csi_pb2.ProbeRequest, context: grpc.ServicerContext) -> csi_pb2.ProbeResponse:
        """Whether volumes can be published by now."""
        return csi_pb2.ProbeResponse(ready=BoolValue(value=self._is_ready()))
