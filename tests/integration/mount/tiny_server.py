"""A FUSE server of one file, as small as can be, for tests of what keeps servers alive; started by `tiny_holder`.

No page is cached (DIRECT_IO), so that each read is a request. Files in `root_dir` make it misbehave: `crash`, `crash-late`,
`mute`, `refuse`, and `slow`, which answers no READ while it is there.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import sys
from contextlib import suppress
from pathlib import Path

from modelcsi.mount import wire
from modelcsi.mount.link import HolderLink

SIZE = 1 << 20
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_BUFFER = (1 << 20) + 8192
_LOOKUP, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE, _FLUSH, _INIT, _OPENDIR, _RELEASEDIR = (
    1,
    3,
    14,
    15,
    17,
    18,
    25,
    26,
    27,
    29,
)
_FORGET, _INTERRUPT, _BATCH_FORGET = 2, 36, 42
_DIRECT_IO = 1
_RESEND_FLAG = 1 << 7
_INIT_EXT = 1 << 30
_NOTIFY_RESEND = 7


def content(offset: int, size: int) -> bytes:
    """What the file has there: each eight bytes are their own number."""
    first, last = offset // 8, min(offset + size, SIZE) // 8 + 1
    return b"".join(number.to_bytes(8, "little") for number in range(first, last))[offset % 8 :][
        : min(size, SIZE - offset)
    ]


def _attributes(node: int) -> bytes:
    mode = 0o40555 if node == 1 else 0o100444
    size = 0 if node == 1 else SIZE
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Tiny:
    """One view's requests."""

    def __init__(self, fuse_fd: int, root: Path) -> None:
        self.fuse_fd = fuse_fd
        self._root = root
        self._waiting: list[tuple[int, bytes]] = []

    def resend(self) -> None:
        """Ask for all that was read and not answered."""
        os.write(self.fuse_fd, _OUT.pack(_OUT.size, _NOTIFY_RESEND, 0))

    def answer(self) -> None:
        """One request."""
        request = os.read(self.fuse_fd, _BUFFER)
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        body = request[_IN.size :]
        if opcode in (_FORGET, _INTERRUPT, _BATCH_FORGET):
            return
        if opcode == _READ and (self._root / "crash-late").exists():
            os._exit(3)
        if opcode == _READ and (self._root / "slow").exists():
            self._waiting.append((unique, body))
            return
        self._reply(unique, *self._result(opcode, node, body))

    def go_on(self) -> None:
        """Answer what waited, once it need not any more."""
        if self._waiting and not (self._root / "slow").exists():
            for unique, body in self._waiting:
                self._reply(unique, *self._result(_READ, 2, body))
            self._waiting.clear()

    def _result(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
        match opcode:
            case 26:
                flags = struct.pack(
                    "<4IHHIIHHII22x", 7, 40, 1 << 22, _INIT_EXT, 64, 48, 1 << 20, 1, 256, 0, _RESEND_FLAG, 0
                )
                return 0, flags.ljust(64, b"\0")[:64]
            case 1 if body.rstrip(b"\0") == b"file":
                return 0, struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + _attributes(2)
            case 1:
                return errno.ENOENT, b""
            case 3:
                return 0, struct.pack("<QII", 0, 0, 0) + _attributes(node)
            case 14 | 27:
                return 0, struct.pack("<QIi", 0, _DIRECT_IO if node != 1 else 0, 0)
            case 15:
                _, offset, size = struct.unpack_from("<QQI", body)
                return 0, content(offset, size)
            case 18 | 25 | 29:
                return 0, b""
            case 17:
                return 0, struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
            case _:
                return errno.ENOSYS, b""

    def _reply(self, unique: int, error: int, body: bytes) -> None:
        with suppress(FileNotFoundError):  # another server has it
            os.write(self.fuse_fd, _OUT.pack(_OUT.size + len(body), -error, unique) + body)


class Process:
    """The loop."""

    def __init__(self, root: Path, link_fd: int, adapter: str) -> None:
        self._root = root
        self._link = HolderLink(link_fd, root, adapter)
        self._views: dict[str, Tiny] = {}
        self._loop = select.epoll()
        self._loop.register(self._link.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Serve until told to leave."""
        self._link.ready()
        while True:
            events = {descriptor for descriptor, _ in self._loop.poll(0.02)}
            if (self._root / "mute").exists():
                continue
            if self._link.fileno() in events:
                for order, fuse_fd in self._link.take():
                    self._obey(order, fuse_fd)
            for view, tiny in list(self._views.items()):
                tiny.go_on()
                if tiny.fuse_fd in events:
                    self._answer(view, tiny)

    def _obey(self, order: object, fuse_fd: int | None) -> None:
        match order:
            case wire.Serve(view=view) if fuse_fd is not None and (self._root / "refuse").exists():
                os.close(fuse_fd)
                self._link.gone(view, "the test says so")
            case wire.Serve(view=view) if fuse_fd is not None:
                self._drop(view)
                self._views[view] = Tiny(fuse_fd, self._root)
                self._loop.register(fuse_fd, select.EPOLLIN)
                self._views[view].resend()
                self._link.served(view)
            case wire.Drop(view=view):
                self._drop(view)
            case wire.Resend():
                for tiny in self._views.values():
                    tiny.resend()
            case wire.Leave():
                os._exit(0)

    def _answer(self, view: str, tiny: Tiny) -> None:
        try:
            tiny.answer()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            self._drop(view)
            self._link.gone(view)

    def _drop(self, view: str) -> None:
        tiny = self._views.pop(view, None)
        if tiny is not None:
            self._loop.unregister(tiny.fuse_fd)
            os.close(tiny.fuse_fd)


def main(root: Path, link_fd: int, adapter: str) -> None:
    """Serve until told to leave."""
    if (root / "crash").exists():
        with (root / "crashes").open("a") as crashes:
            crashes.write("one\n")
        os._exit(3)
    Process(root, link_fd, adapter).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
