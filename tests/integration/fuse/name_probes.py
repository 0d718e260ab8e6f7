"""System calls on names: opening, attributes, rights, changes that must fail, directories and links."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.fuse import syscalls
from tests.integration.fuse.probing import (
    BIG,
    EMPTY,
    SMALL,
    Probe,
    Probes,
    close,
    digest,
    opened,
    opens,
    outcome,
    with_fd,
)

PROBES = Probes()
_NOBODY = 65534

PROBES.several(
    "open",
    {
        "read": opens(BIG, os.O_RDONLY),
        "cloexec, noctty": opens(BIG, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY),
        "noatime": opens(BIG, os.O_RDONLY | os.O_NOATIME),
        "nonblock": opens(BIG, os.O_RDONLY | os.O_NONBLOCK),
        "direct": opens(BIG, os.O_RDONLY | os.O_DIRECT),
        "sync": opens(BIG, os.O_RDONLY | os.O_SYNC),
        "path": opens(BIG, os.O_PATH),
        "write": opens(BIG, os.O_WRONLY),
        "read and write": opens(BIG, os.O_RDWR),
        "write, truncate": opens(BIG, os.O_WRONLY | os.O_TRUNC),
        "read, truncate": opens(BIG, os.O_RDONLY | os.O_TRUNC),
        "append": opens(BIG, os.O_WRONLY | os.O_APPEND),
        "create what is there": opens(BIG, os.O_RDONLY | os.O_CREAT),
        "create what is there, exclusively": opens(BIG, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        "create": opens("new", os.O_WRONLY | os.O_CREAT),
        "create in nowhere": opens("no/new", os.O_WRONLY | os.O_CREAT),
        "temporary file": opens(".", os.O_WRONLY | os.O_TMPFILE),
        "directory": opens("sub", os.O_RDONLY | os.O_DIRECTORY),
        "directory to write": opens("sub", os.O_WRONLY),
        "file as directory": opens(BIG, os.O_RDONLY | os.O_DIRECTORY),
        "below a file": opens(f"{BIG}/x", os.O_RDONLY),
        "what is not there": opens("nothing", os.O_RDONLY),
        "below what is not there": opens("nothing/x", os.O_RDONLY),
        "link": opens("link", os.O_RDONLY),
        "link, not followed": opens("link", os.O_RDONLY | os.O_NOFOLLOW),
        "dangling link": opens("dangling", os.O_RDONLY),
        "link to itself": opens("loop", os.O_RDONLY),
        "link upwards": opens("sub/up", os.O_RDONLY),
        "name of 255 bytes": opens("n" * 255, os.O_RDONLY),
        "name of 256 bytes": opens("n" * 256, os.O_RDONLY),
        "name of 2000 bytes": opens("n" * 2000, os.O_RDONLY),
        "path of 5000 bytes": opens("sub/../" * 715 + BIG, os.O_RDONLY),
        "dots": opens(f"sub/./../sub/../{BIG}", os.O_RDONLY),
    },
)

_EVERYTHING = (
    BIG,
    SMALL,
    EMPTY,
    "sub",
    "sub/deeper",
    "bin/run.sh",
    "link",
    "sub/up",
    "dangling",
    "many/f0001",
    "größe ä b\\c",
)


def _stat_of(found: os.stat_result) -> tuple[object, ...]:
    size = None if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mode, found.st_nlink, found.st_uid, found.st_gid, size, found.st_mtime_ns


PROBES.several("lstat", {name: lambda root, name=name: _stat_of(os.lstat(root / name)) for name in _EVERYTHING})  # type: ignore[misc]
PROBES.several(
    "stat",
    {
        "root": lambda root: _stat_of(os.stat(root)),
        "link": lambda root: _stat_of(os.stat(root / "link")),
        "dangling link": lambda root: _stat_of(os.stat(root / "dangling")),
        "link to itself": lambda root: _stat_of(os.stat(root / "loop")),
        "nothing": lambda root: _stat_of(os.stat(root / "nothing")),
        "slash behind a file": lambda root: _stat_of(os.stat(f"{root}/{BIG}/")),
        "slash behind a directory": lambda root: _stat_of(os.stat(f"{root}/sub/")),
        "name of 256 bytes": lambda root: _stat_of(os.stat(root / ("n" * 256))),
        "empty name": lambda root: _stat_of(os.stat("", dir_fd=os.open(root, os.O_PATH))),
    },
)


@PROBES.one
def statx(root: Path) -> object:
    """The same by the newest call."""
    return [syscalls.statx(str(root / name)) for name in (BIG, EMPTY, "bin/run.sh")]


@PROBES.one
def fstat_is_lstat(root: Path) -> object:
    """A path and a descriptor say the same."""
    with opened(root / BIG) as fd:
        seen, again = os.fstat(fd), os.lstat(root / BIG)
    return (seen.st_ino, seen.st_dev) == (again.st_ino, again.st_dev), _stat_of(seen)


@PROBES.one
def blocks_hold_the_size(root: Path) -> object:
    """Programs that look for holes find none, and read in blocks of a usual size."""
    found = os.stat(root / BIG)
    return found.st_blocks * 512 >= found.st_size, found.st_blksize


def _access(name: str, mode: int, **how: Any) -> Probe:
    return lambda root: os.access(root / name, mode, **how)


_RIGHTS = {"exists": os.F_OK, "read": os.R_OK, "write": os.W_OK, "execute": os.X_OK}
PROBES.several(
    "faccessat2",
    {
        f"{name}, {right}": lambda root, name=name, mode=mode: syscalls.faccessat2(str(root / name), mode, 0x200)  # type: ignore[misc]
        for name in (BIG, "bin/run.sh", "sub", "nothing", "dangling")
        for right, mode in _RIGHTS.items()
    },
)


def _as_nobody(function: Probe) -> Probe:
    """In a process that is nobody's."""

    def run(root: Path) -> object:
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            os.write(sending, repr(outcome(function, root)).encode())
            os._exit(0)
        os.close(sending)
        with open(receiving, "rb") as file:
            told = file.read().decode()
        os.waitpid(child, 0)
        return told

    return run


