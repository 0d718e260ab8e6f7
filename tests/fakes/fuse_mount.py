"""A real FUSE mount, and a holder small enough for a test: it keeps the descriptor and starts servers."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from modelcsi.mount import syscalls
from modelcsi.mount.fusemount import attach, open_connection
from modelcsi.mount.wire import FromHolder, FromServer, Pong, Serve, Served, read_by_holder
from modelcsi.packets import MAX_PACKET_BYTES, encode

_SERVER = """
import sys
from pathlib import Path
from modelcsi.fuse.server import Settings, serve
sys.exit(serve(int(sys.argv[1]), Path(sys.argv[2]), Settings(sys.argv[3], float(sys.argv[4]))))
"""


def mount_fuse(target: Path, view: str) -> tuple[int, str]:
    """Mount; the descriptor, and the device `major:minor`. Nobody answers yet."""
    fd = open_connection()
    return fd, attach(fd, str(target), view=view, read_ahead_kb=4096)


def unmount(target: Path) -> None:
    """Lazily: readers may still have it."""
    syscalls.unmount(str(target), detach=True)


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
        self.succeed()

    def succeed(self) -> None:
        """Give everything to the next server, whatever the present one does."""
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
