"""The control socket: what `modelcsi status` and `modelcsi cache` ask of the driver that runs on the node.

JSON over HTTP on `root_dir/control.sock`, for root alone (mode 0600). Errors are `{"code", "message", "hint"}`, where the code is
the name of a class of `errors`, or `Internal`, so that the client raises what the driver raised.

    GET  /v1/status
    GET  /v1/cache
    POST /v1/cache/prune    {"max_bytes": 1000}         optional
    POST /v1/cache/verify   {"digest": "sha256:..."}    optional
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from modelcsi.api.server import Answer, HttpServer, Request
from modelcsi.errors import FinalError, Forbidden, InvalidRequest, ModelCsiError, NotFound, StoreFull, TransientError
from modelcsi.socket_place import SocketPlace

logger = logging.getLogger(__name__)

SOCKET_NAME = "control.sock"
# Looked up along the ancestors of an error's class.
_STATUSES: Mapping[type[Exception], int] = {
    InvalidRequest: 400,
    Forbidden: 403,
    NotFound: 404,
    FinalError: 422,
    TransientError: 503,
    StoreFull: 507,
    Exception: 500,
}


class Control(Protocol):
    """What can be asked; every answer is made of what JSON knows. Called in many threads at once."""

    def status(self) -> dict[str, Any]:
        """What is mounted and pulled now."""

    def cache(self) -> dict[str, Any]:
        """What content there is."""

    def prune(self, max_bytes: int | None) -> dict[str, Any]:
        """Remove what nobody needs, least recently used first, until `max_bytes` are left (None: all that can go)."""

    def verify(self, digest: str | None) -> dict[str, Any]:
        """Read and hash one artifact or blob, or everything."""


class ControlServer:
    """Serves a Control on the control socket of a root directory."""

    def __init__(self, root_dir: Path, control: Control) -> None:
        self._root_dir = root_dir
        self._control = control
        self._server: HttpServer | None = None
        self._inode = (0, 0)

    def start(self) -> None:
        """Make the socket and answer on it; a socket that a dead driver left is replaced.

        Raises InvalidRequest if a living one answers there, or if something else has the name.
        """
        with SocketPlace(self._root_dir, SOCKET_NAME) as directory:
            _remove_stale(directory)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # Linux gives the new name the mode of the descriptor: there is no moment in which others could connect, and
                # no umask, which all threads share, has to change.
                os.fchmod(listener.fileno(), 0o600)
                listener.bind(directory.socket_path)
                self._inode = _inode(os.lstat(directory.socket_path))
                listener.listen()
            except OSError as error:
                listener.close()
                raise InvalidRequest(f"cannot listen on {directory}: {error.strerror}") from error
        self._server = HttpServer(listener, self._respond)
        self._server.start()

    def stop(self) -> None:
        """Answer no more, and remove the socket unless a successor has replaced it."""
        if self._server is None:
            return
        self._server.stop()
        self._server = None
        try:
            with SocketPlace(self._root_dir, SOCKET_NAME) as directory:
                if _inode(os.lstat(directory.socket_path)) == self._inode:
                    os.unlink(directory.socket_path)
        except FileNotFoundError:
            logger.warning("%s was removed by somebody else", self._root_dir / SOCKET_NAME)

    def _respond(self, request: Request) -> Answer:
        try:
            return _json(200, self._route(request)())
        except ModelCsiError as error:
            return _error(error, type(error).__name__, error.message, error.hint)
        except Exception as error:
            logger.exception("%s %s failed", request.method, request.path)
            return _error(error, "Internal", "an unexpected error", "the driver's log says more")

    def _route(self, request: Request) -> Callable[[], dict[str, Any]]:
        control = self._control
        routes: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
            "/v1/status": ("GET", control.status),
            "/v1/cache": ("GET", control.cache),
            "/v1/cache/prune": ("POST", lambda: control.prune(_argument(request, "max_bytes", int))),
            "/v1/cache/verify": ("POST", lambda: control.verify(_argument(request, "digest", str))),
        }
        if request.path not in routes:
            raise NotFound(f"{request.path} does not exist", hint=f"there are {', '.join(routes)}")
        method, respond = routes[request.path]
        if request.method != method:
            raise InvalidRequest(f"{request.path} is asked with {method}, not {request.method}")
        return respond


def _remove_stale(directory: SocketPlace) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(directory.socket_path).st_mode):
            raise InvalidRequest(f"{directory} is no socket", hint="root_dir belongs to the driver alone")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(directory.socket_path) != errno.ECONNREFUSED:
            raise InvalidRequest(f"another driver serves {directory}", hint="one driver per root_dir")
    os.unlink(directory.socket_path)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _argument(request: Request, name: str, kind: type) -> Any:
    """The one argument that a POST may carry in its JSON object; None if it does not."""
    try:
        body = json.loads(request.body) if request.body else {}
    except ValueError as error:
        raise InvalidRequest(f"the body of {request.path} is not JSON") from error
    if not isinstance(body, dict) or set(body) - {name}:
        raise InvalidRequest(f"the body of {request.path} is an object with {name!r} or nothing in it")
    value = body.get(name)
    # A bool is an int in Python.
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise InvalidRequest(f"{name} is not {'a number' if kind is int else 'text'}")
    return value


def _error(error: Exception, code: str, message: str, hint: str) -> Answer:
    status = next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)
    return _json(status, {"code": code, "message": message, "hint": hint})


def _json(status: int, content: Mapping[str, Any]) -> Answer:
    return Answer(status, json.dumps(content).encode(), "application/json")
