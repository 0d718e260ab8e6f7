"""System calls that Python's `os` lacks, for tests: each returns the result or raises OSError."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_X86_64 = platform.machine() == "x86_64"
_GETDENTS64 = 217 if _X86_64 else 61
_STATX, _FACCESSAT2 = (332, 439) if _X86_64 else (291, 439)
_READAHEAD = 187 if _X86_64 else 213
_NAME_TO_HANDLE_AT = 303 if _X86_64 else 264
_PIDFD_GETFD = 438
_AT_FDCWD = -100
_STATX_BASIC = 0x7FF
_STATX_BUFFER = 256
_DIRENT = struct.Struct("=QqHB")


def _call(number: int, *arguments: object) -> int:
    result: int = _LIBC.syscall(ctypes.c_long(number), *arguments)
    return _checked(result)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def statx(path: str) -> tuple[int, ...]:
    """(mask, nlink, uid, gid, mode, size, mtime seconds and nanoseconds) of the basic mask."""
    buffer = ctypes.create_string_buffer(_STATX_BUFFER)
    _call(_STATX, ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_int(0), ctypes.c_uint(_STATX_BASIC), buffer)
    mask, _, _, links, uid, gid, mode = struct.unpack_from("=IIQIIIH", buffer)
    (size,) = struct.unpack_from("=Q", buffer, 40)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 112)
    return mask & _STATX_BASIC, links, uid, gid, mode, size, seconds, nanoseconds


def faccessat2(path: str, mode: int, flags: int) -> int:
    """Whether the effective user, or with other `flags` the real one, may."""
    return _call(_FACCESSAT2, ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_int(mode), ctypes.c_int(flags))


def getdents(fd: int, size: int) -> list[tuple[bytes, int, int, int]]:
    """One getdents64(2): (name, inode, offset of the next, type)."""
    buffer = ctypes.create_string_buffer(size)
    length = _call(_GETDENTS64, ctypes.c_int(fd), buffer, ctypes.c_size_t(size))
    found, at = [], 0
    while at < length:
        inode, following, record, kind = _DIRENT.unpack_from(buffer, at)
        name = buffer.raw[at + _DIRENT.size : at + record].split(b"\0")[0]
        found.append((name, inode, following, kind))
        at += record
    return found


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process's descriptor."""
    return _call(_PIDFD_GETFD, ctypes.c_int(pidfd), ctypes.c_int(fd), ctypes.c_uint(0))


def readahead(fd: int, offset: int, count: int) -> int:
    """Begin to read into the page cache."""
    return _call(_READAHEAD, ctypes.c_int(fd), ctypes.c_longlong(offset), ctypes.c_size_t(count))


def name_to_handle_at(path: str) -> int:
    """A file handle, as NFS servers use; only the outcome counts."""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    return _call(
        _NAME_TO_HANDLE_AT,
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(path),
        handle,
        ctypes.byref(mount_id),
        ctypes.c_int(0),
    )


def mincore(mapping: mmap.mmap) -> int:
    """How many pages of a mapping are in memory."""
    pages = -(-len(mapping) // mmap.PAGESIZE)
    told = ctypes.create_string_buffer(pages)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    _checked(_LIBC.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapping)), told))
    return sum(page & 1 for page in told.raw)


def add_watch(path: str, mask: int) -> bool:
    """Whether inotify watches it."""
    fd = _checked(_LIBC.inotify_init1(os.O_CLOEXEC))
    try:
        return _checked(_LIBC.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask))) > 0
    finally:
        os.close(fd)
