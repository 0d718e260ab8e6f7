"""Mounts of lazy views whose server is absent, stuck or dead, as root: nothing here may wait for it."""

from __future__ import annotations

import errno
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest, MountFailed, RollbackFailed
from modelcsi.mount.fusemount import abort, attach, devices_of, has_ended, lazy_mounts, open_connection, unmount
from modelcsi.mount.mounter import Mounter, MountMethod
from modelcsi.mount.table import Mount, mounts_at, read_mount_table
from tests.integration.mount.tiny_server import Tiny

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and FUSE"),
]

VIEW = "ab" * 32
_LIMIT_SECONDS = 10.0


@pytest.fixture
def area() -> Iterator[Path]:
    """A directory; whatever a test leaves mounted in it is ended and taken away."""
    path = Path(tempfile.mkdtemp(prefix="modelcsi-fuse-"))
    yield path
    for mount in reversed(read_mount_table()):
        if mount.mount_point.startswith(f"{path}/"):
            if mount.fs_type.startswith("fuse"):
                abort(mount.device)
            subprocess.run(["umount", "--lazy", mount.mount_point], check=False)
    shutil.rmtree(path)


@pytest.fixture(params=list(MountMethod), ids=lambda method: method.value)
def mounter(request: pytest.FixtureRequest) -> Mounter:
    """Further targets are made with the descriptor calls and with the fallback."""
    return Mounter(request.param)


@contextmanager
def _attached(target: Path, view: str = VIEW) -> Iterator[tuple[int, str]]:
    """A mount that nobody serves: its connection and device."""
    fuse_fd = open_connection()
    try:
        yield fuse_fd, attach(fuse_fd, str(target), view=view, read_ahead_kb=1024)
    finally:
        os.close(fuse_fd)


def _clone(mounter: Mounter, source: Path, target: Path) -> None:
    descriptor = os.open(source, os.O_PATH | os.O_DIRECTORY)
    try:
        mounter.bind_read_only(descriptor, str(target))
    finally:
        os.close(descriptor)


def _mounts(target: Path) -> tuple[Mount, ...]:
    return mounts_at(read_mount_table(), str(target))


