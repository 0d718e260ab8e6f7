"""Registration with kubelet (pluginregistration/v1): a second, tiny server that says who the driver is and where.

kubelet watches a directory, dials each socket that appears there, gives GetInfo one second, calls NodeGetInfo at the endpoint
it was told, and reports the outcome. The removal of the socket deregisters the driver. After a refusal kubelet comes back by
itself (after 0.5 s to 2 min), so there is nothing to do here but say so. Its threads are its own: however many publishes
wait, kubelet is answered.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import grpc

from modelcsi.csi.pb import pluginregistration_pb2, pluginregistration_pb2_grpc
from modelcsi.csi.socketfile import ServedSocket, check_socket_path

logger = logging.getLogger(__name__)

_THREADS = 2
_STOP_SECONDS = 1.0
_PLUGIN_TYPE = "CSIPlugin"
_CSI_VERSIONS = ("1.0.0",)
"""kubelet compares the major version only, and refuses a name at the version that it already has."""


class Phase(Enum):
    """How far the registration is."""

    WAITING = "waiting for kubelet"
    REGISTERED = "registered"
    REFUSED = "refused by kubelet"


@dataclass(frozen=True, slots=True)
class RegistrationState:
    """A phase, and what kubelet or the file system says about it."""

    phase: Phase = Phase.WAITING
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.phase.value}: {self.detail}" if self.detail else self.phase.value


class Registration:
    """Keeps the driver registered from `start` to `stop`; each is called once, by the thread that owns the process.

    Start it when the CSI socket answers, and stop it before anything else: kubelet deregisters the driver within a second.
    Volumes and running pods are not concerned.
    """

    def __init__(self, registration_dir: Path, service_name: str, kubelet_path: str) -> None:
        """`kubelet_path` is the CSI socket as kubelet sees it, on the host."""
        check_socket_path(Path(kubelet_path))
        self._plugin = pluginregistration_pb2.PluginInfo(
            type=_PLUGIN_TYPE, name=service_name, endpoint=kubelet_path, supported_versions=_CSI_VERSIONS
        )
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="registration")
        self._servicer = _Registrar(self._plugin)
        # kubelet's name for it, by the node-driver-registrar: two of them cannot both serve it.
        path = registration_dir / f"{service_name}-reg.sock"
        self._socket = ServedSocket(path, self._make_server, makes_directory=False)

    @property
    def state(self) -> RegistrationState:
        """What kubelet last said of the socket that is there now."""
        if self._socket.trouble:
            return RegistrationState(detail=self._socket.trouble)
        return self._servicer.state

    @property
    def why_not_registered(self) -> str | None:
        """For readiness; None when kubelet has registered the driver."""
        state = self.state
        return None if state.phase is Phase.REGISTERED else f"registration: {state}"

    def start(self) -> None:
        """Offer the registration, now or as soon as the directory is there and nobody else serves its socket."""
        self._socket.look()
        self._socket.watch()

    def stop(self) -> None:
        """Remove the socket if it is ours, which deregisters the driver."""
        self._socket.stop(_STOP_SECONDS)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make_server(self) -> grpc.Server:
        # A new socket is a new registration: nothing that kubelet said of the last one holds.
        self._servicer = _Registrar(self._plugin)
        server = grpc.server(self._pool)
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(self._servicer, server)
        return server


class _Registrar(pluginregistration_pb2_grpc.RegistrationServicer):
    """Answers on one socket."""

    def __init__(self, plugin: pluginregistration_pb2.PluginInfo) -> None:
        self._plugin = plugin
        self.state = RegistrationState()

    def GetInfo(
        self, request: pluginregistration_pb2.InfoRequest, context: grpc.ServicerContext
    ) -> pluginregistration_pb2.PluginInfo:
        """The driver's name, and its endpoint on the host."""
        return self._plugin

    def NotifyRegistrationStatus(
        self, request: pluginregistration_pb2.RegistrationStatus, context: grpc.ServicerContext
    ) -> pluginregistration_pb2.RegistrationStatusResponse:
        """What came of it."""
        if request.plugin_registered:
            self.state = RegistrationState(Phase.REGISTERED)
            logger.info("kubelet has registered %s", self._plugin.name)
        else:
            self.state = RegistrationState(Phase.REFUSED, request.error)
            logger.error(
                "kubelet refuses to register %s, and will try again by itself: %s (check that kubelet_registration_path, "
                "%s, is the CSI socket's path on the host, and that no other driver on this node has the name)",
                self._plugin.name,
                request.error,
                self._plugin.endpoint,
            )
        return pluginregistration_pb2.RegistrationStatusResponse()
