"""Files that are complete are read by the kernel alone; which way a file is read is decided so that no open ever fails."""

from __future__ import annotations

import mmap
import os
import signal
from pathlib import Path

import pytest

from modelcsi.fuse.opens import Opens
from tests.fakes.lazy import LazyFile, content_of
from tests.integration.fuse.children import child_that, wait_until
from tests.integration.fuse.conftest import MIB, Mount, Mounted, needs_root

pytestmark = needs_root()

NAME = "weights"
SIZE = 4 * MIB


@pytest.fixture
def mounted(mount: Mount) -> Mounted:
    """One file of which nothing is here."""
    return mount(LazyFile(NAME, content_of(NAME, SIZE)))


def _open(mounted: Mounted) -> int:
    return os.open(mounted.path / NAME, os.O_RDONLY)


def _reads(mounted: Mounted, fd: int) -> bool:
    return os.pread(fd, SIZE, 0) == mounted.content(NAME)


def _opens(mounted: Mounted) -> tuple[int, int]:
    """How many handles read through the cache, and the id of the backing file: what the server wrote down."""
    opens = Opens(Path(_copy(mounted)), 1)
    try:
        return opens.cached(0), opens.backing(0, 0)
    finally:
        opens.close()


def _copy(mounted: Mounted) -> str:
    """Of the server's own file: to open that would be to take it over."""
    copy = mounted.store.layout.root.parent / "opens"
    copy.write_bytes(mounted.store.layout.lazy_view(mounted.store.view).opens.read_bytes())
    return str(copy)