@contextmanager
def _blocked_reader(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for the server of a mount: it says so, then hangs in a system call."""
    code = f"import os; print('now', flush=True); os.listdir({str(directory)!r})"
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reader.stdout is not None
    reader.stdout.readline()
    end = time.monotonic() + _LIMIT_SECONDS
    while "fuse" not in Path(f"/proc/{reader.pid}/stack").read_text() and time.monotonic() < end:
        assert reader.poll() is None, "nothing to wait for"
    yield reader
    reader.kill()
    reader.communicate(timeout=_LIMIT_SECONDS)


def test_a_view_is_known_by_its_mount(area: Path) -> None:
    """The table alone tells which view is where; it is `ro,nosuid,nodev`, and reads ahead as far as was asked for."""
    target = area / "target"
    with _attached(target) as (_, device):
        (mount,) = _mounts(target)
        read_ahead = Path(f"/sys/class/bdi/{device}/read_ahead_kb").read_text().strip()
        found = lazy_mounts(read_mount_table())[str(target)], devices_of(read_mount_table(), VIEW)

    assert ("fuse.modelcsi", VIEW, device) == (mount.fs_type, mount.source, mount.device)
    assert {"ro", "nosuid", "nodev"} <= mount.options
    assert (VIEW, frozenset({device})) == found
    assert "1024" == read_ahead


def test_what_is_mounted_already_is_not_stacked_upon(area: Path) -> None:
    """A view is attached to a place of its own; what is there belongs to a volume that will be unpublished."""
    target = area / "target"
    with (
        _attached(target),
        pytest.raises(RollbackFailed, match="something else is mounted"),
        _attached(target, "cd" * 32),
    ):
        pass

    assert [VIEW] == [mount.source for mount in _mounts(target)]


def test_a_failed_attach_leaves_nothing(area: Path) -> None:
    """Neither a mount nor the directory; the error says what the kernel said."""
    not_fuse = os.open(os.devnull, os.O_RDWR)
    try:
        with pytest.raises(MountFailed, match="cannot mount at"):
            attach(not_fuse, str(area / "target"), view=VIEW, read_ahead_kb=128)
    finally:
        os.close(not_fuse)

    assert [] == list(area.iterdir())


@pytest.mark.parametrize("name", ["absent/target", "link", "file"])
def test_a_target_that_cannot_be(area: Path, name: str) -> None:
    """A missing parent, a symlink and a file are refused as they are for binds."""
    (area / "file").touch()
    (area / "link").symlink_to(area)
    with pytest.raises(InvalidRequest), _attached(area / name):
        pass

    assert {"file", "link"} == {path.name for path in area.iterdir()}


def test_no_read_ahead_is_a_warning(area: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A value that the kernel does not take costs speed, not the mount."""
    fuse_fd = open_connection()
    try:
        attach(fuse_fd, str(area / "target"), view=VIEW, read_ahead_kb=-1)
    finally:
        os.close(fuse_fd)

    assert "read_ahead_kb" in caplog.text
    assert 1 == len(_mounts(area / "target"))


def test_a_further_target_needs_no_server(mounter: Mounter, area: Path) -> None:
    """A clone, and its repetition, ask the kernel only; so does the question what is shown there."""
    with _attached(area / "one") as (_, device):
        _clone(mounter, area / "one", area / "two")
        _clone(mounter, area / "two", area / "one")
        _clone(mounter, area / "one", area / "two")
        (mount,) = _mounts(area / "two")
        shown = mounter.shows(str(area / "two"), area / "one"), mounter.shows(str(area / "two"), area)

    assert (device, VIEW) == (mount.device, mount.source)
    assert {"ro", "nosuid", "nodev"} <= mount.options
    assert (True, False) == shown


def test_another_view_is_not_taken_for_this_one(mounter: Mounter, area: Path) -> None:
    """Two views differ though neither answers; a bind mount differs from both."""
    (area / "directory").mkdir()
    with _attached(area / "one"), _attached(area / "two", "cd" * 32):
        for source in (area / "one", area / "directory"):
            with pytest.raises(RollbackFailed, match="something else is mounted"):
                _clone(mounter, source, area / "two")

    assert ["cd" * 32] == [mount.source for mount in _mounts(area / "two")]


def test_unmounting_one_target_leaves_the_others(mounter: Mounter, area: Path) -> None:
    """The connection lives while anything shows the view, and ends with the last."""
    with _attached(area / "one") as (fuse_fd, _):
        _clone(mounter, area / "one", area / "two")
        unmount(mounter, str(area / "one"))
        lived = not has_ended(fuse_fd)
        unmount(mounter, str(area / "two"))

        assert lived
        assert has_ended(fuse_fd)
    assert [] == list(area.iterdir())


def test_unmounting_frees_who_waits_for_a_stuck_server(mounter: Mounter, area: Path) -> None:
    """A reader that not even SIGKILL reaches dies once the last target has gone, and the directory goes at once."""
    with _attached(area / "target") as (fuse_fd, _):
        Tiny(fuse_fd, area).answer()  # INIT
        with _blocked_reader(area / "target") as reader:
            select.select([fuse_fd], [], [], _LIMIT_SECONDS)
            os.read(fuse_fd, 1 << 21)  # the server has the request, and says nothing more
            reader.kill()
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(0.5)
            began = time.monotonic()
            unmount(mounter, str(area / "target"))
            took = time.monotonic() - began
            reader.wait(_LIMIT_SECONDS)

    assert took < _LIMIT_SECONDS
    assert [] == list(area.iterdir())


def test_an_abort_gives_errors_instead_of_waiting(area: Path) -> None:
    """Who waits gets an error, and who comes later; the mount stays for its unpublish, and can be unmounted."""
    with _attached(area / "target") as (_, device), _blocked_reader(area / "target") as reader:
        abort(device)
        _, output = reader.communicate(timeout=_LIMIT_SECONDS)
        with pytest.raises(OSError, match="not connected") as later:
            os.listdir(area / "target")
        unmount(Mounter(), str(area / "target"))

    assert reader.returncode != 0, output
    assert errno.ENOTCONN == later.value.errno
    assert [] == list(area.iterdir())


def test_an_abort_of_what_has_gone_is_nothing() -> None:
    """The connection may have ended by itself between two looks. A number that no connection has: another's may be anybody's."""
    abort(f"0:{(1 << 20) - 1}")


def test_a_server_that_died_is_cleared_away(mounter: Mounter, area: Path) -> None:
    """With the last descriptor the connection ends; its mounts are unmounted as any."""
    with _attached(area / "one"):
        _clone(mounter, area / "one", area / "two")
    unmount(mounter, str(area / "two"))
    unmount(mounter, str(area / "one"))

    assert [] == list(area.iterdir())
