"""Real mounts, as root: what a pod sees of a bind mount, and what an unmount leaves."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest, MountFailed, RollbackFailed
from modelcsi.mount.mounter import Mounter, MountMethod
from modelcsi.mount.table import Mount, mounts_at, read_mount_table

pytestmark = [pytest.mark.integration, pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")]

_WANTED = {"ro", "nosuid", "nodev"}


@pytest.fixture
def area() -> Iterator[Path]:
    """A directory that every user may enter; whatever a test leaves mounted in it is taken away."""
    path = Path(tempfile.mkdtemp(prefix="modelcsi-mount-"))
    path.chmod(0o755)
    yield path
    for mount in reversed(read_mount_table()):
        if mount.mount_point.startswith(f"{path}/"):
            subprocess.run(["umount", "--lazy", mount.mount_point], check=False)
    shutil.rmtree(path)


@pytest.fixture
def source(area: Path) -> Path:
    """A view: a directory with a file in it."""
    path = area / "view"
    path.mkdir()
    (path / "weights").write_bytes(b"weights")
    return path


@pytest.fixture(params=list(MountMethod), ids=lambda method: method.value)
def mounter(request: pytest.FixtureRequest) -> Mounter:
    """Each test runs with the descriptor calls and with the fallback: both promise the same."""
    return Mounter(request.param)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _bind(mounter: Mounter, source: Path, target: Path) -> None:
    with _opened(source) as source_fd:
        mounter.bind_read_only(source_fd, str(target))


def _mounts(target: Path) -> tuple[Mount, ...]:
    return mounts_at(read_mount_table(), str(target))


def _errno(call: Callable[..., object], *arguments: object) -> int | None:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return None


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def test_the_best_method_is_found() -> None:
    """The probe agrees with the kernel: where the descriptor calls work, they are chosen."""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])

    assert repr(Mounter(MountMethod.DESCRIPTORS if release >= (5, 12) else MountMethod.PATHS)) == repr(Mounter())


def test_a_pod_reads_and_cannot_write(mounter: Mounter, area: Path, source: Path) -> None:
    """The files are there; writing, creating, and changing the mode say EROFS; the source stays writable for the driver."""
    target = area / "target"
    _bind(mounter, source, target)
    (source / "later").write_bytes(b"by the driver")

    assert b"weights" == (target / "weights").read_bytes()
    assert b"by the driver" == (target / "later").read_bytes()
    assert errno.EROFS == _errno((target / "weights").write_bytes, b"x")
    assert errno.EROFS == _errno((target / "new").touch)
    assert errno.EROFS == _errno((target / "weights").chmod, 0o777)
    assert errno.EROFS == _errno((target / "weights").unlink)


def test_the_flags_are_in_the_mount_table(mounter: Mounter, area: Path, source: Path) -> None:
    """The mount is `ro,nosuid,nodev`, and may be executed from."""
    _bind(mounter, source, area / "target")
    (mount,) = _mounts(area / "target")

    assert set() == _WANTED - mount.options
    assert "noexec" not in mount.options


def test_what_restricts_the_source_restricts_the_volume(mounter: Mounter, area: Path) -> None:
    """A root_dir that the admin mounted noexec gives volumes that are noexec too."""
    store = area / "store"
    store.mkdir()
    _mount("-t", "tmpfs", "-o", "noexec", "none", store)
    (store / "view").mkdir()
    _bind(mounter, store / "view", area / "target")
    (mount,) = _mounts(area / "target")

    assert {"noexec", *_WANTED} <= mount.options


def test_set_uid_and_devices_mean_nothing(mounter: Mounter, area: Path, source: Path) -> None:
    """A set-uid program runs as its caller, a device cannot be opened."""
    program = source / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    _bind(mounter, source, area / "target")

    def effective_user(directory: Path) -> str:
        command = [str(directory / "id"), "-u"]
        return subprocess.run(command, user=65534, check=True, capture_output=True, text=True).stdout.strip()

    assert ("0", "65534") == (effective_user(source), effective_user(area / "target"))
    assert errno.EACCES == _errno((area / "target" / "null").read_bytes)


def test_binding_twice_is_one_mount(mounter: Mounter, area: Path, source: Path) -> None:
    """A repeated publish finds its mount and does not stack a second one."""
    _bind(mounter, source, area / "target")
    _bind(mounter, source, area / "target")

    assert 1 == len(_mounts(area / "target"))


def test_a_writable_mount_of_the_source_is_not_taken_for_ours(mounter: Mounter, area: Path, source: Path) -> None:
    """The right files are not enough: a mount that can be written to is no publication."""
    target = area / "target"
    target.mkdir()
    _mount("--bind", source, target)
    with pytest.raises(RollbackFailed, match="something else is mounted"):
        _bind(mounter, source, target)

    assert 1 == len(_mounts(target))


def test_nothing_is_stacked_on_a_foreign_mount(mounter: Mounter, area: Path, source: Path) -> None:
    """Another directory at the target is kept and reported, so that the unpublish which clears it still comes."""
    target = area / "target"
    (area / "other").mkdir()
    _bind(mounter, area / "other", target)
    with pytest.raises(RollbackFailed, match="something else is mounted"):
        _bind(mounter, source, target)

    assert (1, []) == (len(_mounts(target)), os.listdir(target))


def test_a_target_that_is_a_symlink_is_refused(mounter: Mounter, area: Path, source: Path) -> None:
    """A mount never lands on what a symlink points to; neither does an unmount."""
    victim, target = area / "victim", area / "target"
    victim.mkdir()
    _bind(mounter, source, victim)
    target.symlink_to(victim)
    with pytest.raises(InvalidRequest, match="target is a symbolic link"):
        _bind(mounter, source, target)
    with pytest.raises(InvalidRequest, match="target is a symbolic link"):
        mounter.unmount(str(target))

    assert (1, True) == (len(_mounts(victim)), target.is_symlink())


def test_a_mount_that_fails_leaves_no_directory(mounter: Mounter, area: Path, source: Path) -> None:
    """The target's directory is removed again when the kernel refuses the mount (here: a source that was unmounted)."""
    store = area / "store"
    store.mkdir()
    _mount("-t", "tmpfs", "none", store)
    (store / "view").mkdir()
    with _opened(store / "view") as source_fd:
        subprocess.run(["umount", "--lazy", str(store)], check=True)
        with pytest.raises(MountFailed, match="cannot mount at"):
            mounter.bind_read_only(source_fd, str(area / "target"))

    assert not (area / "target").exists()