def test_complete_file_needs_no_server(mounted: Mounted) -> None:
    """A file that was complete when it was opened is read, mapped and looked at while no server is alive, by no CPU of ours."""
    mounted.store.complete(NAME)
    with open(mounted.path / NAME, "rb") as file, open(mounted.path / NAME, "rb") as other:
        before = mounted.holder.server.cpu_seconds
        for _ in range(50):
            assert _reads(mounted, file.fileno())
        after = mounted.holder.server.cpu_seconds
        mounted.holder.server.kill()
        with mmap.mmap(other.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            seen = mapped[:]
        still = _reads(mounted, file.fileno())
        os.fstat(file.fileno())
        mounted.holder.replace()

    assert before == after
    assert mounted.content(NAME) == seen
    assert still


def test_direct_reads(mounted: Mounted) -> None:
    """O_DIRECT works before and after the file is complete."""
    fd = os.open(mounted.path / NAME, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, SIZE)
    before = (os.preadv(fd, [buffer], 0), buffer[:] == mounted.content(NAME))
    os.close(fd)
    mounted.store.complete(NAME)
    fd = os.open(mounted.path / NAME, os.O_RDONLY | os.O_DIRECT)
    after = (os.preadv(fd, [buffer], 0), buffer[:] == mounted.content(NAME))
    os.close(fd)

    assert (SIZE, True) == before == after
    assert 0 < _opens(mounted)[1]


def test_file_that_is_read_through_the_cache_stays_so(mounted: Mounted) -> None:
    """While a handle from before the completion is open, later ones are read as it is; with its end passthrough begins."""
    early = _open(mounted)
    mounted.store.complete(NAME)
    late = _open(mounted)
    both = (_reads(mounted, early), _reads(mounted, late), _opens(mounted))
    os.close(early)
    os.close(late)
    os.stat(mounted.path / NAME)
    _settle(mounted, 0)
    last = _open(mounted)
    passed = (_reads(mounted, last), _opens(mounted)[0], _opens(mounted)[1] > 0)
    os.close(last)

    assert (True, True, (2, 0)) == both
    assert (True, 0, True) == passed


def _settle(mounted: Mounted, count: int) -> None:
    """close(2) does not wait for the server."""
    for _ in range(1000):
        if _opens(mounted)[0] == count:
            return
        os.listdir(mounted.path)
    pytest.fail("handles were not given back")


def test_mapping_keeps_the_way(mounted: Mounted) -> None:
    """A mapping outlives its descriptor, and counts as the handle that it is."""
    fd = _open(mounted)
    mapped = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
    os.close(fd)
    mounted.store.complete(NAME)
    mounted.holder.replace()
    late = _open(mounted)
    seen = (mapped[:] == mounted.content(NAME), _reads(mounted, late), _opens(mounted)[0])
    os.close(late)
    mapped.close()
    _settle(mounted, 0)
    last = _open(mounted)
    os.close(last)

    assert (True, True, 2) == seen
    assert 0 < _opens(mounted)[1]


def test_next_server_knows_what_is_open(mounted: Mounted) -> None:
    """Servers are killed between opens and closes of both ways, and no open ever fails."""
    early = _open(mounted)
    mounted.holder.replace()
    mounted.store.complete(NAME)
    late = _open(mounted)
    mounted.holder.replace()
    through_cache = (_reads(mounted, early), _reads(mounted, late), _opens(mounted))
    os.close(early)
    mounted.holder.replace()
    os.close(late)
    _settle(mounted, 0)
    mounted.holder.replace()
    handles = []
    for _ in range(3):
        handles.append(_open(mounted))
        mounted.holder.replace()
    ids = {_opens(mounted)[1]}
    passed = [_reads(mounted, handle) for handle in handles]
    for handle in handles:
        os.close(handle)

    assert (True, True, (2, 0)) == through_cache
    assert [True] * 3 == passed
    assert 1 == len(ids)
    assert 0 not in ids


def test_requests_that_a_dead_server_had_read_are_answered(mounted: Mounted) -> None:
    """A reader that waits for bytes when its server is killed has them from the next one."""
    mounted.driver.serves = False
    with child_that(_SAY_DIGEST, mounted.path / NAME) as child:
        wait_until(mounted.driver.wants)
        mounted.holder.replace()
        mounted.driver.serve_from_now()
        said = child.communicate(timeout=30)[0]

    assert str(mounted.store.files[NAME].digest) == said.decode()


def test_server_that_was_stopped_and_replaced(mounted: Mounted) -> None:
    """When it wakes it finds another one in its place, and answers nothing more; what is open is still counted right."""
    early = _open(mounted)
    stopped = mounted.holder.server
    stopped.process.send_signal(signal.SIGSTOP)
    mounted.holder.succeed()
    late = _open(mounted)
    stopped.process.send_signal(signal.SIGCONT)
    handles = [_open(mounted) for _ in range(50)]
    seen = ({_reads(mounted, fd) for fd in (early, late, *handles)}, _opens(mounted)[0], stopped.process.poll())
    for fd in (early, late, *handles):
        os.close(fd)
    _settle(mounted, 0)
    stopped.kill()

    assert ({True}, 52, None) == seen


def test_opening_waits_for_the_digest(mount: Mount) -> None:
    """With `fuse.verify: complete` an open waits until the file is verified, across a server's death, and reads natively."""
    mounted = mount(LazyFile(NAME, content_of(NAME, SIZE)), serves=False, verify="complete")
    with child_that(_SAY_DIGEST, mounted.path / NAME) as child:
        wait_until(mounted.driver.wants)
        (want,) = mounted.driver.wants()
        for chunk in mounted.store.chunks(NAME):
            mounted.store.arrive(NAME, chunk)
        mounted.driver.look_again()
        is_waiting = child.poll() is None
        mounted.holder.replace()
        mounted.driver.serve_from_now()
        said = child.communicate(timeout=30)[0]

    assert (True, True) == (want.verified, is_waiting)
    assert str(mounted.store.files[NAME].digest) == said.decode()
    assert (0, True) == (_opens(mounted)[0], _opens(mounted)[1] > 0)


_SAY_DIGEST = """
import hashlib
sys.stdout.write("sha256:" + hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""
