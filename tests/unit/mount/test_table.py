"""The mount table, from lines as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

from modelcsi.mount.table import Mount, mount_id_of, mounts_at, mounts_below, read_mount_table

_TABLE = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=continue
30 22 8:1 /views/a\040b /pods/x/mount ro,nosuid,nodev,relatime shared:1 master:7 propagate_from:2 - ext4 /dev/sda1 rw
31 30 0:44 / /pods/x/mount ro,nosuid,nodev,relatime - fuse.modelcsi model ro,user_id=0
32 22 0:45 / /odd\011tab\012line\134slash\040- rw - tmpfs  rw
33 22 0:46 / /pods/x/mount-2/inner rw - tmpfs none rw
"""


def _read(tmp_path: Path, content: bytes = _TABLE) -> tuple[Mount, ...]:
    path = tmp_path / "mountinfo"
    path.write_bytes(content)
    return read_mount_table(str(path))


def test_every_field_is_read(tmp_path: Path) -> None:
    """A line becomes a Mount, with the options of the mount and not those of its file system."""
    first = _read(tmp_path)[0]

    assert (
        Mount(
            mount_id=22,
            parent_id=1,
            device="8:1",
            root="/",
            mount_point="/",
            options=frozenset({"rw", "relatime"}),
            fs_type="ext4",
            source="/dev/sda1",
        )
        == first
    )


def test_octal_escapes_are_undone(tmp_path: Path) -> None:
    """Space, tab, newline and backslash in a path come out as they are."""
    table = _read(tmp_path)

    assert ["/views/a b", "/odd\ttab\nline\\slash -"] == [table[1].root, table[3].mount_point]


def test_any_number_of_optional_fields(tmp_path: Path) -> None:
    """Neither three optional fields nor none shift the fields behind the dash."""
    assert ["ext4", "ext4", "fuse.modelcsi", "tmpfs", "tmpfs"] == [mount.fs_type for mount in _read(tmp_path)]


def test_bytes_that_are_no_utf8_and_carriage_returns_survive(tmp_path: Path) -> None:
    """A path is bytes: it comes out such that it names the same file again."""
    (mount,) = _read(tmp_path, b"1 0 8:1 / /m\xff\rx rw - ext4 none rw\n")

    assert b"/m\xff\rx" == os.fsencode(mount.mount_point)


def test_stacked_mounts_bottom_first(tmp_path: Path) -> None:
    """`mounts_at` finds all mounts of exactly that target, a trailing slash or not."""
    table = _read(tmp_path)

    assert [30, 31] == [mount.mount_id for mount in mounts_at(table, "/pods/x/mount/")]


def test_mounts_below_a_directory(tmp_path: Path) -> None:
    """`mounts_below` finds what is mounted inside, not the directory's own mounts, nor names that begin alike."""
    table = _read(tmp_path)

    assert ["/pods/x/mount-2/inner"] == [mount.mount_point for mount in mounts_below(table, "/pods/x/mount-2")]
    assert () == mounts_below(table, "/pods/x/mount")


def test_the_real_table_has_the_mount_of_a_descriptor(tmp_path: Path) -> None:
    """The mount id that the kernel tells of a descriptor is one of the table."""
    descriptor = os.open(tmp_path, os.O_PATH)
    mount_id = mount_id_of(descriptor)
    os.close(descriptor)

    assert mount_id in {mount.mount_id for mount in read_mount_table()}
