"""What volumes may expect of mounts, of the real ones and of those that tests only remember."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest, RollbackFailed
from modelcsi.mount.mounter import Mounter
from modelcsi.store.durable import open_directory
from modelcsi.volume.mounts import Mounts
from tests.fakes.mounter import FakeMounts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture(params=["fake", pytest.param("real", marks=needs_root)])
def mounts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounts]:
    """Each kind; what a failed test left mounted is taken away."""
    made: Mounts = FakeMounts() if request.param == "fake" else Mounter()
    yield made
    for mount in made.table():
        if mount.mount_point.startswith(f"{tmp_path}/"):
            made.unmount(mount.mount_point)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A view."""
    path = tmp_path / "views" / ("0" * 64)
    path.mkdir(parents=True)
    (path / "model").touch()
    return path


@pytest.fixture
def target(tmp_path: Path) -> str:
    """A place whose parent is there."""
    (tmp_path / "pods").mkdir()
    return str(tmp_path / "pods" / "target")


def bind(mounts: Mounts, source: Path, target: str) -> None:
    """Show the source at the target."""
    with open_directory(source) as fd:
        mounts.bind_read_only(fd, target)


def test_what_is_bound_is_shown(mounts: Mounts, source: Path, target: str, tmp_path: Path) -> None:
    """At the target, and nothing else is."""
    before = mounts.shows(target, source)
    bind(mounts, source, target)

    assert [False, True, False] == [before, mounts.shows(target, source), mounts.shows(target, tmp_path)]


def test_binding_again_is_fine(mounts: Mounts, source: Path, target: str) -> None:
    """As after a crash before it was recorded: still one mount."""
    bind(mounts, source, target)
    bind(mounts, source, target)

    assert 1 == len([mount for mount in mounts.table() if mount.mount_point == target])


def test_something_else_is_not_covered(mounts: Mounts, source: Path, target: str, tmp_path: Path) -> None:
    """It stays, and the caller is told."""
    bind(mounts, source, target)
    with pytest.raises(RollbackFailed):
        bind(mounts, tmp_path / "views", target)

    assert mounts.shows(target, source)


def test_the_table_tells_what_is_shown_where(mounts: Mounts, source: Path, target: str) -> None:
    """By the last parts of the source's path: the view's name is what `restore` looks for."""
    bind(mounts, source, target)
    (mount,) = [mount for mount in mounts.table() if mount.mount_point == target]

    assert mount.root.endswith(f"/views/{source.name}")
    assert mount.options >= {"ro", "nosuid", "nodev"}


def test_unmounting_is_repeatable(mounts: Mounts, source: Path, target: str) -> None:
    """The mount and the directory are gone; the source is whole."""
    bind(mounts, source, target)
    for _ in range(2):
        mounts.unmount(target)

    assert (False, False, ["model"]) == (mounts.shows(target, source), Path(target).exists(), os.listdir(source))


def test_files_at_the_target_are_not_removed(mounts: Mounts, target: str) -> None:
    """They are somebody's."""
    Path(target).mkdir()
    (Path(target) / "file").touch()
    with pytest.raises(RollbackFailed):
        mounts.unmount(target)

    assert ["file"] == os.listdir(target)


def test_a_missing_parent(mounts: Mounts, source: Path, tmp_path: Path) -> None:
    """It is kubelet's to make."""
    with pytest.raises(InvalidRequest, match="parent"):
        bind(mounts, source, str(tmp_path / "absent" / "target"))
