"""What a pod sees of a lazy view by the passthrough adapter, while its bytes arrive and after."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from modelcsi.artifact.entries import EntryType, FileEntry
from modelcsi.mount.wire import Gone, Serve
from modelcsi.view.fill import FileState
from modelcsi.view.plan import PlannedEntry
from tests.fakes.fuse_mount import TinyHolder, unmount
from tests.fakes.lazy import VIEW, LazyDriver, LazyFile, content_of
from tests.integration.fuse.children import child_that, wait_until
from tests.integration.fuse.conftest import MIB, Mount, Mounted, needs_root

pytestmark = needs_root()

NAME = "weights"
_LIBC = ctypes.CDLL(None, use_errno=True)


def _errno(call: Callable[..., object], *arguments: object) -> int | None:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return None


def test_tree(mounted: Mounted) -> None:
    """Names, types, modes, sizes, times, owners and link counts are those of the plan."""
    seen = {}
    for directory, _, names in os.walk(mounted.path):
        for path in (Path(directory), *(Path(directory) / name for name in names)):
            status = path.lstat()
            assert (0, 0) == (status.st_uid, status.st_gid)
            seen[str(path.relative_to(mounted.path))] = (
                *(oct(status.st_mode), status.st_size, status.st_nlink, status.st_mtime_ns),
            )
    time_ns = 1_700_000_000_000_000_007

    assert {
        ".": ("0o40555", 0, 3, 0),
        "dir": ("0o40555", 0, 3, 5_000_000_001),
        "dir/inner": ("0o40555", 0, 2, 0),
        "dir/link": ("0o120777", 10, 1, 0),
        "dir/said.txt": ("0o100444", 4, 1, 0),
        "empty": ("0o100444", 0, 1, time_ns),
        NAME: ("0o100555", 5 * MIB + 100, 1, time_ns),
    } == seen
    assert "../weights" == os.readlink(mounted.path / "dir" / "link")
    assert (5 * MIB + 100 + 511) // 512 == (mounted.path / NAME).stat().st_blocks


def test_reading_brings_the_bytes(mounted: Mounted) -> None:
    """A file is read as it arrives; what is in the plan and what is empty asks nobody."""
    small = (mounted.read("dir/said.txt"), mounted.read("empty"))
    asked = len(mounted.driver.asked())

    assert ((b"said", b""), 0) == (small, asked)
    assert mounted.content(NAME) == mounted.read("dir/link")
    assert 6 == len(mounted.driver.asked())


def test_only_what_is_read_is_waited_for(mount: Mount) -> None:
    """A range that is here is read at once while others of the file are not."""
    mounted = mount(LazyFile(NAME, content_of(NAME, 64 * MIB)), serves=False)
    mounted.store.arrive(NAME, 40)
    fd = os.open(mounted.path / NAME, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    seen = os.pread(fd, 4096, 40 * MIB + 5)
    os.close(fd)

    assert mounted.content(NAME)[40 * MIB + 5 :][:4096] == seen


def test_many_readers_wait_together(mount: Mount) -> None:
    """128 readers wait for a chunk that is asked for once; others read meanwhile; all have the right bytes when it comes."""
    mounted = mount(LazyFile(NAME, content_of(NAME, 8 * MIB)), LazyFile("here", content_of("here", MIB)), serves=False)
    mounted.store.complete("here")
    fd = os.open(mounted.path / NAME, os.O_RDONLY | os.O_DIRECT)

    def read_some(reader: int) -> bool:
        buffer = mmap.mmap(-1, 4096)
        start = reader % 2 * MIB + reader * 4096
        return os.preadv(fd, [buffer], start) == 4096 and buffer[:] == mounted.content(NAME)[start : start + 4096]

    with ThreadPoolExecutor(128) as readers:
        results = [readers.submit(read_some, reader) for reader in range(128)]
        wait_until(lambda: 2 <= len(mounted.driver.wants()))
        others = mounted.read("here") == mounted.content("here")
        before = [result.done() for result in results]
        mounted.driver.serve_from_now()
        after = [result.result(30) for result in results]
    os.close(fd)

    assert others
    assert not any(before)
    assert all(after)
    assert 2 == len(mounted.driver.asked())


@pytest.mark.parametrize("way", ["read", "direct", "mapped", "random"])
def test_killed_reader_dies_at_once(mount: Mount, way: str) -> None:
    """A process that waits for bytes that do not come can be killed, however it reads."""
    mounted = mount(LazyFile(NAME, content_of(NAME, 8 * MIB)), serves=False)
    programs = {
        "read": "os.pread(os.open(sys.argv[1], os.O_RDONLY), 4096, 0)",
        "direct": "os.preadv(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), [mmap.mmap(-1, 4096)], 0)",
        "mapped": "mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, access=mmap.ACCESS_READ)[5]",
        "random": "m = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, access=mmap.ACCESS_READ); "
        "m.madvise(mmap.MADV_RANDOM); m[5]",
    }
    with child_that(programs[way], mounted.path / NAME) as child:
        wait_until(mounted.driver.wants)
        child.kill()
        died = child.wait(5)

    assert -signal.SIGKILL == died


def test_signal_that_does_not_kill_disturbs_nobody(mount: Mount) -> None:
    """A reader that handles a signal goes on waiting, as for a disk: no EINTR, no SIGBUS; and can still be killed."""
    mounted = mount(LazyFile(NAME, content_of(NAME, 8 * MIB)), serves=False)
    program = """
