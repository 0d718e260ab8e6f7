from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest, UnsupportedArtifact
from modelcsi.pack.walk import walk
from tests.unit.pack.conftest import MTIME_NS, write


def paths(directory: Path) -> list[str]:
    """What is packed of a directory."""
    return [file.path for file in walk(directory).files]


def test_files_are_found_by_path(tmp_path: Path) -> None:
    """Files come sorted by their path, with size, mode and time."""
    write(tmp_path, "b/c", b"12", 0o755)
    write(tmp_path, "b-a")
    write(tmp_path, "a")
    first, _, last = walk(tmp_path).files

    assert ("a", "b/c") == (first.path, last.path)
    assert (2, 0o755, MTIME_NS, 1_700_000_000) == (last.size, last.mode, last.mtime_ns, last.mtime_seconds)


def test_litter_of_tools_is_left_out_and_told(tmp_path: Path) -> None:
    """Version control, caches and credentials do not go into an artifact."""
    for path in (".git/config", ".cache/huggingface/x", "sub/__pycache__/m.pyc", ".env", "model.bin", ".gitattributes"):
        write(tmp_path, path)

    assert ([".gitattributes", "model.bin"], (".cache", ".env", ".git", "sub/__pycache__")) == (
        paths(tmp_path),
        walk(tmp_path).left_out,
    )


def test_links_inside_are_followed(tmp_path: Path) -> None:
    """A link to a file or a directory inside is packed as what it leads to."""
    write(tmp_path, "real/a", b"bytes")
    (tmp_path / "file").symlink_to("real/a")
    (tmp_path / "again").symlink_to("real")

    assert ["again/a", "file", "real/a"] == paths(tmp_path)
    assert {5} == {file.size for file in walk(tmp_path).files}


def test_directory_may_itself_be_a_link(tmp_path: Path) -> None:
    """The user may name the directory by a link."""
    write(tmp_path, "real/a")
    (tmp_path / "link").symlink_to("real")

    assert ["a"] == paths(tmp_path / "link")


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname"])
def test_link_that_leaves_is_refused(tmp_path: Path, target: str) -> None:
    """What a link outside leads to is not published."""
    write(tmp_path, "secret")
    write(tmp_path, "model/a")
    (tmp_path / "model" / "link").symlink_to(target)

    with pytest.raises(UnsupportedArtifact, match="'link' leads out of"):
        walk(tmp_path / "model")


@pytest.mark.parametrize("target", ["absent", "link"])
def test_link_to_nothing_is_refused(tmp_path: Path, target: str) -> None:
    """A broken link is an error that names it, not a file less."""
    (tmp_path / "link").symlink_to(target)

    with pytest.raises(UnsupportedArtifact, match="'link' leads to nothing"):
        walk(tmp_path)


def test_link_to_a_directory_above_is_refused(tmp_path: Path) -> None:
    """Following it would never end."""
    write(tmp_path, "a/b/c")
    (tmp_path / "a" / "b" / "loop").symlink_to("..")

    with pytest.raises(UnsupportedArtifact, match="'a/b/loop' leads to a directory that it lies in"):
        walk(tmp_path)


def test_fifo_is_refused(tmp_path: Path) -> None:
    """Nothing that is neither file nor directory is read."""
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(UnsupportedArtifact, match="'fifo' is neither a file nor a directory"):
        walk(tmp_path)


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb"])
def test_name_that_cannot_be_mounted_is_refused(tmp_path: Path, name: bytes) -> None:
    """What the driver would refuse is not packed."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")

    with pytest.raises(UnsupportedArtifact, match="unsafe path"):
        walk(tmp_path)


def test_directory_without_files_is_refused(tmp_path: Path) -> None:
    """An artifact without content is nobody's wish."""
    (tmp_path / "empty").mkdir()

    with pytest.raises(InvalidRequest, match="holds no files"):
        walk(tmp_path)


def test_absent_directory_is_refused(tmp_path: Path) -> None:
    """The message names it."""
    with pytest.raises(InvalidRequest, match="absent cannot be read: No such file"):
        walk(tmp_path / "absent")


def test_file_is_no_directory(tmp_path: Path) -> None:
    """`pack model.gguf` is a mistake that is told."""
    with pytest.raises(InvalidRequest, match="is not a directory"):
        walk(write(tmp_path, "model.gguf"))


@pytest.mark.parametrize(("mtime", "expected"), [(-5, 0), (1 << 40, 8**11 - 1)])
def test_times_stay_in_the_range_of_a_tar(tmp_path: Path, mtime: int, expected: int) -> None:
    """Times before 1970 and after 2242 cannot be written in a plain header."""
    file = write(tmp_path, "a")
    status = walk(tmp_path).files[0]
    changed = type(status)(status.path, file, status.size, status.mode, mtime * 1_000_000_000)

    assert expected == changed.mtime_seconds
