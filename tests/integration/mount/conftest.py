"""A node with a driver's side of its own, the real holder, and servers that are as small as can be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from modelcsi.mount.daemons import Daemons
from modelcsi.mount.fusemount import abort, attach, open_connection, unmount
from modelcsi.mount.mounter import Mounter
from modelcsi.mount.table import read_mount_table
from tests.fakes.processes import is_gone, kill_all_of
from tests.integration.driver import eventually

_HERE = Path(__file__).parent
VIEW = "ab" * 32
_Node = TypeVar("_Node", bound="LazyNode")


class LazyNode:
    """`daemons` is a driver's; `restart` gives it to another driver, as a kill -9 and a new start would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lost: list[tuple[str, str]] = []
        self.flags: tuple[str, ...] = ()
        self.daemons = self._new_daemons()

    def _holder_command(self) -> list[str]:
        return [sys.executable, str(_HERE / "tiny_holder.py"), str(self.root), *self.flags]

    def _new_daemons(self) -> Daemons:
        daemons = Daemons(self.root, lambda view, why: self.lost.append((view, why)), self._holder_command())
        daemons.start()
        return daemons

    def restart(self, *flags: str) -> None:
        """Another driver."""
        self.daemons.stop()
        self.flags = flags or self.flags
        self.daemons = self._new_daemons()

    def mount(
        self, name: str = "target", view: str = VIEW, *, adapter: str = "passthrough", secret: bytes = b"s"
    ) -> Path:
        """A view, attached and held."""
        target = self.root / "pods" / name
        fuse_fd = open_connection()
        try:
            device = attach(fuse_fd, str(target), view=view, read_ahead_kb=128)
            self.daemons.hold(view, fuse_fd, adapter, device, secret)
        finally:
            os.close(fuse_fd)
        return target

    def unmount(self, target: Path, view: str = VIEW) -> None:
        """As an unpublish of a view's last target does."""
        unmount(Mounter(), str(target))
        self.daemons.release(view)

    def servers(self, role: str) -> list[int]:
        """The processes of a role."""
        return [server.pid for server in self.daemons.servers() if server.role == role]

    def server(self, role: str = "active", *, but: Collection[int] = ()) -> int:
        """The process of a role, once there is one, that is not one of those."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = [pid for pid in self.servers(role) if pid not in but]
            return bool(found)

        eventually(is_there, f"a server that is {role}")
        return found[0]

    def other_holder(self, but: int) -> int:
        """The next one."""
        eventually(lambda: self.daemons.holder_pid not in (None, but), "another holder")
        return self.holder()

    def holder(self) -> int:
        """The holder's process, once it is there."""
        eventually(lambda: self.daemons.holder_pid is not None, "a holder")
        pid = self.daemons.holder_pid
        assert pid is not None
        return pid

    def end(self) -> None:
        """Unmount all, and see that no process stays."""
        for mount in reversed(read_mount_table()):
            if mount.mount_point.startswith(f"{self.root}/"):
                abort(mount.device)
                unmount(Mounter(), mount.mount_point)
        for held in self.daemons.held():
            self.daemons.release(held.view)
        self.daemons.stop()
        kill_all_of(self.root)


class NodeOfContainers(LazyNode):
    """Somebody else starts the holder, and what ends it ends its servers."""

    def __init__(self, root: Path) -> None:
        self._holders: list[subprocess.Popen[bytes]] = []
        super().__init__(root)

    def _new_daemons(self) -> Daemons:
        daemons = Daemons(self.root, lambda view, why: self.lost.append((view, why)))
        daemons.start()
        return daemons

    def start_holder(self) -> None:
        """As a container that starts."""
        process = subprocess.Popen(self._holder_command())
        self._holders.append(process)
        eventually((self.root / "fuse.sock").exists, "the holder")

    def kill_holder(self) -> None:
        """With its servers, as a container that is killed."""
        victims = [self.holder(), *(server.pid for server in self.daemons.servers())]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        wait_for_end(*victims)
        (self.root / "fuse.sock").unlink()

    def end(self) -> None:
        """And no holder is left for init."""
        super().end()
        for process in self._holders:
            process.wait(60)


class Reader:
    """A process that reads a view's file all the time."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.mount.reading", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def result(self) -> dict[str, Any]:
        """Stop; how it went."""
        output, _ = self._process.communicate("", timeout=60)
        answer: dict[str, Any] = json.loads(output)
        return answer

    def kill(self) -> None:
        """If the test has not stopped it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate(timeout=60)


@contextmanager
def _ended(kind: type[_Node]) -> Iterator[_Node]:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and FUSE")
    root = Path(tempfile.mkdtemp(prefix="modelcsi-lazy-"))
    (root / "pods").mkdir()
    node = kind(root)
    try:
        yield node
    finally:
        node.end()
        shutil.rmtree(root)


@pytest.fixture
def lazy_node() -> Iterator[LazyNode]:
    """Root is needed, and FUSE."""
    with _ended(LazyNode) as node:
        yield node


@pytest.fixture
def node_of_containers() -> Iterator[NodeOfContainers]:
    """The same, and `start_holder` comes first."""
    with _ended(NodeOfContainers) as node:
        yield node


@contextmanager
def readers(path: Path, count: int = 4) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Processes that read; the call stops them and tells how it went."""
    with ExitStack() as stack:
        all_of_them = []
        for _ in range(count):
            reader = Reader(path)
            stack.callback(reader.kill)
            all_of_them.append(reader)
        yield lambda: [reader.result() for reader in all_of_them]


def wait_for_end(*pids: int) -> None:
    """Until the processes are gone."""
    eventually(lambda: all(map(is_gone, pids)), f"the end of {pids}")