import ctypes, signal
signal.signal(signal.SIGUSR1, lambda *_: None)
fd = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
m.madvise(mmap.MADV_RANDOM)
at = int(sys.argv[3])
print(m[at] if sys.argv[2] == "mapped" else ctypes.CDLL(None).pread(fd, ctypes.create_string_buffer(10), 10, at))
"""
    with ExitStack() as stack:
        fault = stack.enter_context(child_that(program, mounted.path / NAME, "mapped", 5))
        read = stack.enter_context(child_that(program, mounted.path / NAME, "read", 5 * MIB))
        killed = stack.enter_context(child_that(program, mounted.path / NAME, "mapped", 7 * MIB))
        wait_until(lambda: {0, 5 * MIB, 7 * MIB} <= {want.start for want in mounted.driver.wants()})
        for child in (fault, read, killed):
            child.send_signal(signal.SIGUSR1)
        threading.Event().wait(0.3)
        killed.kill()
        died = killed.wait(5)
        mounted.driver.serve_from_now()
        answers = [child.communicate(timeout=30)[0] for child in (fault, read)]

    assert -signal.SIGKILL == died
    assert [b"%d\n" % mounted.content(NAME)[5], b"10\n"] == answers


def test_nobody_waits_for_ever(mount: Mount) -> None:
    """After `fuse.read_timeout` a read is EIO; a later one may succeed."""
    mounted = mount(LazyFile(NAME, content_of(NAME, 100)), serves=False, read_timeout=0.5)
    error = _errno(mounted.read, NAME)
    mounted.driver.serve_from_now()

    assert errno.EIO == error
    assert mounted.content(NAME) == mounted.read(NAME)


def test_failed_file_is_an_error_at_once(mount: Mount) -> None:
    """What the driver cannot get is EIO; what it gets after all can be read."""
    mounted = mount(LazyFile(NAME, content_of(NAME, 100)), LazyFile("other", b"other"))
    mounted.store.fill.put(mounted.store.numbers[NAME], FileState.FAILED)
    error = _errno(mounted.read, NAME)
    other = mounted.read("other")
    mounted.store.fill.put(mounted.store.numbers[NAME], FileState.WAITING)

    assert (errno.EIO, b"other") == (error, other)
    assert mounted.content(NAME) == mounted.read(NAME)


def test_driver_that_is_away(mount: Mount) -> None:
    """While no driver listens, what is here is read and the rest waits; a new driver is asked for it again."""
    mounted = mount(LazyFile(NAME, content_of(NAME, 2 * MIB)), LazyFile("here", content_of("here", MIB)), serves=False)
    mounted.store.complete("here")
    with ThreadPoolExecutor(1) as readers:
        result = readers.submit(mounted.read, NAME)
        wait_until(mounted.driver.wants)
        mounted.driver.close()
        here = mounted.read("here")
        with LazyDriver(mounted.store):
            seen = result.result(30)

    assert (mounted.content("here"), mounted.content(NAME)) == (here, seen)


def test_nothing_can_be_written(mounted: Mounted) -> None:
    """Each way of changing something is EROFS, as on a bind mount; there are no extended attributes."""
    path = mounted.path / NAME
    ways = (
        (os.open, path, os.O_RDWR),
        (os.open, mounted.path / "new", os.O_CREAT | os.O_WRONLY),
        (os.mkdir, mounted.path / "new"),
        (os.unlink, path),
        (os.rename, path, mounted.path / "new"),
        (os.chmod, path, 0o777),
        (os.truncate, path, 0),
        (os.symlink, "x", mounted.path / "new"),
        (os.setxattr, path, "user.x", b"x"),
    )

    assert [errno.EROFS] * len(ways) == [_errno(*way) for way in ways]
    assert errno.EOPNOTSUPP == _errno(os.getxattr, path, "user.x")
    assert errno.ENOENT == _errno(os.stat, mounted.path / "none") == _errno(os.stat, mounted.path / "none")
    assert errno.ENOTDIR == _errno(os.stat, path / "below")


def test_statfs(mounted: Mounted) -> None:
    """The filesystem is as large as its files, and full."""
    status = os.statvfs(mounted.path)

    assert (5 * MIB + 4096, 0, 255) == (status.f_blocks * status.f_frsize, status.f_bavail, status.f_namemax)


def test_other_users_read(mounted: Mounted) -> None:
    """A pod that is not root reads, by the modes."""
    program = "os.setuid(65534); print(len(open(sys.argv[1], 'rb').read()))"
    with child_that(program, mounted.path / NAME) as child:
        output, errors = child.communicate(timeout=30)

    assert (b"5242980\n", b"") == (output, errors)


def test_directory_of_ten_thousand(mount: Mount) -> None:
    """A large directory is listed whole, with and without attributes."""
    names = [f"shard-{number:05}.safetensors" for number in range(10_000)]
    mounted = mount(
        LazyFile("file", b"x"),
        others=tuple(PlannedEntry(FileEntry(name, EntryType.FILE, 1, 0o444, data=b"1")) for name in names),
    )
    with os.scandir(mounted.path) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}

    assert {*names, "file"} == sizes.keys() == set(os.listdir(mounted.path))
    assert {1} == set(sizes.values())
    assert names[77].encode() == subprocess.check_output(["ls", mounted.path]).split()[78]


def test_wrong_bytes_are_forgotten(mount: Mount) -> None:
    """When what was read turns out wrong, handles from before get EIO and new ones the right bytes, not the kernel's old pages."""
    mounted = mount(LazyFile(NAME, content_of(NAME, MIB)))
    right = mounted.content(NAME)
    number = mounted.store.numbers[NAME]
    mounted.store.files[NAME].content = bytes(MIB)
    fd = os.open(mounted.path / NAME, os.O_RDONLY)
    wrong = os.pread(fd, 10, 0)
    mounted.store.files[NAME].content = right
    mounted.store.begin_again(NAME)
    mounted.driver.tell_changed(VIEW, number)
    wait_until(lambda: _errno(os.pread, fd, 10, 0) == errno.EIO)
    os.close(fd)

    assert bytes(10) == wrong
    assert right == mounted.read(NAME)


