"""The socket of a dynamic volume: what upstream's clients know (model-csi-driver, `pkg/service/dynamic_server_handler.go`).

    POST   /api/v1/volumes/{volume_name}/mounts              mount; answers when the model is there
    GET    /api/v1/volumes/{volume_name}/mounts              all
    GET    /api/v1/volumes/{volume_name}/mounts/{mount_id}   one
    DELETE /api/v1/volumes/{volume_name}/mounts/{mount_id}   unmount; fine if there is none

It serves one volume: any other name is 404, whether there is such a volume or not. Whoever is in the pod may connect. A
client that closes its end cancels what it asked for.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from modelcsi.api.server import Answer, HttpServer, Request
from modelcsi.deadline import Deadline
from modelcsi.errors import InvalidRequest, ModelCsiError, MountFailed, NotFound, StoreFull
from modelcsi.metrics import Metrics
from modelcsi.pull.patience import Patience
from modelcsi.socket_place import SocketPlace
from modelcsi.store.dynamic import SOCKET_DIRECTORY
from modelcsi.volume.dynamic_mounts import DynamicVolume
from modelcsi.volume.dynamic_status import (
    DynamicMount,
    MountId,
    MountState,
    is_identifier,
    parse_mount_id,
    parse_mount_request,
    status_document,
)

logger = logging.getLogger(__name__)

SOCKET_NAME = "csi.sock"
_SOCKET_MODE = 0o666
"""Containers run as any user; who may reach the path is a question of who has the volume."""
_PATH = re.compile(r"/api/v1/volumes/([^/]*)/mounts(?:/([^/]*))?")
MAX_CONNECTIONS = 16
"""Of one volume; more mounts at a time than that are turned away, and a pod asks again. A guess."""
_ROOM = 96
"""Of all volumes together, so that pods cannot take the threads and the memory of the driver. Measured: a call that waits takes
up to three threads and 450 KiB; an idle volume takes a thread, a descriptor and 24 KiB."""
_MOUNT = "create_dynamic_volume"
_NONE_YET = {"total": 0, "items": None}
# Looked up along the ancestors of an error's class; with NOT_FOUND upstream has no more codes.
_ERRORS: Mapping[type[Exception], tuple[int, str]] = {
    InvalidRequest: (400, "INVALID_ARGUMENT"),
    StoreFull: (406, "INSUFFICIENT_DISK_QUOTA"),
    Exception: (500, "INTERNAL"),
}


class DynamicServers:
    """Makes the servers of all dynamic volumes; they share a bound."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._room = threading.Semaphore(_ROOM)

    def serve(self, directory: Path, volume: DynamicVolume) -> HttpServer:
        """Put a socket into the volume's directory, in place of one that is there, and answer on it.

        Raises MountFailed if the kernel gives none.
        """
        listener = _listen(directory / SOCKET_DIRECTORY)
        api = DynamicApi(volume, self._metrics)
        server = HttpServer(listener, api.respond, max_connections=MAX_CONNECTIONS, room=self._room)
        server.start()
        return server


class DynamicApi:
    """Requests to the use cases of one volume, and their results back."""

    def __init__(self, volume: DynamicVolume, metrics: Metrics) -> None:
        self._volume = volume
        self._metrics = metrics

    def respond(self, request: Request) -> Answer:
        """Any request's answer; any thread."""
        operation = ""
        try:
            operation, work = self._route(request)
            with self._metrics.operation(operation):
                return work()
        except NotFound as error:
            # Upstream's 404 is about what the URL names; a model that the registry does not have is INTERNAL there.
            status, code = (500, "INTERNAL") if operation == _MOUNT else (404, "NOT_FOUND")
            return _json(status, {"code": code, "message": str(error)})
        except ModelCsiError as error:
            return _failure(error, str(error))
        except Exception as error:
            logger.exception("%s %s failed", request.method, request.path)
            return _failure(error, "an unexpected error: the driver's log says more")

    def _route(self, request: Request) -> tuple[str, Callable[[], Answer]]:
        """Upstream's name of the operation, and what does it."""
        match = _PATH.fullmatch(request.path)
        if match is None:
            raise NotFound(f"{request.path[:200]} does not exist")
        self._check_volume(match[1])
        routes: dict[tuple[str, bool], tuple[str, Callable[[], Answer]]] = {
            ("POST", False): (_MOUNT, lambda: self._mount(request)),
            ("GET", False): ("list_dynamic_volumes", self._list),
            ("GET", True): ("get_dynamic_volume", lambda: self._show(parse_mount_id(match[2]))),
            ("DELETE", True): ("delete_dynamic_volume", lambda: self._unmount(parse_mount_id(match[2]))),
        }
        route = routes.get((request.method, match[2] is not None))
        if route is None:
            raise InvalidRequest(f"{request.path[:200]} knows no {request.method}")
        return route

    def _check_volume(self, name: str) -> None:
        if not is_identifier(name):
            raise InvalidRequest("volume_name is invalid")
        if name != self._volume.volume_id:
            raise NotFound(f"this socket serves no volume {name}, only {self._volume.volume_id}")

    def _mount(self, request: Request) -> Answer:
        wanted = parse_mount_request(request.body)
        patience = Patience(Deadline.never())
        with request.when_gone(patience.interrupt):
            self._volume.mount(wanted, patience)
        # Upstream answers with what was asked, and an empty progress.
        mount = DynamicMount(wanted.mount_id, wanted.written, MountState.MOUNTED, _NONE_YET)
        return _json(201, status_document(self._volume.volume_id, mount))

    def _list(self) -> Answer:
        return _json(200, [status_document(self._volume.volume_id, mount) for mount in self._volume.mounts()])

    def _show(self, mount_id: MountId) -> Answer:
        return _json(200, status_document(self._volume.volume_id, self._volume.find(mount_id)))

    def _unmount(self, mount_id: MountId) -> Answer:
        self._volume.unmount(mount_id)
        return Answer(204, b"")


def _listen(directory: Path) -> socket.socket:
    """A socket that everybody in the pod may connect to, whatever its user.

    It takes its name in one step: a client finds the old one, which refuses, or the new one.
    """
    new = f".{SOCKET_NAME}.new"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with SocketPlace(directory, new) as place:
            if os.path.lexists(place.socket_path):
                os.unlink(place.socket_path)
            listener.bind(place.socket_path)
            os.chmod(new, _SOCKET_MODE, dir_fd=place.descriptor)
            listener.listen()
            os.rename(new, SOCKET_NAME, src_dir_fd=place.descriptor, dst_dir_fd=place.descriptor)
    except OSError as error:
        listener.close()
        raise MountFailed(f"cannot listen in {directory}: {error.strerror}") from error
    return listener


def _failure(error: Exception, message: str) -> Answer:
    status, code = next(_ERRORS[kind] for kind in type(error).__mro__ if kind in _ERRORS)
    return _json(status, {"code": code, "message": message})


def _json(status: int, content: object) -> Answer:
    return Answer(status, json.dumps(content).encode(), "application/json")
