"""The adapter that speaks to /dev/fuse itself: the kernel's requests in, a view's answers out.

A file that is complete when it is opened is read by the kernel straight from the store (passthrough): no process of ours is in
the way, and none need be alive. One that still arrives is read through the page cache, and each read waits until its bytes are
there. Nothing of a connection is in this process' memory only: node ids and handles follow from the plan, the rest is in
`opens`; so another process goes on with the same descriptor at any time.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from modelcsi.fuse import abi, answers
from modelcsi.fuse.abi import InitFlag, Opcode, OpenFlag
from modelcsi.fuse.killed import can_tell, is_killed
from modelcsi.fuse.opens import Opens, Superseded
from modelcsi.fuse.stale import forget_pages, stale_files
from modelcsi.view.loop import Loop, Timer
from modelcsi.view.view import View
from modelcsi.view.waits import Need, Range, Waiting

logger = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 32
"""Of one view, before another's turn."""
_MAX_BACKINGS = 4096
"""Files of a view that the kernel has a backing file of: each is an open file in the kernel until the view is unmounted."""
_HANDLE_PASSTHROUGH = 1 << 16
"""In a handle, above the epoch: it is not counted in `opens`."""
_CACHED = OpenFlag.KEEP_CACHE | OpenFlag.NOFLUSH
_LOOK_AT_KILLED_SECONDS = 0.1
_BACKGROUND = 0xFFFF
"""Reads of the page cache are background requests, and those that wait for bytes count: at the kernel's 12, readers of missing
ranges would keep out those of ranges that are there."""
_CONGESTED = 0xC000
_STACK_DEPTH = 1
# Not ASYNC_DIO: a read with O_DIRECT would wait where no signal reaches it (fs/fuse/file.c, fuse_direct_IO: wait_for_completion).
_OFFERED = (
    InitFlag.ASYNC_READ
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.NO_OPENDIR_SUPPORT
    | InitFlag.EXPLICIT_INVAL_DATA
    | InitFlag.INIT_EXT
    | InitFlag.DIRECT_IO_ALLOW_MMAP
    | InitFlag.PASSTHROUGH
    | InitFlag.HAS_RESEND
    | InitFlag.ALLOW_IDMAP  # pods with user namespaces; needs the mount's default_permissions
)
_CHANGING = frozenset(
    {
        *(Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME),
        *(Opcode.LINK, Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.CREATE, Opcode.FALLOCATE),
        *(Opcode.RENAME2, Opcode.COPY_FILE_RANGE, Opcode.TMPFILE),
    }
)
_UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})


class Request(NamedTuple):
    """One of the kernel's."""

    unique: int
    node: int
    thread: int
    """Who asks; 0: nobody in the mount's pid namespace."""
    body: bytes


@dataclass(frozen=True)
class Common:
    """What the connections of one process share."""

    loop: Loop
    waits_at_open: bool = False
    """Whether a file can be opened only when it is verified."""
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(abi.REPLY.size + abi.MAX_READ_BYTES)))
    """For an answer with bytes: each is sent before the next is begun."""


