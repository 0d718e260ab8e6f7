"""A real FUSE mount, and a holder small enough for a test: it keeps the descriptor and starts servers."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from modelcsi.mount.wire import FromHolder, FromServer, Pong, Serve, Served, read_by_holder
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


class ServerOfTest:
    """A process that has begun."""

    def __init__(self, *arguments: str) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(30)
        with theirs:
            command = [sys.executable, "-c", _SERVER, str(theirs.fileno()), *arguments]
            self.process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))

    @property
    def cpu_seconds(self) -> float:
        """That it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """Memory of its own and shared."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * mmap.PAGESIZE

    def hear(self) -> FromServer:
        """What it says next."""
        return read_by_holder(self.socket.recv(MAX_PACKET_BYTES))

    def tell(self, message: FromHolder, *fds: int) -> None:
        socket.send_fds(self.socket, [encode(message)], list(fds))

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.process.kill()
        self.process.wait()
        self.socket.close()


class TinyHolder:
    """Keeps descriptors; one server serves all, and another may stand by."""

    def __init__(self, root: Path, *, verify: str = "range", read_timeout: float = 300.0) -> None:
        self._arguments = (str(root), verify, str(read_timeout))
        self.fds: dict[str, int] = {}
        self.server = self._start()
        self.standby: ServerOfTest | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.server, self.standby):
            if server is not None:
                server.kill()
        for fd in self.fds.values():
            os.close(fd)

    def hold(self, view: str, fd: int) -> None:
        """Keep a view from now on, and have it served."""
        self.fds[view] = fd
        self._give(view)

    def stand_by(self) -> None:
        """Start the one that comes next."""
        self.standby = self._start()

    def replace(self) -> None:
        """kill -9 the server; the standby, or one that is started now, serves on."""
        self.server.kill()
        self.server, self.standby = self.standby or self._start(), None
        for view in self.fds:
            self._give(view)

    def _start(self) -> ServerOfTest:
        server = ServerOfTest(*self._arguments)
        assert isinstance(server.hear(), Pong)
        return server

    def _give(self, view: str) -> None:
        self.server.tell(Serve(view), self.fds[view])
        assert Served(view) == self.server.hear()
