"""A place in the directory tree that nobody can move from under us: a descriptor of the parent directory, and a name in it.

Whoever can write above or at a mount target could swap a directory for a symlink between a check and a mount (CVE-2021-25741);
walking by descriptors leaves no such moment, and needs no openat2, which a kernel or a seccomp filter may not have.
Used within this package; stateless, any thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from modelcsi.errors import InvalidRequest

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK_HINT = "mount targets are never reached through symbolic links: give the real path"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target is, or will be: valid while its `open_place` lasts."""

    parent_fd: int
    name: str
    path: str
    """For messages and for the mount table; never opened."""

    @property
    def kernel_path(self) -> str:
        """The place for calls that take no descriptors: only its last component is looked up."""
        return f"/proc/self/fd/{self.parent_fd}/{self.name}"

    def exists(self) -> bool:
        """Whether something is there; raises InvalidRequest if that is a symlink.

        Unlike a stat, readlink never asks the file system that is mounted there, whose server may be dead or stuck.
        """
        return _kind(self.parent_fd, self.name, self.path) is not None

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the directory there, of the topmost mount if there are any; raises InvalidRequest for anything else."""
        descriptor = _open_directory(self.parent_fd, self.name, self.path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def open_place(target: str) -> Iterator[Place]:
    """The place that the absolute path `target` names.

    Raises InvalidRequest, naming the component, if a symlink or anything but a directory is on the way, and FileNotFoundError
    if a directory on the way is missing.
    """
    *parents, name = _components(target)
    path = ""
    parent_fd = os.open("/", _DIRECTORY)
    try:
        for component in parents:
            path = f"{path}/{component}"
            below_fd = _open_directory(parent_fd, component, path)
            os.close(parent_fd)
            parent_fd = below_fd
        yield Place(parent_fd, name, f"{path}/{name}")
    finally:
        os.close(parent_fd)


def _components(target: str) -> list[str]:
    components = [component for component in target.split("/") if component not in ("", ".")]
    if not target.startswith("/") or "\0" in target or ".." in components or not components:
        raise InvalidRequest(f"{target!r} cannot be a mount target", hint="give an absolute path without `..`")
    return components


def _open_directory(parent_fd: int, name: str, path: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except OSError as error:
        # O_PATH with O_DIRECTORY answers ENOTDIR for a symlink too.
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and _kind(parent_fd, name, path):
            raise InvalidRequest(f"{path} is not a directory") from error
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidRequest(f"{path} is too long a path") from error
        raise


def _kind(parent_fd: int, name: str, path: str) -> str | None:
    """`other` for what is not a symlink, None for nothing; raises InvalidRequest for a symlink."""
    try:
        victim = os.readlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return "other"
        raise
    raise InvalidRequest(f"{path} is a symbolic link (to {victim})", hint=_LINK_HINT)
