"""One tree of files, shown in two ways: as a read-only bind mount, and lazily by a FUSE server of either adapter."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelcsi.artifact.entries import EntryType, FileEntry
from modelcsi.mount.fusemount import attach, open_connection
from modelcsi.mount.wire import FromServer, Pong, Serve, Served, read_by_holder
from modelcsi.packets import MAX_PACKET_BYTES, encode
from modelcsi.view.plan import PlannedEntry
from tests.fakes.lazy import VIEW, LazyDriver, LazyFile, LazyStore, content_of

ADAPTERS = ("passthrough", "pyfuse3")
_MIB = 1 << 20
MODEL = content_of("model", 3 * _MIB + 12345)
"""What is in `model.safetensors`."""
_MTIME_NS = 1_700_000_000_000_000_007
_MANY = 1500
_LONG_SECONDS = 30
READ_AHEAD_KB = 4096


def new_tree() -> list[PlannedEntry | LazyFile]:
    """What a model may have, and more: a file of several chunks, modes, links, many names, odd names."""
    files = [
        LazyFile("model.safetensors", MODEL, mtime_ns=_MTIME_NS),
        LazyFile("config.json", b'{"model_type": "test"}', mtime_ns=_MTIME_NS),
        LazyFile("bin/run.sh", b"#!/bin/sh\necho runs\n", mode=0o555, mtime_ns=_MTIME_NS),
    ]
    others = [
        *(_other(path, EntryType.DIRECTORY, 0o555) for path in ("bin", "many", "sub", "sub/deeper")),
        *(_other(f"many/f{number:04}", data=b"%d" % number) for number in range(_MANY)),
        _other("empty", data=b""),
        _other("größe ä b\\c", data=b"odd"),
        *(
            _other(path, EntryType.SYMLINK, 0o777, target=target)
            for path, target in {
                "link": "model.safetensors",
                "dangling": "nowhere",
                "loop": "loop",
                "sub/up": "../model.safetensors",
            }.items()
        ),
    ]
    return [*files, *others]


def _other(
    path: str, sort: EntryType = EntryType.FILE, mode: int = 0o444, *, data: bytes | None = None, target: str = ""
) -> PlannedEntry:
    return PlannedEntry(FileEntry(path, sort, len(data or b""), mode, _MTIME_NS, target, data=data))


@contextmanager
def bind_tree(area: Path, tree: list[PlannedEntry | LazyFile]) -> Iterator[Path]:
    """The tree as files of the disk, bound read-only as the driver binds."""
    source, target = area / "source", area / "bind"
    source.mkdir()
    target.mkdir()
    for item in sorted(tree, key=_path):
        _write(source, item)
    for directory in sorted(
        (path for path in source.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True
    ):
        os.utime(directory, ns=(_MTIME_NS, _MTIME_NS))
        directory.chmod(0o555)
    os.utime(source, ns=(0, 0))
    source.chmod(0o555)
    subprocess.run(["mount", "--bind", source, target], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro,nosuid,nodev", target], check=True)
        yield target
    finally:
        subprocess.run(["umount", "--lazy", target], check=True)


def _path(item: PlannedEntry | LazyFile) -> str:
    return item.path if isinstance(item, LazyFile) else item.entry.path


def _write(source: Path, item: PlannedEntry | LazyFile) -> None:
    entry = item.entry().entry if isinstance(item, LazyFile) else item.entry
    path = source / entry.path
    if entry.type is EntryType.SYMLINK:
        path.symlink_to(entry.target)
    elif entry.type is EntryType.DIRECTORY:
        path.mkdir(exist_ok=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(item.content if isinstance(item, LazyFile) else entry.data or b"")
        path.chmod(entry.mode)
    os.utime(path, ns=(_MTIME_NS, _MTIME_NS), follow_symlinks=False)


class LazyTree:
    """The tree behind a server process; `driver` decides what arrives."""

    def __init__(self, area: Path, tree: list[PlannedEntry | LazyFile], adapter: str, *flags: str) -> None:
        """`flags` are further ones of the server's command."""
        self.mount = area / "lazy"
        self.mount.mkdir()
        self.files = [item for item in tree if isinstance(item, LazyFile)]
        others = [item for item in tree if isinstance(item, PlannedEntry)]
        self.store = LazyStore(area / "root", self.files, others)
        self.driver = LazyDriver(self.store)
        self._fuse_fd = open_connection()
        self.device = attach(self._fuse_fd, str(self.mount), view=VIEW, read_ahead_kb=READ_AHEAD_KB)
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.settimeout(_LONG_SECONDS)
        with theirs:
            command = [sys.executable, "-m", "modelcsi.cli.main", "fuse-server", "--adapter", adapter]
            where = ["--link-fd", str(theirs.fileno()), "--root-dir", str(area / "root")]
            self.server = subprocess.Popen([*command, *where, *flags], pass_fds=(theirs.fileno(),))
        assert isinstance(self.hear(), Pong)
        self.tell_to_serve(self._fuse_fd)
        os.close(self._fuse_fd)  # of pyfuse3 the server alone has one, so that its death ends the connection
        assert isinstance(self.hear(), Served)

    def tell_to_serve(self, fuse_fd: int) -> None:
        """As the holder does."""
        socket.send_fds(self._line, [encode(Serve(VIEW, self.device))], [fuse_fd])

    def hear(self) -> FromServer:
        """What the server says next to its holder."""
        return read_by_holder(self._line.recv(MAX_PACKET_BYTES))

    def complete(self) -> None:
        """All files are here and verified."""
        for file in self.files:
            self.store.complete(file.path)

    def close(self) -> None:
        """Take the mount away, and the server with it."""
        subprocess.run(["umount", "--lazy", self.mount], check=False)
        self.server.kill()
        self.server.wait()
        self._line.close()
        self.driver.close()


@contextmanager
def lazy_tree(area: Path, tree: list[PlannedEntry | LazyFile], adapter: str, *flags: str) -> Iterator[LazyTree]:
    """The tree, mounted lazily: what is read arrives then, unless the driver is told otherwise."""
    served = LazyTree(area, tree, adapter, *flags)
    try:
        yield served
    finally:
        served.close()
