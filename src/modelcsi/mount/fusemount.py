"""Lazy views in the mount table: making a FUSE file system, finding the mounts of one, and ending it.

A view's file system is attached straight at its first target; further targets are clones of it (`Mounter.bind_read_only`). Its
source in the mount table is the view's id, so that the table alone tells what is mounted. Nothing here asks a server, which
may be dead or stuck, and nothing waits for one. Stateless, any thread.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from modelcsi.errors import MountFailed
from modelcsi.mount import syscalls
from modelcsi.mount.mounter import Mounter, mount_at, refuse
from modelcsi.mount.place import Place
from modelcsi.mount.syscalls import MountFlag
from modelcsi.mount.table import Mount, mounts_at

logger = logging.getLogger(__name__)

FS_TYPE = "fuse.modelcsi"
_SUBTYPE = "modelcsi"
_DEVICE = "/dev/fuse"
_RESTRICTIONS = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEVICES
_PARAMETERS = {
    "subtype": _SUBTYPE,
    "rootmode": "40555",
    "user_id": "0",
    "group_id": "0",
    "ro": None,
    "allow_other": None,
    "default_permissions": None,
}


def open_connection() -> int:
    """A descriptor of /dev/fuse for one `attach`; not blocking, closed by exec. Raises MountFailed."""
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MountFailed(
            f"cannot open {_DEVICE}: {error.strerror}", hint="lazy volumes need the kernel module fuse and the device"
        ) from error


def attach(fuse_fd: int, target: str, *, view: str, read_ahead_kb: int) -> str:
    """Returning normally means that a new file system, served through `fuse_fd`, is mounted at `target`, `ro,nosuid,nodev`.

    Returns its device, `major:minor`. It answers nothing before somebody serves `fuse_fd`. The directory is made, and removed
    again if the mount fails, as by `Mounter.bind_read_only`, whose errors are raised; `fuse_fd` is of no use then.
    """
    parameters = {**_PARAMETERS, "source": view, "fd": str(fuse_fd)}
    device = ""

    def attach_at(target_fd: int) -> None:
        nonlocal device
        mount_fd = syscalls.new_mount("fuse", parameters, _RESTRICTIONS)
        try:
            device = syscalls.identify(mount_fd).device
            # The kernel's own limit is 128 KiB a request until it is raised; before anybody can read.
            _raise_read_ahead(device, read_ahead_kb)
            syscalls.move_mount(mount_fd, target_fd)
        finally:
            os.close(mount_fd)

    def refuse_other(place: Place, _target_fd: int) -> None:
        raise refuse(place)

    mount_at(target, attach_at, refuse_other)
    return device


def lazy_mounts(table: Iterable[Mount]) -> Mapping[str, str]:
    """Which view is mounted at which target: of all views' mounts the target and the view's id. Of a stack the topmost."""
    return {mount.mount_point: mount.source for mount in table if _is_lazy(mount)}


def devices_of(table: Iterable[Mount], view: str) -> frozenset[str]:
    """The file systems that show a view: usually one; another may be left of a connection that ended."""
    return frozenset(mount.device for mount in table if _is_lazy(mount) and mount.source == view)


def unmount(mounter: Mounter, target: str) -> None:
    """`Mounter.unmount` of a target that may show a lazy view: with a view's last mount its connection ends.

    Whoever still reads then, or waits for a server that is stuck, gets an error and can be killed.
    """
    lazy = [mount for mount in mounts_at(mounter.table(), target) if _is_lazy(mount)]
    # Opened before, since the number of a connection is used again.
    ends = {mount.device: _open_abort(mount.device) for mount in lazy}
    try:
        mounter.unmount(target)
        left = {mount.device for mount in mounter.table()} if ends else set()
        for device, abort_fd in ends.items():
            if device not in left and abort_fd is not None:
                _abort(abort_fd)
    finally:
        for abort_fd in ends.values():
            if abort_fd is not None:
                os.close(abort_fd)


def has_ended(fuse_fd: int) -> bool:
    """Whether the connection of a /dev/fuse descriptor has ended, or never began; asks the kernel only."""
    poll = select.poll()
    poll.register(fuse_fd, 0)
    return bool(poll.poll(0))


def abort(device: str) -> None:
    """End the connection of a view's file system, `major:minor`: all who wait get ECONNABORTED, later calls ENOTCONN.

    Its mounts stay until they are unmounted. Only for one that is known to live (`has_ended`, or the mount table): the number of
    another that has gone is used again. Raises OSError without CAP_SYS_ADMIN.
    """
    abort_fd = _open_abort(device)
    if abort_fd is not None:
        try:
            _abort(abort_fd)
        finally:
            os.close(abort_fd)


def _abort(abort_fd: int) -> None:
    with suppress(FileNotFoundError):
        os.write(abort_fd, b"1")


def _open_abort(device: str) -> int | None:
    """The file that ends the connection; None when that has gone."""
    _, _, minor = device.partition(":")
    # A mount of our own, which no one sees: that of the host at /sys/fs/fuse/connections is in no container.
    control_fd = syscalls.new_mount("fusectl", {}, MountFlag(0))
    try:
        return os.open(f"{minor}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=control_fd)
    except FileNotFoundError:
        return None
    finally:
        os.close(control_fd)


def _raise_read_ahead(device: str, read_ahead_kb: int) -> None:
    path = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
    try:
        path.write_text(str(read_ahead_kb))
    except OSError as error:
        logger.warning("cannot write %s (%s): the first reading of files will be slower", path, error.strerror)


def _is_lazy(mount: Mount) -> bool:
    return mount.fs_type == FS_TYPE and mount.root == "/"