def test_unmount_removes_mount_and_directory(mounter: Mounter, area: Path, source: Path) -> None:
    """Afterwards nothing is mounted, the directory is gone, the source is whole; once more is fine."""
    target = area / "target"
    _bind(mounter, source, target)
    mounter.unmount(str(target))
    mounter.unmount(str(target))

    assert ((), False, ["weights"]) == (_mounts(target), target.exists(), os.listdir(source))


def test_stacked_mounts_all_go(mounter: Mounter, area: Path, source: Path) -> None:
    """Whoever mounted there and how often: the target is free afterwards."""
    target = area / "target"
    _bind(mounter, source, target)
    _mount("--bind", source, target)
    _mount("-t", "tmpfs", "none", target)
    mounter.unmount(str(target))

    assert ((), False) == (_mounts(target), target.exists())


def test_a_busy_mount_is_detached(mounter: Mounter, area: Path, source: Path) -> None:
    """A file that is still open is readable to its end, while the target is already gone."""
    target = area / "target"
    _bind(mounter, source, target)
    with (target / "weights").open("rb") as weights:
        mounter.unmount(str(target))
        content = weights.read()

    assert (b"weights", False) == (content, target.exists())


def test_a_mount_inside_of_a_busy_target_is_not_taken_along(area: Path, source: Path) -> None:
    """Detaching would take foreign mounts below with it: they stay and are named."""
    target = area / "target"
    (source / "inner").mkdir()
    _bind(Mounter(), source, target)
    _mount("-t", "tmpfs", "none", target / "inner")
    with pytest.raises(RollbackFailed, match=r"target/inner is mounted inside of"):
        Mounter().unmount(str(target))

    assert (1, 1) == (len(_mounts(target)), len(_mounts(target / "inner")))


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")
def test_a_dead_fuse_mount_is_cleared_away(mounter: Mounter, area: Path, source: Path) -> None:
    """Where even a stat says ENOTCONN, a bind is told that the target is taken, and an unmount frees it."""
    target = area / "target"
    target.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    assert 0 == libc.mount(b"model", os.fsencode(target), b"fuse", 0, options)
    os.close(device)
    assert errno.ENOTCONN == _errno(target.stat)

    with pytest.raises(RollbackFailed, match="something else is mounted"):
        _bind(mounter, source, target)
    mounter.unmount(str(target))

    assert ((), False) == (_mounts(target), os.path.lexists(target))


def test_mounts_reach_the_other_side_of_a_shared_parent(mounter: Mounter, area: Path, source: Path) -> None:
    """The kubelet sees the mount, read-only too, and its end, through `mountPropagation: Bidirectional`."""
    pods, kubelet = area / "pods", area / "kubelet"
    pods.mkdir()
    kubelet.mkdir()
    _mount("-t", "tmpfs", "none", pods)
    _mount("--make-shared", pods)
    _mount("--bind", pods, kubelet)
    _bind(mounter, source, pods / "target")
    (propagated,) = _mounts(kubelet / "target")
    mounter.unmount(str(pods / "target"))

    assert _WANTED <= propagated.options
    assert ((), []) == (_mounts(kubelet / "target"), os.listdir(kubelet))
