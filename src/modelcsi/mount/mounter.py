"""Read-only bind mounts, and taking away whatever is mounted at a target.

What a failure leaves decides its kind, since kubelet never unpublishes after a final answer (`errors`): InvalidRequest only when
nothing of the call is on the node; everything that may be left is RollbackFailed. No records are read or written here.
Stateless after construction; the caller keeps two calls on one target apart.
"""

from __future__ import annotations

import enum
import errno
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from modelcsi.errors import InvalidRequest, ModelCsiError, MountFailed, RollbackFailed, StoreFull
from modelcsi.mount import syscalls
from modelcsi.mount.place import Place, open_place
from modelcsi.mount.syscalls import MountFlag
from modelcsi.mount.table import Mount, mount_id_of, mounts_below, read_mount_table

# Not NO_EXEC: model repositories carry shared objects, and Kubernetes dropped noexec for image volumes (KEP-4639).
_RESTRICTIONS = MountFlag.READ_ONLY | MountFlag.NO_SUID | MountFlag.NO_DEVICES
_RESTRICTED = frozenset({"ro", "nosuid", "nodev"})
# As kubelet makes the parents. Only seen while nothing is mounted.
_TARGET_MODE = 0o750


class MountMethod(enum.Enum):
    """How a bind mount is made; with both it appears at the target in one step, with all its flags."""

    DESCRIPTORS = "descriptors"
    """open_tree, mount_setattr, move_mount (kernel >= 5.12)."""
    PATHS = "paths"
    """mount(2) through /proc/self/fd: bound and restricted at a staging directory, then bound again at the target."""


class Mounter:
    """Binds directories to targets and removes targets again; every call may be repeated."""

    def __init__(self, method: MountMethod | None = None) -> None:
        """Without a `method`, the best that this kernel allows; asked once."""
        if method is None:
            method = MountMethod.DESCRIPTORS if syscalls.has_descriptor_calls() else MountMethod.PATHS
        self._method = method

    def __repr__(self) -> str:
        return f"Mounter({self._method})"

    def bind_read_only(self, source_fd: int, target: str) -> None:
        """Returning normally means that the directory `source_fd` is mounted at `target`, `ro,nosuid,nodev`.

        Makes the target's directory, not its parents, and removes it again if the mount fails. Raises InvalidRequest (the path),
        StoreFull, MountFailed (the kernel refuses), or RollbackFailed if something else is mounted there or could not be undone.
        """
        attach = _attach if self._method is MountMethod.DESCRIPTORS else _attach_by_paths
        mount_at(target, partial(attach, source_fd), partial(_adopt, source_fd))

    def unmount(self, target: str) -> None:
        """Returning normally means that `target` does not exist: nothing is mounted there, and its directory is gone.

        Acts on what the kernel has there, whoever mounted it. Users of a busy mount keep it until they are done. Never removes
        a file or follows a symlink (InvalidRequest); raises RollbackFailed when anything is left.
        """
        try:
            with open_place(target) as place:
                if place.exists():
                    while _unmount_topmost(place):
                        pass
                    os.rmdir(place.name, dir_fd=place.parent_fd)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _leftover(error, target) from error

    def shows(self, target: str, directory: Path) -> bool:
        """Whether the directory is what one sees at the target: two stats, no mount table, and no question to a dead server."""
        try:
            return syscalls.identify_path(target) == syscalls.identify_path(str(directory))
        except OSError:  # absent
            return False

    def table(self) -> tuple[Mount, ...]:
        """All mounts that there are, whoever made them."""
        return read_mount_table()


def mount_at(target: str, attach: Callable[[int], None], adopt: Callable[[Place, int], None]) -> None:
    """Make the target's directory and let `attach` mount something there, or `adopt` judge what is mounted there already.

    The directory is removed again if that fails. Raises what `bind_read_only` does.
    """
    try:
        with open_place(target) as place:
            _mount_at(place, attach, adopt)
    except OSError as error:
        raise _refusal(error, target) from error


def refuse(place: Place) -> RollbackFailed:
    """Something else is mounted at the place, and is not stacked upon.

    It is no final error: the unpublish that clears it away must still come.
    """
    return RollbackFailed(f"something else is mounted at {place.path}", hint="it goes when the volume is unpublished")


def _mount_at(place: Place, attach: Callable[[int], None], adopt: Callable[[Place, int], None]) -> None:
    created = _create(place)
    try:
        with place.opened() as target_fd:
            if mount_id_of(target_fd) != mount_id_of(place.parent_fd):
                adopt(place, target_fd)
            else:
                attach(target_fd)
    except BaseException as error:
        if created:
            _remove_again(place, error)
        raise


