"""Real mounts of lazy views, a driver that does what the test says, and servers that may be killed."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelcsi.artifact.entries import EntryType, FileEntry
from modelcsi.mount.fusemount import abort
from modelcsi.view.plan import PlannedEntry
from tests.fakes.fuse_mount import TinyHolder, mount_fuse, unmount
from tests.fakes.lazy import VIEW, LazyDriver, LazyFile, LazyStore, content_of

MIB = 1 << 20
_ABORT_BEFORE_SECONDS = 30.0
"""The test's own time ends."""
OTHERS = (
    PlannedEntry(FileEntry("dir", EntryType.DIRECTORY, 0, 0o555, 5_000_000_001)),
    PlannedEntry(FileEntry("dir/link", EntryType.SYMLINK, 0, 0o777, target="../weights")),
    PlannedEntry(FileEntry("dir/said.txt", EntryType.FILE, 4, 0o444, data=b"said")),
    PlannedEntry(FileEntry("dir/inner", EntryType.DIRECTORY, 0, 0o555)),
)


@dataclass
class Mounted:
    """A view that is mounted and served."""

    path: Path
    store: LazyStore
    driver: LazyDriver
    holder: TinyHolder

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def content(self, name: str) -> bytes:
        """What it should be."""
        return self.store.files[name].content


@pytest.fixture
def area() -> Iterator[Path]:
    """A directory on a real disk: nothing can be passed through to a tmpfs or an overlay of a container."""
    path = Path(tempfile.mkdtemp(prefix="modelcsi-fuse-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


Mount = Callable[..., Mounted]


@pytest.fixture
def abort_seconds(request: pytest.FixtureRequest) -> float:
    """When a connection is ended so that what waits for it fails: a test that may take longer has longer."""
    marker = request.node.get_closest_marker("timeout")
    limit = marker.args[0] if marker else request.config.getini("timeout")
    return float(limit) - _ABORT_BEFORE_SECONDS


@pytest.fixture
def mount(area: Path, abort_seconds: float) -> Iterator[Mount]:
    """Mount a view of these files; `serves`: what is wanted arrives at once."""
    with ExitStack() as stack:

        def mount_one(
            *files: LazyFile,
            others: tuple[PlannedEntry, ...] = (),
            serves: bool = True,
            verify: str = "range",
            read_timeout: float = 300.0,
        ) -> Mounted:
            root, target = area / "root", area / "mount"
            root.mkdir()
            target.mkdir()
            store = LazyStore(root, files, others)
            driver = stack.enter_context(LazyDriver(store, serves=serves))
            fd, device = mount_fuse(target, VIEW)
            stack.callback(_unmount_if_mounted, target)
            # No signal ends a process that waits for a server which it should start itself.
            watchdog = threading.Timer(abort_seconds, abort, (device,))
            watchdog.start()
            stack.callback(watchdog.cancel)
            holder = stack.enter_context(TinyHolder(root, verify=verify, read_timeout=read_timeout))
            holder.hold(VIEW, fd)
            return Mounted(target, store, driver, holder)

        yield mount_one


@pytest.fixture
def mounted(mount: Mount) -> Mounted:
    """Two files, of which nothing is here before it is read, and some other entries."""
    files = (LazyFile("weights", content_of("weights", 5 * MIB + 100), 0o555), LazyFile("empty", b""))
    return mount(*files, others=OTHERS)


def _unmount_if_mounted(target: Path) -> None:
    with suppress(OSError):  # the test has unmounted it; to ask would be to ask the server, which is dead
        unmount(target)


def needs_root() -> pytest.MarkDecorator:
    """What mounts."""
    return pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
