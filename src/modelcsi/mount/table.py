"""The mount table of this process, as the kernel tells it in /proc/self/mountinfo (proc_pid_mountinfo(5)).

Only reads. Mount points are paths below this process' root, as text with the kernel's octal escapes undone. Stateless, any thread.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

_ESCAPE = re.compile(rb"\\([0-7]{3})")
# A guess: on a node that mounts without a pause the last of these readings is as good as any.
_MAX_READINGS = 10


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table."""

    mount_id: int
    """Unique among the mounts that exist; used again after an unmount."""
    parent_id: int
    """The mount that this one is mounted on."""
    device: str
    """`major:minor` of the file system, as in st_dev."""
    root: str
    """The directory of that file system which is shown: of a bind mount the source, seen from the file system's own root."""
    mount_point: str
    """Where it is mounted."""
    options: frozenset[str]
    """Of this mount (`ro`, `nosuid`, `nodev`, ...), not of the file system, which other mounts may show writable."""
    fs_type: str
    """`ext4`, `fuse.modelcsi`, ..."""
    source: str
    """What was mounted, in the file system's own words: a device, or any text."""


def read_mount_table(path: str = "/proc/self/mountinfo") -> tuple[Mount, ...]:
    """Every mount of this process' mount namespace, in the table's order: of stacked mounts the lower one first."""
    # The kernel hands out the table in pages, so a mount that comes or goes meanwhile can hide another. It raises POLLPRI on an
    # open table after a change (proc_pid_mountinfo(5)): then read again.
    with open(path, "rb", buffering=0) as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        content = _read_all(table)
        for _ in range(_MAX_READINGS - 1):
            if not changes.poll(0):
                break
            content = _read_all(table)
    # Not splitlines(): a carriage return in a path is not escaped.
    return tuple(_parse(line) for line in content.split(b"\n") if line)


def mounts_at(table: Iterable[Mount], target: str) -> tuple[Mount, ...]:
    """The mounts stacked exactly at `target`, bottom first."""
    mount_point = os.path.normpath(target)
    return tuple(mount for mount in table if mount.mount_point == mount_point)


def mounts_below(table: Iterable[Mount], target: str) -> tuple[Mount, ...]:
    """The mounts strictly inside of `target`, in the table's order."""
    prefix = os.path.normpath(target) + "/"
    return tuple(mount for mount in table if mount.mount_point.startswith(prefix))


def mount_id_of(descriptor: int) -> int:
    """The mount through which `descriptor` was opened; asks the kernel only, never the file system, whose server may be dead."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as info:
        fields = dict(line.split(b":", 1) for line in info)
    return int(fields[b"mnt_id"])


def _read_all(table: BinaryIO) -> bytes:
    table.seek(0)
    pages = []
    while page := table.read(1 << 20):
        pages.append(page)
    return b"".join(pages)


def _parse(line: bytes) -> Mount:
    # "36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda errors=continue": any number of optional fields stands
    # before the dash, and the last field, which is not kept, may be empty.
    head, _, tail = line.partition(b" - ")
    mount_id, parent_id, device, root, mount_point, options, *_ = head.split(b" ")
    fs_type, source, *_ = tail.split(b" ")
    return Mount(
        mount_id=int(mount_id),
        parent_id=int(parent_id),
        device=device.decode(),
        root=_unescape(root),
        mount_point=_unescape(mount_point),
        options=frozenset(options.decode().split(",")),
        fs_type=_unescape(fs_type),
        source=_unescape(source),
    )


def _unescape(field: bytes) -> str:
    r"""The kernel writes space, tab, newline and backslash as `\040`, `\011`, `\012` and `\134`."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
