"""The portable adapter: pyfuse3, for kernels that have no passthrough and cannot send requests again.

One process serves one view. Nobody else has its descriptor, so its death ends the connection: readers get an error and do not
hang. What libfuse settles with the kernel by itself would let a dozen waiting readers stop all others, so INIT is answered by
libfuse and amended here. An INTERRUPT ends in libfuse, and pyfuse3 hears nothing of it: a read with O_DIRECT that waits can be
killed only when it is answered, others at once. One thread; trio and pyfuse3 are imported in this package alone.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import signal
import socket
import stat
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pyfuse3
import trio

from modelcsi.fuse import abi
from modelcsi.fuse.server import Settings
from modelcsi.fuse.trioloop import TrioLoop
from modelcsi.mount import wire
from modelcsi.mount.adapters import PYFUSE3
from modelcsi.mount.link import HolderLink
from modelcsi.store.layout import StoreLayout
from modelcsi.view.link import Link
from modelcsi.view.readahead import ReadAhead
from modelcsi.view.sources import Sources
from modelcsi.view.tree import ROOT, Node
from modelcsi.view.view import Located, Surroundings, View
from modelcsi.view.waits import Need

logger = logging.getLogger(__name__)

_FOREVER_SECONDS = 1e6
_MAX_WAITING = 4096
"""Requests that may wait at a time: the kernel's read-ahead makes four of 1 MiB for each reader. Beyond that nobody is answered.
A waiting one costs about 10 KiB."""
_EPOCH_BITS = 16
_BLOCK_BYTES = 4096
_NAME_BYTES = 255
_INIT_BYTES = (1 << 20) + 4096
"""Room for the largest write that libfuse agrees to: with less, read(2) of a connection that was served before is EINVAL."""
_ASYNC_DIO = 1 << 15
_INIT_FLAGS_AT = abi.HEADER.size + 12
_READ_AHEAD_AT = abi.REPLY.size + 8
_BACKGROUND_AT = abi.REPLY.size + 16
_BACKGROUND = _MAX_WAITING
"""Reads of the page cache are background requests, and those that wait for bytes count: at the kernel's 12, readers of missing
ranges would keep out those of ranges that are there."""
_CONGESTED = _BACKGROUND // 4 * 3
_WAKE_SECONDS = 0.5


class _Operations(pyfuse3.Operations):
    """What the kernel asks, translated. Errors of ours must not leave: one would end the process, and the view with it."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, view: View, *, is_verified_only: bool) -> None:
        super().__init__()
        self._view = view
        self._is_verified_only = is_verified_only
        # One for all: pyfuse3 answers with it before anything else runs.
        self._buffer = memoryview(bytearray(abi.MAX_READ_BYTES))

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if len(name) > _NAME_BYTES:
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
        try:
            number = self._view.tree.children(parent_inode).get(name)
        except LookupError:
            raise pyfuse3.FUSEError(errno.ENOTDIR) from None
        if number is None:
            absent = pyfuse3.EntryAttributes()
            absent.st_ino = 0  # and the kernel may remember it: the tree never changes
            absent.entry_timeout = _FOREVER_SECONDS
            return absent
        return self._attributes(number)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return self._node(inode).content or b""

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        tree = self._view.tree
        listing = ((b".", fh), (b"..", tree.parent(fh)), *tree.listing(fh)[max(0, start_id - 2) :])
        for place, (name, number) in enumerate(listing[min(start_id, 2) :], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self._attributes(number), place):
                return

    async def releasedir(self, fh: int) -> None:
        """Handles have no state."""

    async def release(self, fh: int) -> None:
        """Handles have no state."""

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nodes are places in the plan: they are never forgotten."""

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = _BLOCK_BYTES
        found.f_blocks = -(-self._view.tree.size_bytes // _BLOCK_BYTES)
        found.f_files = self._view.tree.count + ROOT
        found.f_namemax = _NAME_BYTES
        return found

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        try:
            file = self._view.tree.file(inode)
        except LookupError:
            raise pyfuse3.FUSEError(errno.ESTALE) from None
        if self._is_verified_only:
            await self._meet(Need(file, 0, self._node(inode).size, is_verified=True))
        return pyfuse3.FileInfo(fh=file << _EPOCH_BITS | self._view.fill.epoch(file), keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        file, epoch = fh >> _EPOCH_BITS, fh & ((1 << _EPOCH_BITS) - 1)
        while True:
            located = self._view.locate(file, off, off + size, epoch)
            if located.errno:
                raise pyfuse3.FUSEError(located.errno)
            if located.missing:
                await self._meet(Need(file, off, off + size, epoch=epoch))
                continue
            if located.content is not None:
                return located.content[off : off + size]
            return await self._read_at(located, off, min(size, self._size(file) - off), file << _EPOCH_BITS | epoch)

    async def _read_at(self, located: Located, off: int, size: int, fh: int) -> bytes:
        """From the page cache at once; who must wait for the disk does so in a thread, in nobody's way."""
        try:
            at_once = self._buffer[:size]
            if os.preadv(located.fd, [at_once], off, os.RWF_NOWAIT) == size:
                return cast("bytes", at_once)  # pyfuse3 takes any buffer
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EOPNOTSUPP}:
                raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        fd = os.dup(located.fd)  # the view may close its own meanwhile
        try:
            content = await trio.to_thread.run_sync(os.pread, fd, size, off)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        finally:
            os.close(fd)
        # Bytes that turned out wrong meanwhile; or a mark without its bytes (a power cut): a short answer would be zeros.
        if self._view.fill.epoch(fh >> _EPOCH_BITS) != fh & ((1 << _EPOCH_BITS) - 1) or len(content) != size:
            raise pyfuse3.FUSEError(errno.EIO)
        return content

    async def _meet(self, need: Need) -> None:
        """Wait until it is worth to look again; FUSEError when that is hopeless, or took too long."""
        verdict = self._view.judge(need)
        if not verdict.missing:
            if verdict.errno:
                raise pyfuse3.FUSEError(verdict.errno)
            return
        is_over = trio.Event()
        number = 0

        def resume(told: int) -> None:
            nonlocal number
            number = told
            is_over.set()

        waiting = self._view.wait(need, verdict.missing, resume)
        try:
            await is_over.wait()
        finally:
            self._view.cancel(waiting)
        if number:
            raise pyfuse3.FUSEError(number)

    def _node(self, number: int) -> Node:
        try:
            return self._view.tree.node(number)
        except LookupError:
            raise pyfuse3.FUSEError(errno.ESTALE) from None

    def _size(self, file: int) -> int:
        return self._view.tree.node(self._view.tree.number(file)).size

    def _attributes(self, number: int) -> pyfuse3.EntryAttributes:
        node = self._node(number)
        found = pyfuse3.EntryAttributes()
        found.st_ino = number
        found.entry_timeout = found.attr_timeout = _FOREVER_SECONDS
        found.st_mode = node.mode
        found.st_nlink = 2 + self._view.tree.subdirectories(number) if stat.S_ISDIR(node.mode) else 1
        found.st_size = node.size
        found.st_blksize = _BLOCK_BYTES
        found.st_blocks = -(-node.size // 512)
        found.st_atime_ns = found.st_mtime_ns = found.st_ctime_ns = node.mtime_ns
        return found


class _Server:
    """One view, from `Serve` until its last mount is gone."""

    def __init__(self, link: HolderLink, root_dir: Path, settings: Settings) -> None:
        self._link = link
        self._layout = StoreLayout(root_dir)
        self._settings = settings
        self._view: View | None = None

    async def run(self) -> None:
        """Until there is nothing to serve, or the holder wants no more."""
        self._link.ready()
        async with trio.open_nursery() as nursery:
            loop = TrioLoop(nursery)
            loop.watch(self._link.fileno(), lambda: self._obey(nursery, loop))
            await trio.sleep_forever()

    def changed(self, view: str, files: tuple[int, ...]) -> None:
        """`LinkObserver.changed`."""
        if self._view is None or view != self._view.id:
            return
        self._view.changed(files)
        # In a thread, the only one that lasts: the kernel locks each page before it drops it, and one that is being read is
        # unlocked by our answer.
        nodes = [self._view.tree.number(file) for file in files]
        threading.Thread(target=_forget_pages, args=(nodes,), name="forget", daemon=True).start()

    def connected(self) -> None:
        """`LinkObserver.connected`."""
        if self._view is not None:
            self._view.look_again()

    def _obey(self, nursery: trio.Nursery, loop: TrioLoop) -> None:
        for order in self._link.take():
            match order:
                case wire.Serve(view=view), int() as fuse_fd:
                    nursery.start_soon(self._serve, view, fuse_fd, nursery, loop)
                case ((wire.Drop() | wire.Leave()), _):
                    nursery.cancel_scope.cancel()

    async def _serve(self, view: str, fuse_fd: int, nursery: trio.Nursery, loop: TrioLoop) -> None:
        why = ""
        demand = Link(self._layout.demand_socket, PYFUSE3, loop, self)
        around = Surroundings(
            layout=self._layout,
            demand=demand,
            loop=loop,
            ids=itertools.count(1),
            sources=Sources(),
            read_ahead=ReadAhead(),
            timeout_seconds=self._settings.read_timeout_seconds,
        )
        try:
            self._view = View(view, around)
            demand.connect()
            is_verified_only = self._settings.verify == "complete"
            await _begin(fuse_fd, _Operations(self._view, is_verified_only=is_verified_only))
            self._link.served(view)
            await pyfuse3.main(max_tasks=_MAX_WAITING)
        except (OSError, ValueError) as error:
            logger.warning("view %s cannot be served: %s", view, error)
            why = str(error)
        self._link.gone(view, why)
        nursery.cancel_scope.cancel()


async def _begin(fuse_fd: int, operations: _Operations) -> None:
    """Have libfuse and the kernel agree, so that `pyfuse3.main` serves what comes next on `fuse_fd`, which is libfuse's then.

    libfuse first speaks to a socket of ours: from the kernel's INIT it is kept what it should not ask for, and to its answer
    is added what it has no option for. Then the socket's number becomes the connection's. Raises OSError.
    """
    os.set_blocking(fuse_fd, False)
    await trio.lowlevel.wait_readable(fuse_fd)
    request = bytearray(os.read(fuse_fd, _INIT_BYTES))
    if abi.HEADER.unpack_from(request)[1] != abi.Opcode.INIT:
        raise OSError(errno.EBADMSG, "somebody else has served this connection, and pyfuse3 cannot go on with it")
    *_, flags = abi.INIT_IN.unpack_from(request, abi.HEADER.size)
    # Without it a read with O_DIRECT waits so that nothing interrupts it; with it INTERRUPT is sent, and unheard.
    request[_INIT_FLAGS_AT : _INIT_FLAGS_AT + 4] = (flags & ~_ASYNC_DIO).to_bytes(4, sys.byteorder)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with ours:
        session_fd = theirs.detach()
        pyfuse3.init(operations, f"/dev/fd/{session_fd}", set())
        ours.send(request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            await trio.lowlevel.wait_readable(ours)
            answer = bytearray(ours.recv(_INIT_BYTES))
            nursery.cancel_scope.cancel()  # it waits for more; nothing that it read is lost
        os.dup2(fuse_fd, session_fd, inheritable=False)
    struct.pack_into("=I", answer, _READ_AHEAD_AT, abi.READ_AHEAD_BYTES)
    struct.pack_into("=HH", answer, _BACKGROUND_AT, _BACKGROUND, _CONGESTED)
    os.write(fuse_fd, answer)
    os.close(fuse_fd)
    # A read(2) that finds nothing fails in pyfuse3, and one that waits would stop all: a signal ends it (`_keep_awake`).
    os.set_blocking(session_fd, True)


def _keep_awake() -> None:
    """Twice a second, end a read(2) of the descriptor that finds nothing: who sent the request that epoll(7) told of may have been
    killed meanwhile.
    """
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _WAKE_SECONDS, _WAKE_SECONDS)


def _forget_pages(nodes: Sequence[int]) -> None:
    for node in nodes:
        try:
            pyfuse3.invalidate_inode(node)
        except OSError as error:
            if error.errno != errno.ENOENT:  # nobody ever looked at it
                logger.info("stale pages are left: %s", error)
                return


def serve(holder_fd: int, root_dir: Path, settings: Settings) -> int:
    """Serve the one view that the holder hands over through `holder_fd`, until its last mount is gone; returns the exit status."""
    _keep_awake()
    link = HolderLink(holder_fd, root_dir, PYFUSE3)
    trio.run(_Server(link, root_dir, settings).run)
    return 0