def _create(place: Place) -> bool:
    try:
        os.mkdir(place.name, _TARGET_MODE, dir_fd=place.parent_fd)
    except FileExistsError:
        return False
    return True


def _adopt(source_fd: int, place: Place, target_fd: int) -> None:
    """Something is mounted at the target: fine if it is this source, as after a crash between the mount and its record."""
    if syscalls.identify(target_fd) != syscalls.identify(source_fd) or not _is_restricted(target_fd):
        raise refuse(place)


def _is_restricted(descriptor: int) -> bool:
    return _options_of(descriptor) >= _RESTRICTED


def _options_of(descriptor: int) -> frozenset[str]:
    """Of its mount, from the mount table: fstatvfs would ask the file system, whose server may be dead or stuck."""
    mount_id = mount_id_of(descriptor)
    return next((mount.options for mount in read_mount_table() if mount.mount_id == mount_id), frozenset())


def _attach(source_fd: int, target_fd: int) -> None:
    tree_fd = syscalls.clone_mount(source_fd, _RESTRICTIONS)
    try:
        syscalls.move_mount(tree_fd, target_fd)
    finally:
        os.close(tree_fd)


def _attach_by_paths(source_fd: int, target_fd: int) -> None:
    """Bind a mount that is restricted already.

    Binding at the target and remounting there is not enough: a remount does not propagate, so under a shared directory, as
    kubelet's is, the host's side of the mount, which the containers get, would stay writable.
    """
    # A crash leaves an empty directory and at most a read-only mount in it, which end with the driver's container.
    staging = tempfile.mkdtemp(prefix="modelcsi-bind-")
    try:
        syscalls.bind_mount(_kernel_path(source_fd), staging)
        try:
            staged_fd = os.open(staging, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                syscalls.restrict_mount(_kernel_path(staged_fd), _restrictions(source_fd))
                syscalls.bind_mount(_kernel_path(staged_fd), _kernel_path(target_fd))
            finally:
                os.close(staged_fd)
        finally:
            syscalls.unmount(staging, detach=True)
    finally:
        os.rmdir(staging)


def _restrictions(source_fd: int) -> MountFlag:
    """A remount sets all flags anew, so what restricts the source is repeated; a clone inherits it."""
    inherited = MountFlag.NO_EXEC if "noexec" in _options_of(source_fd) else MountFlag(0)
    return _RESTRICTIONS | inherited


def _kernel_path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _remove_again(place: Place, cause: BaseException) -> None:
    try:
        os.rmdir(place.name, dir_fd=place.parent_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RollbackFailed(f"the directory {place.path} of a mount that failed is left: {error.strerror}") from cause


def _unmount_topmost(place: Place) -> bool:
    """Take one mount away; False when there is none (EINVAL).

    The kernel is asked rather than the mount table: a table of thousands of lines says the same, later. Only before a busy
    mount is detached does the table matter, because MNT_DETACH would take all that is mounted inside along.
    """
    try:
        syscalls.unmount(place.kernel_path, detach=False)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        if error.errno != errno.EBUSY:
            raise
    else:
        return True
    for mount in mounts_below(read_mount_table(), place.path):
        raise RollbackFailed(f"{mount.mount_point} is mounted inside of {place.path}", hint="unmount it first")
    syscalls.unmount(place.kernel_path, detach=True)
    return True


def _refusal(error: OSError, target: str) -> ModelCsiError:
    """What kubelet is told of a bind mount that failed and was undone."""
    reason = error.strerror or str(error)
    # 1. A full disk, or the kernel's limit of mounts: room may come.
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            f"cannot mount at {target}: {reason}", hint="the disk is full, or sysctl fs.mount-max is reached"
        )
    # 2. The parent is kubelet's to make (CSI, NodePublishVolume), and it is gone with its pod.
    if error.errno == errno.ENOENT:
        return InvalidRequest(f"the parent directory of the target {target} does not exist")
    # 3. The driver lacks a right or memory, or the disk fails: an administrator can mend that, so it stays pending.
    hint = "the driver needs CAP_SYS_ADMIN" if error.errno in (errno.EPERM, errno.EACCES) else ""
    return MountFailed(f"cannot mount at {target}: {reason}", hint=hint)


def _leftover(error: OSError, target: str) -> RollbackFailed:
    if error.errno == errno.ENOTEMPTY:
        return RollbackFailed(
            f"{target} holds files of its own", hint="the driver removes none: look at them, then remove them"
        )
    return RollbackFailed(f"cannot unmount {target}: {error.strerror or error}")
