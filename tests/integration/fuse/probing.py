"""What is tried at a tree, in `name_probes` and `byte_probes`: functions of its root whose outcome can be compared with another's.

An OSError is an outcome too. The tree is `lazytree.new_tree`'s; what a program must not rely on (inode and device numbers, a
directory's size, how full the file system is) is left out.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Probe = Callable[[Path], object]
BIG, SMALL, EMPTY = "model.safetensors", "config.json", "empty"
MIB = 1 << 20


class Probes(dict[str, Probe]):
    """By name."""

    def one(self, function: Probe) -> Probe:
        """Add a function under its own name."""
        self[getattr(function, "__name__", "")] = function
        return function

    def several(self, name: str, probes: Mapping[str, Probe]) -> None:
        """Add each as `name[key]`."""
        self.update({f"{name}[{key}]": function for key, function in probes.items()})


def outcome(function: Probe, root: Path) -> object:
    """What it gives, or the error's name."""
    try:
        return function(root)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "no errno")


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of it."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def with_fd(function: Callable[[int], object], name: str = BIG, flags: int = os.O_RDONLY) -> Probe:
    """What a function gives for the descriptor of a file in the tree."""

    def run(root: Path) -> object:
        with opened(root / name, flags) as fd:
            return function(fd)

    return run


def opens(name: str, flags: int) -> Probe:
    """Whether it can be opened so."""
    return lambda root: close(os.open(root / name, flags, 0o644))


def close(fd: int) -> bool:
    """True: it was open."""
    os.close(fd)
    return True


def digest(content: bytes | memoryview | mmap.mmap) -> str:
    """In place of megabytes."""
    return hashlib.sha256(content).hexdigest()
