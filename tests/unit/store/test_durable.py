from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modelcsi.errors import StoreFull
from modelcsi.store.durable import WriteBack, preallocate, remove_tree, replace_file, space_errors, write_all


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_store_full(number: int) -> None:
    """The message says what was being written."""
    with pytest.raises(StoreFull, match="no space left while writing the model"), space_errors("the model"):
        raise OSError(number, os.strerror(number))


def test_other_errors_stay_what_they_are() -> None:
    """A broken disk is not a full one."""
    with pytest.raises(OSError, match="Input/output error"), space_errors("the model"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_full_disk_while_writing() -> None:
    """The kernel's own error arrives as StoreFull."""
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StoreFull), space_errors("the model"):
        write_all(fd, b"bytes", 0)
    os.close(fd)


def test_preallocation_keeps_the_length(tmp_path: Path) -> None:
    """Blocks beyond the end are reserved; readers see nothing of them."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    preallocate(fd, 1 << 20)

    assert 0 == os.fstat(fd).st_size
    os.close(fd)


def test_replacing_leaves_no_temporary_file(tmp_path: Path) -> None:
    """Only the new content is there."""
    replace_file(tmp_path / "file", b"old")
    replace_file(tmp_path / "file", b"new")

    assert [("file", b"new")] == [(path.name, path.read_bytes()) for path in tmp_path.iterdir()]


def test_a_read_only_tree_can_be_removed(tmp_path: Path) -> None:
    """A view's directories are read-only, which a user's rmdir would notice; links are not followed."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(victim)
    (tree / "a" / "b").chmod(0o555)
    (tree / "a").chmod(0o555)
    remove_tree(tree)

    assert (False, 0o755) == (tree.exists(), victim.stat().st_mode & 0o777)


def test_write_back_of_many_files(tmp_path: Path) -> None:
    """It runs beside what is written; its error is told, since the kernel tells it once."""
    fine, broken = WriteBack(tmp_path), WriteBack(tmp_path / "gone")
    for _ in range(25_000):
        fine.wrote_file()
    fine.finish()
    for _ in range(10_000):
        broken.wrote_file()
    with pytest.raises(FileNotFoundError):
        broken.finish()
