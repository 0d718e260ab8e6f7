"""The other end of the control socket, for the command line; blocking, no state."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelcsi.api.control import SOCKET_NAME
from modelcsi.deadline import Deadline
from modelcsi.errors import Busy, Forbidden, ModelCsiError, NotFound, ShuttingDown


def call_control(
    root_dir: Path, method: str, path: str, body: Mapping[str, Any] | None = None, *, deadline: Deadline | None = None
) -> dict[str, Any]:
    """The answer of the driver that runs on `root_dir`; without a deadline it may take as long as it does (`verify`).

    Raises what the driver raised; NotFound if none runs, Forbidden if the caller may not ask, Busy if the deadline passes,
    ShuttingDown if the driver ends before it has answered.
    """
    where = root_dir / SOCKET_NAME
    connection = _UnixConnection(root_dir, deadline or Deadline.never())
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        content = response.read()
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise NotFound(
            f"no driver runs on this node: nobody answers at {where}",
            hint="start `modelcsi node`, or give its --config",
        ) from error
    except PermissionError as error:
        raise Forbidden(f"{where} is for root only", hint="run it as root") from error
    except TimeoutError as error:
        raise Busy(f"the driver does not answer at {where}") from error
    except (OSError, http.client.HTTPException) as error:
        raise ShuttingDown(f"the driver ended before it had answered at {where}") from error
    finally:
        connection.close()
    answer = _decode(content, where)
    if response.status != http.client.OK:
        raise _raised(answer)
    return answer


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the socket in a directory, however long its path."""

    def __init__(self, root_dir: Path, deadline: Deadline) -> None:
        super().__init__("localhost")
        self._root_dir = root_dir
        self._deadline = deadline

    def connect(self) -> None:
        """Connect by a descriptor of the directory: a socket's path has at most 107 bytes."""
        directory = os.open(self._root_dir, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            remaining_seconds = self._deadline.remaining_seconds()
            self.sock.settimeout(None if remaining_seconds == float("inf") else max(remaining_seconds, 0.001))
            self.sock.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        finally:
            os.close(directory)


def _decode(content: bytes, where: Path) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ModelCsiError(f"what answers at {where} is no driver: {content[:80]!r}")
    return answer


def _raised(answer: Mapping[str, Any]) -> ModelCsiError:
    """The error that the driver describes; one of its bugs has no class of its own."""
    classes = {kind.__name__: kind for kind in _descendants(ModelCsiError)}
    kind = classes.get(str(answer.get("code")), ModelCsiError)
    return kind(str(answer.get("message", "")), hint=str(answer.get("hint", "")))


def _descendants(kind: type[ModelCsiError]) -> Iterator[type[ModelCsiError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)