def test_wrong_bytes_that_no_server_was_told_of(mount: Mount) -> None:
    """The server that starts next finds the new epoch in the fill map, and the kernel forgets all the same."""
    mounted = mount(LazyFile(NAME, content_of(NAME, MIB)))
    right = mounted.content(NAME)
    mounted.store.files[NAME].content = bytes(MIB)
    wrong = mounted.read(NAME)
    mounted.store.files[NAME].content = right
    mounted.store.begin_again(NAME)
    mounted.holder.replace()
    wait_until(lambda: mounted.read(NAME) != wrong)

    assert right == mounted.read(NAME)


def test_unmount_ends_the_service(mounted: Mounted) -> None:
    """The holder is told when the last mount is taken away, and the process lives on."""
    unmount(mounted.path)

    assert Gone(VIEW) == mounted.holder.server.hear()
    assert mounted.holder.server.process.poll() is None


def test_view_that_cannot_be_served(mounted: Mounted) -> None:
    """A view without its files is reported, with the reason, and disturbs no other."""
    other = "f" * 64
    with TinyHolder(mounted.store.layout.root) as holder:
        fd = os.open("/dev/fuse", os.O_RDWR)
        holder.fds[other] = fd
        holder.server.tell(Serve(other), fd)
        message = holder.server.hear()

    assert isinstance(message, Gone)
    assert (other, True) == (message.view, "plan" in message.why)