PROBES.several(
    "as nobody",
    {
        "read": _as_nobody(lambda root: digest((root / BIG).read_bytes())),
        "list": _as_nobody(lambda root: sorted(os.listdir(root / "sub"))),
        "write": _as_nobody(opens(BIG, os.O_WRONLY)),
        "create": _as_nobody(opens("new", os.O_WRONLY | os.O_CREAT)),
        "noatime": _as_nobody(opens(BIG, os.O_RDONLY | os.O_NOATIME)),
        "access to write": _as_nobody(_access(BIG, os.W_OK)),
        "access to execute": _as_nobody(_access("bin/run.sh", os.X_OK)),
        "chmod": _as_nobody(lambda root: os.chmod(root / BIG, 0o700)),
        "execute": _as_nobody(
            lambda root: subprocess.run([root / "bin/run.sh"], capture_output=True, check=True).stdout
        ),
    },
)


@PROBES.one
def execute(root: Path) -> object:
    """A script of the tree runs."""
    return subprocess.run([root / "bin/run.sh"], capture_output=True, check=True).stdout


@PROBES.one
def execute_what_is_not_executable(root: Path) -> object:
    """The execute bit counts, for root too."""
    return subprocess.run([root / SMALL], capture_output=True, check=True).stdout


PROBES.several(
    "change",
    {
        "mkdir": lambda root: os.mkdir(root / "new"),
        "mkdir what is there": lambda root: os.mkdir(root / "sub"),
        "rmdir": lambda root: os.rmdir(root / "many"),
        "rmdir a file": lambda root: os.rmdir(root / BIG),
        "rmdir nothing": lambda root: os.rmdir(root / "nothing"),
        "unlink": lambda root: os.unlink(root / BIG),
        "unlink a directory": lambda root: os.unlink(root / "sub"),
        "unlink nothing": lambda root: os.unlink(root / "nothing"),
        "rename": lambda root: os.rename(root / BIG, root / "new"),
        "rename to outside": lambda root: os.rename(root / BIG, root.parent / "new"),
        "rename nothing": lambda root: os.rename(root / "nothing", root / "new"),
        "link": lambda root: os.link(root / BIG, root / "new"),
        "link to outside": lambda root: os.link(root / BIG, root.parent / "new"),
        "symlink": lambda root: os.symlink("x", root / "new"),
        "symlink that is there": lambda root: os.symlink("x", root / BIG),
        "mkfifo": lambda root: os.mkfifo(root / "new"),
        "chmod": lambda root: os.chmod(root / BIG, 0o700),
        "chmod nothing": lambda root: os.chmod(root / "nothing", 0o700),
        "chown": lambda root: os.chown(root / BIG, 1, 1),
        "utimes": lambda root: os.utime(root / BIG),
        "truncate": lambda root: os.truncate(root / BIG, 0),
        "truncate a directory": lambda root: os.truncate(root / "sub", 0),
        "setxattr": lambda root: os.setxattr(root / BIG, "user.x", b"y"),
        "removexattr": lambda root: os.removexattr(root / BIG, "user.x"),
    },
)


