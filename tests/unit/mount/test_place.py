"""Walking to a mount target without root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest
from modelcsi.mount.place import open_place


def test_a_place_is_a_parent_and_a_name(tmp_path: Path) -> None:
    """The place of a target that does not exist yet has its parent's descriptor and its last name."""
    with open_place(f"{tmp_path}//./target/") as place:
        found = (os.fstat(place.parent_fd).st_ino, place.name, place.path, place.exists())

    assert (tmp_path.stat().st_ino, "target", str(tmp_path / "target"), False) == found


def test_the_parent_stays_the_same_when_the_path_is_swapped(tmp_path: Path) -> None:
    """What is opened cannot be moved from under us: a directory swapped for a symlink changes nothing."""
    victim, parent = tmp_path / "victim", tmp_path / "parent"
    victim.mkdir()
    parent.mkdir()
    with open_place(str(parent / "target")) as place:
        parent.rename(tmp_path / "moved")
        parent.symlink_to(victim)
        os.mkdir(place.name, dir_fd=place.parent_fd)

    assert ([], ["target"]) == (os.listdir(victim), os.listdir(tmp_path / "moved"))


@pytest.mark.parametrize("relative", ["link/target", "link/a/target", "a/link/target"])
def test_a_symlink_on_the_way_is_named(tmp_path: Path, relative: str) -> None:
    """A symlink among the parents is refused, and the message names that component."""
    real = tmp_path / "real"
    (real / "a").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "a" / "link").symlink_to(real)
    with pytest.raises(InvalidRequest) as caught, open_place(str(tmp_path / relative)):
        pass

    link = tmp_path / relative.partition("link")[0] / "link"
    assert f"{link} is a symbolic link (to {real})" == caught.value.message


def test_a_target_that_is_a_symlink_is_named(tmp_path: Path) -> None:
    """The last component is as suspicious as the others; a dangling one too."""
    (tmp_path / "target").symlink_to("/nowhere")
    with (
        open_place(str(tmp_path / "target")) as place,
        pytest.raises(InvalidRequest, match="target is a symbolic link"),
    ):
        place.exists()
    with (
        open_place(str(tmp_path / "target")) as place,
        pytest.raises(InvalidRequest, match="target is a symbolic link"),
        place.opened(),
    ):
        pass


@pytest.mark.parametrize("target", ["", "/", "//", "relative/path", "/a/../b", "/a\0b"])
def test_paths_that_are_no_targets(target: str) -> None:
    """Relative paths, the root, `..` and NUL are refused."""
    with pytest.raises(InvalidRequest, match="cannot be a mount target"), open_place(target):
        pass


def test_a_file_on_the_way(tmp_path: Path) -> None:
    """A file among the parents is named."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="file is not a directory"), open_place(str(tmp_path / "file" / "target")):
        pass


def test_an_overlong_name(tmp_path: Path) -> None:
    """A component over 255 bytes is the caller's fault."""
    with pytest.raises(InvalidRequest, match="too long"), open_place(f"{tmp_path}/{'x' * 256}/target"):
        pass


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """A walk that succeeds and one that fails close what they opened."""
    before = len(os.listdir("/proc/self/fd"))
    with open_place(str(tmp_path / "target")):
        pass
    with pytest.raises(FileNotFoundError), open_place(str(tmp_path / "missing" / "target")):
        pass

    assert before == len(os.listdir("/proc/self/fd"))
