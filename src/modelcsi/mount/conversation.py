"""The driver's connection to the holder: one question at a time, each with an end."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelcsi.mount import wire
from modelcsi.mount.lines import receive, send
from modelcsi.packets import UnknownPacket

_CREDENTIALS = struct.Struct("3i")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class HolderGone(Exception):
    """The holder has hung up."""


class HolderStuck(HolderGone):
    """The holder does not answer in time."""


@dataclass(slots=True)
class Answer:
    """All that came until `Done`; the descriptors are the caller's."""

    held: list[tuple[wire.Held, list[int]]] = field(default_factory=list)
    servers: list[wire.Server] = field(default_factory=list)
    error: str = ""


class Conversation:
    """Used by one thread. `lost` collects what the holder tells in between."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        """Connect. Raises OSError if nobody listens there."""
        self.lost: list[wire.Lost] = []
        self._timeout_seconds = timeout_seconds
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.settimeout(timeout_seconds)
            self._socket.connect(str(path))
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except BaseException:
            self._socket.close()
            raise
        self.pid, _, _ = _CREDENTIALS.unpack(credentials)

    def fileno(self) -> int:
        """For a poll: readable when `hear` has something."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, message: wire.FromDriver, descriptors: Sequence[int] = ()) -> Answer:
        """Say something and wait for the answer. Raises HolderGone."""
        answer = Answer()
        end = time.monotonic() + self._timeout_seconds
        try:
            self._socket.settimeout(self._timeout_seconds)
            send(self._socket, message, descriptors)
            while not self._take(answer, end):
                pass
        except TimeoutError as error:
            _close_all(answer)
            raise HolderStuck("it does not answer") from error
        except OSError as error:
            _close_all(answer)
            raise HolderGone(str(error)) from error
        except BaseException:
            _close_all(answer)
            raise
        return answer

    def hear(self) -> None:
        """What the holder says unasked. Raises HolderGone."""
        answer = Answer()
        try:
            self._take(answer, time.monotonic() + self._timeout_seconds)
        except OSError as error:
            raise HolderGone(str(error)) from error
        finally:
            _close_all(answer)

    def _take(self, answer: Answer, end: float) -> bool:
        """One message into the answer; True when that was the last of it."""
        self._socket.settimeout(max(0.001, end - time.monotonic()))
        packet, descriptors = receive(self._socket)
        if not packet:
            raise HolderGone("it has hung up")
        try:
            message = wire.read_by_driver(packet)
        except UnknownPacket:
            _close_fds(descriptors)
            return False
        except ValueError as error:
            _close_fds(descriptors)
            raise HolderGone(str(error)) from error
        match message:
            case wire.Held():
                answer.held.append((message, descriptors))
                return False
            case wire.Server():
                answer.servers.append(message)
                return False
            case wire.Lost():
                self.lost.append(message)
                return False
            case wire.Done():
                answer.error = message.error or ("" if message.ok else "for no reason that it tells")
        return True


def secret_file(secret: bytes) -> int:
    """A sealed memfd with the secret: memory that goes when the last descriptor does, and that nobody can change."""
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write_all(descriptor, secret)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_secret(descriptor: int) -> bytes:
    """What `secret_file` holds."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _close_all(answer: Answer) -> None:
    for _, descriptors in answer.held:
        _close_fds(descriptors)
    answer.held.clear()


def _close_fds(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