class Connection:
    """One view's mount. `gone` is told once when nothing can be answered any more: the mount has been taken away, or why."""

    def __init__(self, fd: int, view: View, opens: Opens, common: Common, gone: Callable[[str], None]) -> None:
        """Takes over the descriptor. Raises OSError when it is not that of a mount."""
        self._fd = fd
        self._view = view
        self._opens = opens
        self._loop = common.loop
        self._buffer = common.buffer
        self._waits_at_open = common.waits_at_open
        self._gone = gone
        self._has_passthrough = True
        self._waiting: dict[int, tuple[Waiting, int]] = {}
        self._interrupted: Timer | None = None
        self._can_tell = can_tell()
        self._handlers: dict[int, Callable[[Request], object]] = {
            Opcode.INIT: self._init,
            Opcode.LOOKUP: self._look_up,
            Opcode.GETATTR: self._get_attributes,
            Opcode.READLINK: self._read_link,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.RELEASE: self._release,
            Opcode.READDIR: self._read_directory,
            Opcode.READDIRPLUS: self._read_directory_plus,
            Opcode.STATFS: lambda request: self._reply(request.unique, answers.filesystem(self._view.tree)),
            Opcode.INTERRUPT: self._interrupt,
            Opcode.DESTROY: lambda request: self._reply(request.unique),
        }
        os.set_blocking(fd, False)
        self.resend()
        self._loop.watch(fd, self._ready)
        self.changed()  # somebody else may have been told, and killed

    @property
    def view(self) -> View:
        """What is served."""
        return self._view

    def resend(self) -> None:
        """Have the kernel send again what was read and not answered, by whoever. Raises OSError."""
        os.write(self._fd, abi.NOTIFY_RESEND)

    def changed(self) -> None:
        """Files may have a new epoch: who waits with an older handle is told, and then the kernel forgets what it read."""
        stale = stale_files(self._view, self._opens)
        if stale:
            self._view.changed(tuple(file for file, _, _ in stale))
            forget_pages(self._fd, self._opens, stale)

    def close(self) -> None:
        """Serve no more: what waits is left to who is given the descriptor next."""
        self._loop.unwatch(self._fd)
        self._forget_waiting()
        os.close(self._fd)
        self._opens.close()
        self._view.close()

    def _forget_waiting(self) -> None:
        for waiting, _ in self._waiting.values():
            self._view.cancel(waiting)
        self._waiting.clear()

    def _ready(self) -> None:
        for _ in range(_REQUESTS_AT_ONCE):
            if not self._opens.is_mine():
                self._retire()
                return
            try:
                packet = os.read(self._fd, abi.READ_BUFFER_BYTES)
            except BlockingIOError:
                return
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue  # a request whose sender was killed while it was read
                self._end(error)
                return
            self._handle(packet)

    def _retire(self) -> None:
        """This process was stopped for so long that another one was put in its place: that one answers, also what we have read."""
        logger.warning("view %s is served by another process", self._view.id)
        self._loop.unwatch(self._fd)
        self._forget_waiting()

    def _end(self, error: OSError) -> None:
        self._loop.unwatch(self._fd)
        # ENODEV: unmounted; ECONNABORTED: somebody wrote to the connection's `abort`.
        self._gone("" if error.errno == errno.ENODEV else str(error))

    def _handle(self, packet: bytes) -> None:
        _, opcode, unique, node, _, _, thread, _, _ = abi.HEADER.unpack_from(packet)
        request = Request(unique, node, thread, packet[abi.HEADER.size :])
        handler = self._handlers.get(opcode)
        try:
            if handler is not None:
                handler(request)
            elif opcode in _CHANGING:
                self._refuse(unique, errno.EROFS)
            elif opcode not in _UNANSWERED:
                # Of FLUSH, ACCESS, GETXATTR, LISTXATTR, OPENDIR, LSEEK, STATX, POLL and others ENOSYS is what says "never ask
                # again", and the kernel does the right thing without.
                self._refuse(unique, errno.ENOSYS)
        except Superseded:
            self._retire()
        except LookupError:
            self._refuse(unique, errno.ENOENT)
        except Exception:  # a bug, or a disk that fails; the other requests of this and other views are to be answered
            logger.exception("request %d of view %s for node %d", opcode, self._view.id, node)
            self._refuse(unique, errno.EIO)

    def _reply(self, unique: int, body: bytes = b"") -> bool:
        return self._answer(abi.REPLY.pack(abi.REPLY.size + len(body), 0, unique) + body)

    def _refuse(self, unique: int, number: int) -> None:
        self._answer(abi.REPLY.pack(abi.REPLY.size, -number, unique))

    def _answer(self, packet: bytes | memoryview) -> bool:
        """Whether the kernel took it: not when it no longer waits."""
        try:
            os.write(self._fd, packet)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.EPERM}:
                raise
            return False
        return True

    def _init(self, request: Request) -> None:
        major, minor, _, flags = abi.INIT_IN.unpack_from(request.body)
        if major != abi.MAJOR:
            self._reply(request.unique, abi.INIT_OUT.pack(abi.MAJOR, abi.MINOR, *[0] * 11))
            return  # the kernel sends another one in our version
        if flags & InitFlag.INIT_EXT:
            flags |= abi.INIT_FLAGS2.unpack_from(request.body, abi.INIT_IN.size)[0] << 32
        self._opens.begin()
        for file, epoch in self._view.fill.epochs():
            self._opens.settle(file, epoch)
        flags &= _OFFERED
        limits = (_BACKGROUND, _CONGESTED, abi.MAX_WRITE_BYTES, 1, abi.MAX_READ_BYTES // 4096, 0)
        version = (abi.MAJOR, min(minor, abi.MINOR), abi.READ_AHEAD_BYTES)
        more = (flags >> 32, _STACK_DEPTH, 0)
        self._reply(request.unique, abi.INIT_OUT.pack(*version, flags & 0xFFFFFFFF, *limits, *more))

    def _look_up(self, request: Request) -> None:
        name = request.body[:-1]  # ends with a NUL
        if len(name) > answers.MAX_NAME_BYTES:
            self._refuse(request.unique, errno.ENAMETOOLONG)
            return
        child = self._view.tree.children(request.node).get(name)
        self._reply(request.unique, answers.NO_ENTRY if child is None else answers.entry(self._view.tree, child))

    def _get_attributes(self, request: Request) -> None:
        self._reply(request.unique, answers.attribute_answer(self._view.tree, request.node))

    def _read_link(self, request: Request) -> None:
        node = self._view.tree.node(request.node)
        if stat.S_ISLNK(node.mode) and node.content is not None:
            self._reply(request.unique, node.content)
        else:
            self._refuse(request.unique, errno.EINVAL)

    def _read_directory(self, request: Request) -> None:
        self._list(request, with_attributes=False)

    def _read_directory_plus(self, request: Request) -> None:
        self._list(request, with_attributes=True)

    def _list(self, request: Request, *, with_attributes: bool) -> None:
        _, offset, size = abi.READ_IN.unpack_from(request.body)
        listing = answers.directory(self._view.tree, request.node, offset, size, with_attributes=with_attributes)
        self._reply(request.unique, listing)

    def _open(self, request: Request) -> None:
        file = self._view.tree.file(request.node)
        flags, _ = abi.OPEN_IN.unpack_from(request.body)
        if flags & os.O_ACCMODE:
            self._refuse(request.unique, errno.EROFS)
            return
        verdict = self._view.judge_opening(file, waits=self._waits_at_open)
        if verdict.errno:
            self._refuse(request.unique, verdict.errno)
        elif verdict.missing:
            need = Need(file, 0, self._view.tree.node(request.node).size, is_verified=True)
            self._wait(request, need, verdict.missing, self._open)
        else:
            self._answer_open(request, file)

    def _answer_open(self, request: Request, file: int) -> None:
        node = self._view.tree.node(request.node)
        epoch = self._view.fill.epoch(file)
        if node.content is not None or node.size == 0:
            self._reply(request.unique, abi.OPEN_OUT.pack(epoch | _HANDLE_PASSTHROUGH, _CACHED, 0))
            return
        # 1. Somebody reads it through the page cache: so does everybody, until the last of them closes it. That includes this
        #    very request, when it came before and was counted.
        # 2. It is complete: the kernel reads it without us.
        # 3. It arrives.
        backing = self._backing(file, epoch) if self._opens.cached(file) == 0 else 0
        if backing:
            answer = abi.OPEN_OUT.pack(epoch | _HANDLE_PASSTHROUGH, OpenFlag.PASSTHROUGH | OpenFlag.NOFLUSH, backing)
            self._reply(request.unique, answer)
            return
        self._opens.count(request.unique, file, 1)
        if not self._reply(request.unique, abi.OPEN_OUT.pack(epoch, _CACHED, 0)):
            self._opens.count(request.unique, file, -1)

    def _backing(self, file: int, epoch: int) -> int:
        """The kernel's id of the file's backing file; 0: it is read through the page cache.

        One for each inode and as long as the view: while one handle uses it, another id of the same file is EBUSY to the
        kernel (fs/fuse/iomode.c, fuse_inode_uncached_io_start).
        """
        backing = self._opens.backing(file, epoch)
        if backing or not self._has_passthrough or not self._view.is_complete(file):
            return backing
        if self._opens.backing_count >= _MAX_BACKINGS:
            return 0
        content = self._view.open_complete(file)
        try:
            # An id comes back only through a buffer that can be written (fcntl.ioctl).
            backing = int(fcntl.ioctl(self._fd, abi.IOCTL_BACKING_OPEN, bytearray(abi.BACKING_MAP.pack(content, 0, 0))))
        except OSError as error:
            # EPERM: the kernel was not told of passthrough, or this process may not; ELOOP: the store is on an overlay.
            logger.info("no passthrough for view %s: %s", self._view.id, error)
            self._has_passthrough = False
            return 0
        finally:
            os.close(content)
        replaced = self._opens.keep_backing(file, backing, epoch)
        if replaced:
            fcntl.ioctl(self._fd, abi.IOCTL_BACKING_CLOSE, bytearray(abi.BACKING_ID.pack(replaced)))
        return backing

    def _release(self, request: Request) -> None:
        (handle,) = abi.RELEASE_IN.unpack_from(request.body)
        if not handle & _HANDLE_PASSTHROUGH:
            self._opens.count(request.unique, self._view.tree.file(request.node), -1)
        self._reply(request.unique)

    def _read(self, request: Request) -> None:
        handle, start, size = abi.READ_IN.unpack_from(request.body)
        file = self._view.tree.file(request.node)
        epoch = handle & (_HANDLE_PASSTHROUGH - 1)
        located = self._view.locate(file, start, start + size, epoch)
        if located.fd >= 0:
            self._send_bytes(request, located.fd, start, min(size, self._view.tree.node(request.node).size - start))
        elif located.content is not None:
            self._reply(request.unique, located.content[start : start + size])
        elif located.errno:
            self._refuse(request.unique, located.errno)
        else:
            need = Need(file, start, start + size, epoch=epoch, reader=request.thread)
            self._wait(request, need, located.missing, self._read)

    def _send_bytes(self, request: Request, fd: int, start: int, size: int) -> None:
        end = abi.REPLY.size + size
        if os.preadv(fd, [self._buffer[abi.REPLY.size : end]], start) != size:
            # A mark without its bytes (a power cut), or content that was cut. A short answer would be zeros to the reader.
            self._refuse(request.unique, errno.EIO)
            return
        abi.REPLY.pack_into(self._buffer, 0, end, 0, request.unique)
        self._answer(self._buffer[:end])

    def _wait(self, request: Request, need: Need, missing: tuple[Range, ...], again: Callable[[Request], None]) -> None:
        def resume(number: int) -> None:
            del self._waiting[request.unique]
            if number:
                self._refuse(request.unique, number)
            else:
                again(request)

        self._waiting[request.unique] = (self._view.wait(need, missing, resume), request.thread)

    def _interrupt(self, request: Request) -> None:
        """Somebody who waits has a signal; see `killed`."""
        (unique,) = abi.INTERRUPT_IN.unpack_from(request.body)
        if unique not in self._waiting:
            return  # answered meanwhile
        waiting, thread = self._waiting[unique]
        if not self._can_tell or thread == 0 or is_killed(thread):
            self._give_up(unique)
            return
        self._waiting[unique] = (waiting, -thread)
        if self._interrupted is None:
            self._look_at_killed_later()

    def _look_at_killed_later(self) -> None:
        self._interrupted = self._loop.call_at(self._loop.now() + _LOOK_AT_KILLED_SECONDS, self._look_at_killed)

    def _look_at_killed(self) -> None:
        """Of a thread that had one signal the kernel does not tell that it has another."""
        self._interrupted = None
        marked = [(unique, -thread) for unique, (_, thread) in self._waiting.items() if thread < 0]
        for unique, thread in marked:
            if is_killed(thread):
                self._give_up(unique)
        if marked:
            self._look_at_killed_later()

    def _give_up(self, unique: int) -> None:
        waiting, _ = self._waiting.pop(unique)
        self._view.cancel(waiting)
        self._refuse(unique, errno.EINTR)
