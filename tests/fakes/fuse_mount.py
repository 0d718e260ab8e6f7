"""A real FUSE mount, and a holder small enough for a test: it keeps the descriptor and starts servers."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from modelcsi.mount.wire import Drop, FromHolder, FromServer, Serve, read_by_holder
from modelcsi.packets import MAX_PACKET_BYTES, encode

_LIBC = ctypes.CDLL(None, use_errno=True)
_READ_ONLY_NOSUID_NODEV = 7
_SERVER = """
import sys
from pathlib import Path
from modelcsi.fuse.server import Settings, serve
sys.exit(serve(int(sys.argv[1]), Path(sys.argv[2]), Settings(sys.argv[3], float(sys.argv[4]))))
"""


def mount_fuse(target: Path, view: str, *, read_ahead_kb: int = 4096) -> int:
    """Mount and give the descriptor; nobody answers yet."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40555,user_id=0,group_id=0,allow_other,default_permissions,max_read={1 << 20}"
    arguments = (view.encode(), os.fsencode(target), b"fuse.modelcsi", _READ_ONLY_NOSUID_NODEV, options.encode())
    if _LIBC.mount(*arguments[:3], ctypes.c_ulong(arguments[3]), arguments[4]) != 0:
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, os.strerror(number))
    device = next(
        line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {target} " in line
    )
    Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(read_ahead_kb))
    return fd


def unmount(target: Path) -> None:
    """Lazily: readers may still have it."""
    _LIBC.umount2(os.fsencode(target), 2)


def connection_of(target: Path) -> Path:
    """The directory of the mount's connection in fusectl: `abort`, `waiting`."""
    minor = next(
        line.split()[2].partition(":")[2]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f" {target} " in line
    )
    return Path("/sys/fs/fuse/connections") / minor


class TinyHolder:
    """Keeps descriptors, has one server at a time."""

    def __init__(
        self, root: Path, *, verify: str = "range", read_timeout: float = 300.0, prefix: Sequence[str] = ()
    ) -> None:
        self._arguments = (str(root), verify, str(read_timeout))
        self._prefix = prefix
        self.fds: dict[str, int] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """A new server, with all views."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [*self._prefix, sys.executable, "-c", _SERVER, str(theirs.fileno()), *self._arguments]
            self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
        if self._socket is not None:
            self._socket.close()
        self._socket = ours
        self._socket.settimeout(30)
        for view, fd in self.fds.items():
            self.tell(Serve(view), fd)

    def hold(self, view: str, fd: int) -> None:
        """Keep a view from now on."""
        self.fds[view] = fd
        if self._socket is not None:
            self.tell(Serve(view), fd)

    def drop(self, view: str) -> None:
        """Keep it no more."""
        os.close(self.fds.pop(view))
        self.tell(Drop(view))

    def tell(self, message: FromHolder, *fds: int) -> None:
        assert self._socket is not None, "started"
        socket.send_fds(self._socket, [encode(message)], list(fds))

    def hear(self) -> FromServer:
        """What the server says next."""
        assert self._socket is not None, "started"
        return read_by_holder(self._socket.recv(MAX_PACKET_BYTES))

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.kill()
        if self._socket is not None:
            self._socket.close()
        for fd in self.fds.values():
            os.close(fd)
