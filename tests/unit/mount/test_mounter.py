"""What the mounter answers where no mount is made; the mounts are in tests/integration/mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest, RollbackFailed
from modelcsi.mount.mounter import Mounter


def test_unmounting_what_does_not_exist(tmp_path: Path) -> None:
    """An absent target, and one whose parents vanished, are as good as unmounted."""
    Mounter().unmount(str(tmp_path / "absent"))
    Mounter().unmount(str(tmp_path / "gone" / "with" / "its" / "pod"))


def test_a_target_that_became_a_symlink_is_not_unmounted(tmp_path: Path) -> None:
    """The symlink and what it points to stay, and the caller is told."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "target").symlink_to(victim)
    with pytest.raises(InvalidRequest, match="target is a symbolic link"):
        Mounter().unmount(str(tmp_path / "target"))

    assert ["target", "victim"] == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize("as_file", [False, True])
def test_a_missing_or_impossible_parent(tmp_path: Path, *, as_file: bool) -> None:
    """The kubelet makes the parent: without it, or with a file in its place, nothing is made."""
    if as_file:
        (tmp_path / "parent").touch()
    source_fd = os.open(tmp_path, os.O_PATH)
    with pytest.raises(InvalidRequest, match="parent"):
        Mounter().bind_read_only(source_fd, str(tmp_path / "parent" / "target"))
    os.close(source_fd)

    assert (["parent"] if as_file else []) == os.listdir(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="without CAP_SYS_ADMIN umount2 says EPERM before it looks")
def test_files_in_a_target_are_never_removed(tmp_path: Path) -> None:
    """A directory with content stays as it is and is reported."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    with pytest.raises(RollbackFailed, match="holds files of its own"):
        Mounter().unmount(str(tmp_path / "target"))

    assert ["file"] == os.listdir(tmp_path / "target")