def _listed(root: Path, name: str) -> object:
    with os.scandir(root / name) as entries:
        return sorted((entry.name, entry.is_dir(), entry.is_symlink(), entry.is_file()) for entry in entries)


def _dirents(size: int, name: str) -> Probe:
    def run(root: Path) -> object:
        with opened(root / name, os.O_RDONLY | os.O_DIRECTORY) as fd:
            found = []
            while block := syscalls.getdents(fd, size):
                found += block
        types = sorted((entry, kind) for entry, _, _, kind in found)
        numbers = {entry: inode for entry, inode, _, _ in found if entry != b".."}
        told = {entry: os.lstat(root / name / os.fsdecode(entry)).st_ino for entry in numbers}
        return types, numbers == told

    return run


@PROBES.one
def listing_goes_on_at_an_offset(root: Path) -> object:
    """`seekdir` and `rewinddir`: nothing is told twice, nothing is left out."""

    def names(fd: int, size: int) -> list[bytes]:
        return [name for name, *_ in syscalls.getdents(fd, size)]

    def all_names(fd: int, size: int) -> list[bytes]:
        return [name for block in iter(lambda: names(fd, size), []) for name in block]

    with opened(root / "many", os.O_RDONLY | os.O_DIRECTORY) as fd:
        first = syscalls.getdents(fd, 4096)
        rest = all_names(fd, 1 << 16)
        middle = len(first) // 2
        os.lseek(fd, first[middle][2], os.SEEK_SET)
        again = all_names(fd, 1000)
        os.lseek(fd, 0, os.SEEK_SET)
        begun = all_names(fd, 4096)
    expected = [name for name, *_ in first] + rest
    return again == expected[middle + 1 :], begun == expected, len(set(expected)) == len(expected)


PROBES.several(
    "list",
    {
        "root": lambda root: _listed(root, "."),
        "many": lambda root: _listed(root, "many"),
        "empty directory": lambda root: _listed(root, "sub/deeper"),
        "file": lambda root: _listed(root, BIG),
        "nothing": lambda root: _listed(root, "nothing"),
        "64 KiB a time": _dirents(1 << 16, "many"),
        "300 bytes a time": _dirents(300, "sub"),
        "too small": _dirents(10, "sub"),
        "of a file": with_fd(lambda fd: syscalls.getdents(fd, 4096)),
        "walk": lambda root: sorted(
            (Path(top).relative_to(root).as_posix(), len(names)) for top, _, names in os.walk(root)
        ),
        "glob": lambda root: sorted(path.relative_to(root).as_posix() for path in root.glob("**/f000*")),
    },
)
PROBES.several(
    "links",
    {
        "readlink": lambda root: [os.readlink(root / name) for name in ("link", "sub/up", "dangling", "loop")],
        "readlink of a file": lambda root: os.readlink(root / BIG),
        "realpath": lambda root: os.path.relpath(
            os.path.realpath(root / "sub/up", strict=True), os.path.realpath(root)
        ),
        "realpath of a loop": lambda root: os.path.realpath(root / "loop", strict=True),
        "relative to a directory": with_fd(
            lambda fd: close(os.open("up", os.O_RDONLY, dir_fd=fd)), "sub", os.O_RDONLY | os.O_DIRECTORY
        ),
    },
)


@PROBES.one
def current_directory(root: Path) -> object:
    """A program may work in the tree."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(root / "sub")
        return Path("..", BIG).stat().st_size, Path.cwd().relative_to(root).as_posix(), sorted(os.listdir())
    finally:
        os.fchdir(before)
        os.close(before)
