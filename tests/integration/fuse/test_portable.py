"""The portable adapter: what differs from the other one. That it shows the right tree is in test_fuse_conformance.py."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from modelcsi.mount.adapters import PYFUSE3, choose_adapter
from modelcsi.mount.wire import Gone, Pong, Serve, read_by_holder
from modelcsi.packets import MAX_PACKET_BYTES, encode
from tests.fakes.lazy import VIEW, LazyFile, content_of
from tests.integration.fuse import syscalls
from tests.integration.fuse.lazytree import LazyTree, lazy_tree

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
    pytest.mark.skipif(choose_adapter(PYFUSE3).adapter is None, reason=choose_adapter(PYFUSE3).reason),
]

_MIB = 1 << 20
_READY = content_of("ready", 2 * _MIB)
_ABSENT = content_of("absent", 9 * _MIB)
_LONG_SECONDS = 60.0
_DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}

Serves = Callable[..., LazyTree]


@pytest.fixture
def serve(area: Path) -> Iterator[Serves]:
    """A view with one file that is complete and one of which nothing comes, until the driver is told."""
    with ExitStack() as stack:

        def begin(*flags: str) -> LazyTree:
            files = [LazyFile("ready", _READY), LazyFile("absent", _ABSENT)]
            tree = stack.enter_context(lazy_tree(area, [*files], PYFUSE3, *flags))
            tree.store.complete("ready")
            tree.driver.serves = False
            return tree

        yield begin


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Readers."""
    with ThreadPoolExecutor(128) as readers:
        yield readers


def _read(path: Path, start: int, length: int = 4096) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, start)
    finally:
        os.close(fd)


def _crowd(pool: ThreadPoolExecutor, tree: LazyTree, readers: int) -> list[Future[bytes]]:
    """Readers that wait for bytes all over the file."""
    futures = [pool.submit(_read, tree.mount / "absent", index % 9 * _MIB) for index in range(readers)]
    deadline = time.monotonic() + _LONG_SECONDS
    while len(tree.driver.wants()) < min(readers, 9) and time.monotonic() < deadline:
        time.sleep(0.02)
    return futures


def test_waiting_readers_stop_nobody(serve: Serves, pool: ThreadPoolExecutor) -> None:
    """128 wait for what is not here, more than the kernel lets wait by itself: another file is read, and in the end all are right."""
    tree = serve()
    waiting = _crowd(pool, tree, 128)
    ready = (tree.mount / "ready").read_bytes()
    is_waiting = not any(future.done() for future in waiting)
    tree.driver.serve_from_now()
    found = [future.result(_LONG_SECONDS) for future in waiting]

    assert (_READY, True) == (ready, is_waiting)
    assert [_ABSENT[index % 9 * _MIB :][:4096] for index in range(128)] == found


def test_readers_get_an_error_when_the_server_dies(serve: Serves, pool: ThreadPoolExecutor) -> None:
    """Nobody else has the connection: those who wait and those who come later are told, and nobody hangs."""
    tree = serve()
    waiting = _crowd(pool, tree, 16)
    tree.server.kill()
    tree.server.wait()
    errors = [future.exception(_LONG_SECONDS) for future in waiting]
    with pytest.raises(OSError, match="not connected") as refusal:
        _read(tree.mount / "ready", 0)

    assert set() == {error.errno for error in errors if isinstance(error, OSError)} - _DEAD
    assert (16, errno.ENOTCONN) == (len([error for error in errors if error]), refusal.value.errno)


def test_last_unmount_ends_the_process(serve: Serves) -> None:
    """The holder is told that nothing is wrong."""
    tree = serve()
    subprocess.run(["umount", tree.mount], check=True)

    assert (Gone(VIEW), 0) == (tree.hear(), tree.server.wait(_LONG_SECONDS))


def test_opening_waits_for_the_digest(serve: Serves, pool: ThreadPoolExecutor) -> None:
    """With `verify: complete` not a byte is read before all are verified."""
    tree = serve("--verify", "complete")
    reading = pool.submit(_read, tree.mount / "absent", 0)
    deadline = time.monotonic() + _LONG_SECONDS
    while not tree.driver.wants() and time.monotonic() < deadline:
        time.sleep(0.02)
    asked = [(want.verified, want.end) for want in tree.driver.wants()]
    tree.driver.serve_from_now()

    assert [(True, len(_ABSENT))] == asked
    assert _ABSENT[:4096] == reading.result(_LONG_SECONDS)


