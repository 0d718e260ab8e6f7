"""The mount system calls that Python's `os` lacks, by ctypes; each failure is an OSError with the kernel's errno.

No decisions: what is mounted where, and what a failure means, is `mounter`'s. System call numbers from 424 on are the same on
every architecture that this driver can run on. ctypes releases the GIL during a call. Stateless, any thread.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_LIBC.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)
_LIBC.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOUNT_SETATTR = 442
_OPEN_TREE_CLONE = 1
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_INO = 0x100
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000
_MNT_DETACH = 0x2
_UMOUNT_NOFOLLOW = 0x8
_LOG_BYTES = 8192


class MountFlag(enum.IntFlag):
    """Restrictions of one mount; MOUNT_ATTR_* and MS_* have the same numbers for these."""

    READ_ONLY = 0x1
    NO_SUID = 0x2
    NO_DEVICES = 0x4
    NO_EXEC = 0x8


class _MountAttr(ctypes.Structure):
    """`struct mount_attr` of linux/mount.h, first version."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _Statx(ctypes.Structure):
    """`struct statx` of linux/stat.h, as far as it is read here."""

    _fields_ = (
        ("head", ctypes.c_uint32 * 8),
        ("inode", ctypes.c_uint64),
        ("middle", ctypes.c_uint8 * 96),
        ("device_major", ctypes.c_uint32),
        ("device_minor", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 112),
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file of which file system."""

    device: str
    """`major:minor`, as in the mount table."""
    inode: int


def identify(descriptor: int) -> Identity:
    """What `descriptor` is open at, from what the kernel knows: a file system's server, which may be stuck, is not asked."""
    found = _Statx()
    flags = ctypes.c_int(_AT_EMPTY_PATH | _AT_STATX_DONT_SYNC)
    _checked(_LIBC.statx(ctypes.c_int(descriptor), b"", flags, ctypes.c_uint(_STATX_INO), ctypes.byref(found)))
    return Identity(f"{found.device_major}:{found.device_minor}", found.inode)


def identify_path(path: str) -> Identity:
    """`identify` of what is at a path, of a symlink itself."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return identify(descriptor)
    finally:
        os.close(descriptor)


def new_mount(fs_type: str, parameters: Mapping[str, str | None], flags: MountFlag) -> int:
    """A descriptor of a new file system's mount, not yet attached, restricted by `flags`; a parameter of None is a flag.

    Both vanish with the descriptor unless `move_mount` attaches it.
    """
    fs_fd = _syscall(_SYS_FSOPEN, os.fsencode(fs_type), ctypes.c_uint(_FSOPEN_CLOEXEC))
    try:
        for name, value in parameters.items():
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            _configure(fs_fd, command, os.fsencode(name), None if value is None else os.fsencode(value))
        _configure(fs_fd, _FSCONFIG_CMD_CREATE, None, None)
        return _syscall(_SYS_FSMOUNT, ctypes.c_int(fs_fd), ctypes.c_uint(_FSMOUNT_CLOEXEC), ctypes.c_uint(flags))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}{_told(fs_fd)}") from error
    finally:
        os.close(fs_fd)


def has_descriptor_calls() -> bool:
    """Whether this process may use open_tree, mount_setattr and move_mount (kernel >= 5.12, and no seccomp filter in the way).

    Asked with a descriptor that cannot exist, so nothing happens. EBADF comes only from the call itself; ENOSYS is an old kernel
    or a new filter, EPERM an old filter (or no CAP_SYS_ADMIN, and then the fallback tells the same).
    """
    probes: tuple[Callable[[], object], ...] = (
        lambda: _open_tree(-1),
        lambda: _mount_setattr(-1, MountFlag.READ_ONLY),
        lambda: move_mount(-1, -1),
    )
    return all(_errno_of(probe) == errno.EBADF for probe in probes)


def clone_mount(source_fd: int, flags: MountFlag) -> int:
    """A descriptor of a new, not yet attached mount of the directory `source_fd`, restricted by `flags`; mounts below are left out.

    The mount vanishes with its descriptor unless `move_mount` attaches it. What restricts the source's mount restricts it too.
    """
    tree_fd = _open_tree(source_fd)
    try:
        _mount_setattr(tree_fd, flags)
    except BaseException:
        os.close(tree_fd)
        raise
    return tree_fd


def move_mount(tree_fd: int, target_fd: int) -> None:
    """Attach the mount `tree_fd` on the directory `target_fd`, with all its flags, in one step."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _syscall(_SYS_MOVE_MOUNT, ctypes.c_int(tree_fd), b"", ctypes.c_int(target_fd), b"", ctypes.c_uint(flags))


def bind_mount(source: str, target: str) -> None:
    """mount(2): the directory `source` is shown at `target` too, with the flags of the source's mount."""
    _checked(_LIBC.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None))


def restrict_mount(target: str, flags: MountFlag) -> None:
    """mount(2): give the mount at `target` exactly these restrictions; how it keeps access times is not changed."""
    _checked(_LIBC.mount(None, os.fsencode(target), None, _MS_REMOUNT | _MS_BIND | int(flags), None))


def unmount(target: str, *, detach: bool) -> None:
    """umount2(2): take away the topmost mount at `target`, never through a symlink; EINVAL when there is none.

    With `detach` it leaves the directory tree at once, with all mounts below it, and ends when its last user does.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if detach else 0)
    _checked(_LIBC.umount2(os.fsencode(target), flags))


def _open_tree(source_fd: int) -> int:
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    return _syscall(_SYS_OPEN_TREE, ctypes.c_int(source_fd), b"", ctypes.c_uint(flags))


def _configure(fs_fd: int, command: int, name: bytes | None, value: bytes | None) -> None:
    _syscall(_SYS_FSCONFIG, ctypes.c_int(fs_fd), ctypes.c_uint(command), name, value, ctypes.c_int(0))


def _told(fs_fd: int) -> str:
    """What the kernel says of a file system that it does not make: `e fuse: Bad value for 'fd'`."""
    try:
        return f" ({os.read(fs_fd, _LOG_BYTES).decode(errors='replace').strip()})"
    except OSError:  # ENODATA: nothing
        return ""


def _mount_setattr(tree_fd: int, flags: MountFlag) -> None:
    attributes = _MountAttr(attr_set=int(flags))
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _syscall(
        _SYS_MOUNT_SETATTR, ctypes.c_int(tree_fd), b"", ctypes.c_uint(_AT_EMPTY_PATH), ctypes.byref(attributes), size
    )


def _syscall(number: int, *arguments: object) -> int:
    return _checked(_LIBC.syscall(ctypes.c_long(number), *arguments))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _errno_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None
