"""System calls on what is in files: reading of every kind, mappings, copies, locks, and what else may be asked of a descriptor."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import resource
import select
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.integration.fuse import syscalls
from tests.integration.fuse.probing import BIG, EMPTY, MIB, SMALL, Probe, Probes, digest, opened, with_fd

PROBES = Probes()
_IN_ALL = 0xFFF


def _preadv(fd: int, sizes: tuple[int, ...], offset: int, flags: int = 0) -> object:
    buffers = [bytearray(size) for size in sizes]
    return os.preadv(fd, buffers, offset, flags), digest(b"".join(buffers))


def _whole(fd: int, size: int) -> str:
    seen = hashlib.sha256()
    while block := os.read(fd, size):
        seen.update(block)
    return seen.hexdigest()


PROBES.several(
    "read",
    {
        "all, 1 MiB a time": with_fd(lambda fd: _whole(fd, MIB)),
        "all, 4097 bytes a time": with_fd(lambda fd: _whole(fd, 4097)),
        "small file": with_fd(lambda fd: os.read(fd, 4096), SMALL),
        "empty file": with_fd(lambda fd: os.read(fd, 10), EMPTY),
        "through a link": with_fd(lambda fd: _whole(fd, MIB), "sub/up"),
        "nothing": with_fd(lambda fd: os.read(fd, 0)),
        "directory": with_fd(lambda fd: os.read(fd, 10), "sub"),
        "path": with_fd(lambda fd: os.read(fd, 10), flags=os.O_PATH),
        "pread": with_fd(lambda fd: digest(os.pread(fd, 70_000, 1_234_567))),
        "pread over the end": with_fd(lambda fd: digest(os.pread(fd, 2 * MIB, os.fstat(fd).st_size - 5))),
        "pread at the end": with_fd(lambda fd: os.pread(fd, 10, os.fstat(fd).st_size)),
        "pread behind the end": with_fd(lambda fd: os.pread(fd, 10, 1 << 50)),
        "pread before the start": with_fd(lambda fd: os.pread(fd, 10, -1)),
        "pread at the largest offset": with_fd(lambda fd: os.pread(fd, 10, (1 << 63) - 1)),
        "readv": with_fd(lambda fd: (os.readv(fd, [bytearray(5), bytearray(0), bytearray(MIB)]), os.lseek(fd, 0, 1))),
        "preadv": with_fd(lambda fd: _preadv(fd, (7, 70_000, 1), 99)),
        "preadv2 hipri": with_fd(lambda fd: _preadv(fd, (4096,), 0, os.RWF_HIPRI)),
        "preadv2 nowait": with_fd(lambda fd: (os.pread(fd, 4096, 0)[:0], _preadv(fd, (4096,), 0, os.RWF_NOWAIT))),
        "write": with_fd(lambda fd: os.write(fd, b"x")),
        "ftruncate": with_fd(lambda fd: os.ftruncate(fd, 0)),
        "fsync": with_fd(os.fsync),
        "fdatasync": with_fd(os.fdatasync),
        "fchmod": with_fd(lambda fd: os.fchmod(fd, 0o777)),
        "futimens": with_fd(os.utime),
        "fallocate": with_fd(lambda fd: os.posix_fallocate(fd, 0, 4096)),
        "fchdir": with_fd(os.fchdir),
        "position after dup": with_fd(lambda fd: (os.read(fd, 7)[:0], dup_position(fd))),
        "again through /proc": with_fd(lambda fd: digest(Path(f"/proc/self/fd/{fd}").read_bytes())),
        "readahead": with_fd(lambda fd: syscalls.readahead(fd, 0, MIB)),
        "isatty": with_fd(os.isatty),
    },
)


def dup_position(fd: int) -> int:
    """Where a copy of the descriptor is."""
    copy = os.dup(fd)
    try:
        return os.lseek(copy, 0, os.SEEK_CUR)
    finally:
        os.close(copy)


PROBES.several(
    "lseek",
    {
        "end": with_fd(lambda fd: os.lseek(fd, 0, os.SEEK_END)),
        "behind the end": with_fd(lambda fd: os.lseek(fd, 10, os.SEEK_END)),
        "before the start": with_fd(lambda fd: os.lseek(fd, -1, os.SEEK_SET)),
        "data": with_fd(lambda fd: os.lseek(fd, 5, os.SEEK_DATA)),
        "hole": with_fd(lambda fd: os.lseek(fd, 5, os.SEEK_HOLE)),
        "data behind the end": with_fd(lambda fd: os.lseek(fd, os.fstat(fd).st_size, os.SEEK_DATA)),
        "hole of an empty file": with_fd(lambda fd: os.lseek(fd, 0, os.SEEK_HOLE), EMPTY),
        "unknown": with_fd(lambda fd: os.lseek(fd, 0, 77)),
        "too far": with_fd(lambda fd: os.lseek(fd, (1 << 63) - 1, os.SEEK_SET)),
    },
)


def _direct(size: int, offset: int) -> Probe:
    def run(root: Path) -> object:
        with opened(root / BIG, os.O_RDONLY | os.O_DIRECT) as fd, mmap.mmap(-1, max(size, mmap.PAGESIZE)) as memory:
            view = memoryview(memory)[:size]
            try:
                length = os.preadv(fd, [view], offset)
                return length, digest(view[:length])
            finally:
                view.release()

    return run


PROBES.several(
    "direct",
    {
        "first 4 KiB": _direct(4096, 0),
        "1 MiB in the middle": _direct(MIB, MIB),
        "all": _direct(4 * MIB, 0),
        "over the end": _direct(MIB, 3 * MIB),
        "behind the end": _direct(4096, 16 * MIB),
        "not aligned": _direct(1000, 7),
    },
)


def _mapped(flags: int, protection: int, how: Callable[[mmap.mmap], object], open_flags: int = os.O_RDONLY) -> Probe:
    def run(root: Path) -> object:
        with opened(root / BIG, open_flags) as fd, mmap.mmap(fd, 0, flags=flags, prot=protection) as mapping:
            return how(mapping)

    return run


def _change_own_copy(mapping: mmap.mmap) -> object:
    mapping[5:8] = b"new"
    return mapping[5:8], digest(mapping[8:])


def _advised(advice: int) -> Callable[[mmap.mmap], object]:
    def read(mapping: mmap.mmap) -> object:
        mapping.madvise(advice)
        return digest(mapping)

    return read


def _in_core(mapping: mmap.mmap) -> object:
    digest(mapping)
    return syscalls.mincore(mapping)


PROBES.several(
    "mmap",
    {
        "private": _mapped(mmap.MAP_PRIVATE, mmap.PROT_READ, digest),
        "shared": _mapped(mmap.MAP_SHARED, mmap.PROT_READ, digest),
        "populated": _mapped(mmap.MAP_PRIVATE | mmap.MAP_POPULATE, mmap.PROT_READ, digest),
        "executable": _mapped(mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC, digest),
        "private to write": _mapped(mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, _change_own_copy),
        "shared to write": _mapped(mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, digest),
        "direct": _mapped(mmap.MAP_SHARED, mmap.PROT_READ, digest, os.O_RDONLY | os.O_DIRECT),
        "in core": _mapped(mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, _in_core),
        **{
            f"madvise {name}": _mapped(
                mmap.MAP_PRIVATE,
                mmap.PROT_READ,
                _advised(getattr(mmap, f"MADV_{name}")),
            )
            for name in ("NORMAL", "RANDOM", "SEQUENTIAL", "WILLNEED", "DONTNEED", "HUGEPAGE")
        },
    },
)


def _whole_after_advice(advice: int) -> Callable[[int], object]:
    def read(fd: int) -> object:
        os.posix_fadvise(fd, 0, 0, advice)
        return _whole(fd, MIB)

    return read


PROBES.several(
    "fadvise",
    {
        name: with_fd(_whole_after_advice(getattr(os, f"POSIX_FADV_{name}")))
        for name in ("NORMAL", "RANDOM", "SEQUENTIAL", "WILLNEED", "NOREUSE", "DONTNEED")
    },
)


def _sent(function: Callable[[int, int], int]) -> Probe:
    """All of the file, moved by the kernel into another."""

    def run(root: Path) -> object:
        with opened(root / BIG) as source, tempfile.TemporaryFile(dir=root.parent) as target:
            while function(source, target.fileno()):
                pass
            target.seek(0)
            return digest(target.read())

    return run


@PROBES.one
def sendfile_to_a_socket(root: Path) -> object:
    """As servers of files do."""
    ours, theirs = socket.socketpair()
    seen = hashlib.sha256()

    def drain() -> None:
        while block := theirs.recv(MIB):
            seen.update(block)

    with ours, theirs, opened(root / BIG) as fd:
        thread = threading.Thread(target=drain)
        thread.start()
        offset = 0
        while sent := os.sendfile(ours.fileno(), fd, offset, MIB):
            offset += sent
        ours.shutdown(socket.SHUT_WR)
        thread.join()
    return seen.hexdigest()


@PROBES.one
def splice_to_a_pipe(root: Path) -> object:
    """Without a copy to the program."""
    with ExitStack() as stack:
        receiving, sending = os.pipe()
        stack.callback(os.close, receiving)
        stack.callback(os.close, sending)
        fd = stack.enter_context(opened(root / BIG))
        seen = hashlib.sha256()
        while length := os.splice(fd, sending, 1 << 16):
            seen.update(os.read(receiving, length))
        return seen.hexdigest()


PROBES.several(
    "copy",
    {
        "sendfile": _sent(lambda source, target: os.sendfile(target, source, None, MIB)),
        "copy_file_range": _sent(lambda source, target: os.copy_file_range(source, target, MIB)),
        "ficlone": lambda root: with_fd(lambda fd: _clone(fd, root))(root),
    },
)


def _clone(fd: int, root: Path) -> object:
    with tempfile.TemporaryFile(dir=root.parent) as target:
        return fcntl.ioctl(target.fileno(), 0x40049409, fd)


def _locked(lock: Callable[[int, int], object], fd: int, kind: int) -> bool:
    lock(fd, kind | fcntl.LOCK_NB)
    return True


PROBES.several(
    "lock",
    {
        "flock shared": with_fd(lambda fd: _locked(fcntl.flock, fd, fcntl.LOCK_SH)),
        "flock exclusive": with_fd(lambda fd: _locked(fcntl.flock, fd, fcntl.LOCK_EX)),
        "flock held by another": lambda root: with_fd(lambda fd: _flock_twice(fd, root))(root),
        "fcntl read": with_fd(lambda fd: _locked(fcntl.lockf, fd, fcntl.LOCK_SH)),
        "fcntl write": with_fd(lambda fd: _locked(fcntl.lockf, fd, fcntl.LOCK_EX)),
        "read lease": with_fd(lambda fd: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)),
        "get flags": with_fd(lambda fd: fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE),
    },
)


def _flock_twice(fd: int, root: Path) -> object:
    fcntl.flock(fd, fcntl.LOCK_EX)
    with opened(root / BIG) as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return "had two"


PROBES.several(
    "attributes",
    {
        "listxattr": lambda root: os.listxattr(root / BIG),
        "getxattr user": lambda root: os.getxattr(root / BIG, "user.x"),
        "getxattr security": lambda root: os.getxattr(root / BIG, "security.capability"),
        "getxattr acl": lambda root: os.getxattr(root / BIG, "system.posix_acl_access"),
        "getxattr of a directory": lambda root: os.getxattr(root / "sub", "user.x"),
        "flags ioctl": with_fd(lambda fd: bool(fcntl.ioctl(fd, 0x80086601, bytes(8)))),
        "size of what is left": with_fd(lambda fd: fcntl.ioctl(fd, 0x541B, bytes(4))),
        "unknown ioctl": with_fd(lambda fd: fcntl.ioctl(fd, 0x5413, bytes(8))),
        "handle": lambda root: syscalls.name_to_handle_at(str(root / BIG)),
        "longest name": lambda root: (os.pathconf(root, "PC_NAME_MAX"), os.pathconf(root, "PC_PATH_MAX")),
    },
)


@PROBES.one
def statvfs(root: Path) -> object:
    """The flags, and what a program plans its reads by."""
    found = os.statvfs(root)
    flags = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    return found.f_flag & flags, found.f_namemax, found.f_bsize


def _poll(fd: int) -> object:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return [events for _, events in poll.poll(5000)]


def _epoll(fd: int) -> object:
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        return epoll.poll(5)[0][1]


PROBES.several(
    "watch",
    {
        "inotify file": lambda root: syscalls.add_watch(str(root / BIG), _IN_ALL),
        "inotify directory": lambda root: syscalls.add_watch(str(root / "sub"), _IN_ALL),
        "inotify nothing": lambda root: syscalls.add_watch(str(root / "nothing"), _IN_ALL),
        "poll": with_fd(_poll),
        "select": with_fd(lambda fd: [len(part) for part in select.select([fd], [fd], [], 5)]),
        "epoll": with_fd(_epoll),
    },
)


@PROBES.one
def many_threads_at_random_places(root: Path) -> object:
    """As loaders of shards do."""
    places = [(index * 7919 * 641) % (3 * MIB) for index in range(256)]
    seen: dict[int, str] = {}

    def read(mine: list[int]) -> None:
        for place in mine:
            seen[place] = digest(os.pread(fd, 10_000, place))

    with opened(root / BIG) as fd:
        threads = [threading.Thread(target=read, args=(places[index::16],)) for index in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sorted(seen.items())


@PROBES.one
def many_descriptors_of_one_file(root: Path) -> object:
    """As many workers of one loader have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        descriptors = [stack.enter_context(opened(root / BIG)) for _ in range(min(500, limit // 2))]
        return {digest(os.pread(fd, 4096, 4096)) for fd in descriptors}