def test_nobody_waits_for_ever(serve: Serves) -> None:
    """`fuse.read_timeout`: EIO, and others go on."""
    tree = serve("--read-timeout", "0.5")
    with pytest.raises(OSError, match="Input/output") as refusal:
        _read(tree.mount / "absent", 0)

    assert (errno.EIO, _READY) == (refusal.value.errno, (tree.mount / "ready").read_bytes())


def test_bytes_that_were_wrong_are_forgotten(serve: Serves) -> None:
    """A handle from before reads no more; who opens anew gets the right ones, though the kernel had the wrong ones cached."""
    tree = serve()
    tree.store.arrive("absent", 0)
    os.pwrite(tree.store._maps["absent"][0], b"wrong", 0)
    with open(tree.mount / "absent", "rb", buffering=0) as before:
        wrong = os.pread(before.fileno(), 5, 0)
        tree.store.begin_again("absent")
        tree.driver.tell_changed(VIEW, tree.store.numbers["absent"])
        tree.driver.serve_from_now()
        deadline = time.monotonic() + _LONG_SECONDS
        while (found := _read(tree.mount / "absent", 0, 5)) == wrong and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(OSError, match="Input/output"):
            os.pread(before.fileno(), 4096, 4 * _MIB)

    assert (b"wrong", _ABSENT[:5]) == (wrong, found)


def test_reader_that_waits_can_be_killed(serve: Serves) -> None:
    """One that reads through the page cache."""
    tree = serve()
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; open(sys.argv[1], 'rb').read(1)", tree.mount / "absent"]
    )
    deadline = time.monotonic() + _LONG_SECONDS
    while not tree.driver.wants() and time.monotonic() < deadline:
        time.sleep(0.02)
    reader.kill()

    assert -signal.SIGKILL == reader.wait(_LONG_SECONDS)


def test_requests_of_killed_readers_stop_nothing(serve: Serves) -> None:
    """A request that is taken back between the kernel's word and our read must not leave the server in read(2)."""
    tree = serve()
    script = "import os, sys\nwhile True: os.stat(sys.argv[1] + os.urandom(4).hex())"
    for _ in range(20):
        readers = [subprocess.Popen([sys.executable, "-c", script, f"{tree.mount}/x"]) for _ in range(4)]
        time.sleep(0.05)
        for reader in readers:
            reader.kill()
        for reader in readers:
            reader.wait()

        assert _READY == (tree.mount / "ready").read_bytes()


def test_connection_that_somebody_else_served_is_refused(area: Path) -> None:
    """pyfuse3 cannot go on where another process stopped: the holder is told, and ends the connection."""
    with lazy_tree(area, [LazyFile("ready", _READY)], PYFUSE3) as tree, ExitStack() as stack:
        fuse_fd = stack.enter_context(_FuseDescriptor(tree.server.pid))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours).settimeout(_LONG_SECONDS)
        with theirs:
            command = [sys.executable, "-m", "modelcsi.cli.main", "fuse-server", "--adapter", PYFUSE3]
            where = ["--link-fd", str(theirs.fileno()), "--root-dir", str(area / "root")]
            second = subprocess.Popen([*command, *where], pass_fds=(theirs.fileno(),))
        stack.callback(second.wait)
        stack.callback(second.kill)
        assert Pong() == read_by_holder(ours.recv(MAX_PACKET_BYTES))
        tree.server.kill()
        tree.server.wait()
        socket.send_fds(ours, [encode(Serve(VIEW))], [fuse_fd.number])
        fuse_fd.close()
        asking = threading.Thread(target=_try, args=(lambda: os.stat(tree.mount / "ready"),))
        asking.start()
        told = read_by_holder(ours.recv(MAX_PACKET_BYTES))
        asking.join(_LONG_SECONDS)

    assert isinstance(told, Gone)
    assert "cannot go on" in told.why
    assert not asking.is_alive()


def _try(call: Callable[[], object]) -> None:
    try:
        call()
    except OSError:
        return


class _FuseDescriptor:
    """A copy of the connection's descriptor, taken out of the server that has it."""

    def __init__(self, pid: int) -> None:
        directory = Path(f"/proc/{pid}/fd")
        name = next(link.name for link in directory.iterdir() if os.readlink(link) == "/dev/fuse")
        pidfd = os.pidfd_open(pid)
        try:
            self.number = syscalls.pidfd_getfd(pidfd, int(name))
        finally:
            os.close(pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Once is enough."""
        if self.number >= 0:
            os.close(self.number)
            self.number = -1
