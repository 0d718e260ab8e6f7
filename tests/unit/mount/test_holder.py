"""Who is told what, and in which order, when servers follow each other. A pipe stands for a FUSE connection.

That readers notice nothing of it is tried as root, in tests/integration/mount.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelcsi.mount.daemons import Daemons
from tests.fakes.processes import kill_all_of

pytestmark = pytest.mark.timeout(60)

VIEW, OTHER = "ab" * 32, "cd" * 32


class Node:
    """A driver's side, and what all servers were told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lost: list[tuple[str, str]] = []
        self.ends: dict[str, int] = {}
        program = str(Path(__file__).with_name("recorded_holder.py"))
        self.command = [sys.executable, program, str(root)]
        self.daemons = self.driver()

    def driver(self) -> Daemons:
        """Another driver."""
        daemons = Daemons(self.root, lambda view, why: self.lost.append((view, why)), self.command)
        daemons.start()
        return daemons

    def hold(self, view: str = VIEW, secret: bytes = b"s") -> None:
        """A connection that lasts until `end`."""
        connection, self.ends[view] = os.pipe()
        self.daemons.hold(view, connection, "passthrough", "", secret)
        os.close(connection)

    def end(self, view: str = VIEW) -> None:
        """As the last unmount does."""
        os.close(self.ends.pop(view))

    def orders(self) -> list[tuple[int, str]]:
        """Process and order."""
        path = self.root / "orders"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.partition(" ")[0]), line.partition(" ")[2].strip()) for line in lines]

    def server(self, role: str = "active") -> int:
        """The process of a role, once there is one."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = [server.pid for server in self.daemons.servers() if server.role == role]
            return bool(found)

        until(is_there)
        return found[0]

    def close(self) -> None:
        """End all processes."""
        self.daemons.stop()
        kill_all_of(self.root)
        for descriptor in self.ends.values():
            os.close(descriptor)


@pytest.fixture
def node() -> Iterator[Node]:
    """A store's directory, short as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="modelcsi-") as root:
        made = Node(Path(root))
        yield made
        made.close()


def until(is_so: Callable[[], object]) -> None:
    """Poll what another process does."""
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.005)


def test_a_successor_is_given_all_views(node: Node) -> None:
    """Each once, when the one before is dead."""
    node.hold()
    node.hold(OTHER)
    first, second = node.server(), node.server("standby")
    until(lambda: len(node.orders()) == 2)
    os.kill(first, signal.SIGKILL)
    until(lambda: len(node.orders()) == 4)

    assert [(first, "serve ab"), (first, "serve cd"), (second, "serve ab"), (second, "serve cd")] == node.orders()


def test_in_an_update_the_old_one_leaves_first(node: Node) -> None:
    """And the old standby too; the new one serves when the old one is gone."""
    node.hold()
    old = {node.server(), node.server("standby")}
    holder = node.daemons.holder_pid
    assert holder is not None
    os.kill(holder, signal.SIGHUP)
    until(lambda: len(node.orders()) == 4)
    *before, (new, last) = node.orders()

    assert {(pid, "leave") for pid in old} <= set(before)
    assert "serve ab" == last
    assert new not in old
    assert holder == node.daemons.holder_pid or node.daemons.holder_pid is None


def test_an_orphan_leaves_before_its_successor_serves(node: Node) -> None:
    """The new holder's first server waits for that; the standby of the old holder went with it."""
    node.hold()
    old, standby, holder = node.server(), node.server("standby"), node.daemons.holder_pid
    assert holder is not None
    os.kill(holder, signal.SIGKILL)
    until(lambda: len(node.orders()) == 4)
    orders = [order for order in node.orders() if order[0] != standby]

    assert [(old, "serve ab"), (old, "leave")] == orders[:2]
    assert "serve ab" == orders[2][1]
    assert (standby, "leave") in node.orders()


def test_a_late_orphan_is_followed_by_a_resend(node: Node) -> None:
    """It may have read requests after its successor began, so that asks for them once more."""
    node.hold()
    old, holder = node.server(), node.daemons.holder_pid
    assert holder is not None
    os.kill(old, signal.SIGSTOP)
    os.kill(holder, signal.SIGKILL)
    until(lambda: node.daemons.holder_pid not in (None, holder))
    until(lambda: node.server() != old)
    new = node.server()
    until(lambda: (new, "serve ab") in node.orders())
    os.kill(old, signal.SIGCONT)
    until(lambda: (new, "resend") in node.orders())

    assert node.orders().index((old, "leave")) < node.orders().index((new, "resend"))


def test_a_view_whose_connection_ended_is_forgotten(node: Node) -> None:
    """The holder sees it by itself, the server drops it, and the driver has nothing left to hold."""
    node.hold()
    active = node.server()
    node.end()
    until(lambda: not node.daemons.held())
    until(lambda: (active, "drop ab") in node.orders())

    assert [] == node.lost


def test_an_end_is_of_one_connection(node: Node) -> None:
    """A view that is mounted again at once is not taken for the one whose end is told late."""
    for number in range(10):
        node.hold(secret=str(number).encode())
        node.end()
        node.daemons.release(VIEW)
    node.hold(secret=b"last")
    until(lambda: [order for _, order in node.orders()].count("serve ab") >= 1)
    node.server("standby")

    assert [b"last"] == [held.secret for held in node.daemons.held()]
    assert [] == node.lost


def test_a_restarted_driver_releases_nothing_of_others(node: Node) -> None:
    """It finds what is held; what it released while the holder was away is released when that is back."""
    node.hold(secret=b"one")
    node.hold(OTHER, secret=b"two")
    active = node.server()
    node.daemons.stop()
    node.daemons = node.driver()
    found = {held.view: held.secret for held in node.daemons.held()}
    holder = node.daemons.holder_pid
    assert holder is not None
    os.kill(holder, signal.SIGSTOP)
    node.daemons.release(OTHER)
    os.kill(holder, signal.SIGCONT)
    until(lambda: (active, "drop cd") in node.orders())

    assert {VIEW: b"one", OTHER: b"two"} == found
    assert [VIEW] == [held.view for held in node.daemons.held()]


def test_a_driver_without_views_is_idle(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that somebody else runs is there although nothing is held: it is asked now and then, not all the time."""
    counts = Counter[str]()

    def counted(name: str) -> None:
        method = getattr(Daemons, name)

        def call(*arguments: object) -> None:
            counts[name] += 1
            method(*arguments)

        monkeypatch.setattr(Daemons, name, call)

    node.hold()
    monkeypatch.setattr("modelcsi.mount.daemons._LOOK_SECONDS", 0.05)
    counted("_turn")
    counted("_note_servers")
    node.daemons.release(VIEW)
    node.end()
    until(lambda: counts["_note_servers"] >= 10 or counts["_turn"] > 1000)

    assert counts["_turn"] < 100
