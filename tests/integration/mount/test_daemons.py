"""Driver, holder and servers are killed, stopped and replaced in every order while processes read."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelcsi.errors import MountFailed
from modelcsi.mount.fusemount import abort, attach, open_connection
from tests.fakes.processes import processes_of
from tests.integration.driver import eventually
from tests.integration.mount.conftest import VIEW, LazyNode, readers, wait_for_end
from tests.integration.mount.tiny_server import SIZE, content

pytestmark = pytest.mark.timeout(120)

OTHER = "cd" * 32
_NO_SERVER = r"abort|not connected"


def _errors(results: list[dict[str, Any]]) -> list[str]:
    assert all(result["reads"] > 0 for result in results)
    return [error for result in results for error in result["errors"]]


def _read(target: Path) -> bytes:
    return (target / "file").read_bytes()


def test_a_view_is_read(lazy_node: LazyNode) -> None:
    """The holder is started by the first view; one server serves, and one stands by."""
    target = lazy_node.mount()

    assert content(0, SIZE) == _read(target)
    assert lazy_node.server("active") != lazy_node.server("standby")
    assert [(VIEW, b"s")] == [(held.view, held.secret) for held in lazy_node.daemons.held()]
    assert lazy_node.daemons.is_alive(VIEW)


def test_servers_are_killed(lazy_node: LazyNode) -> None:
    """The standby takes over, again and again; nobody notices."""
    target = lazy_node.mount()
    with readers(target / "file") as stop:
        for _ in range(20):
            active = lazy_node.server()
            os.kill(active, signal.SIGKILL)
            lazy_node.server(but=[active])
        results = stop()

    assert [] == _errors(results)
    assert [] == lazy_node.lost


def test_all_servers_are_killed_at_once(lazy_node: LazyNode) -> None:
    """With the standby gone too, readers wait for a new process."""
    target = lazy_node.mount()
    with readers(target / "file") as stop:
        for _ in range(5):
            both = {lazy_node.server("active"), lazy_node.server("standby")}
            for pid in both:
                os.kill(pid, signal.SIGKILL)
            lazy_node.server(but=both)
        results = stop()

    assert [] == _errors(results)


def test_the_holder_is_killed(lazy_node: LazyNode) -> None:
    """Its server serves on, and leaves when the new holder has one; the driver hands the views over again."""
    target = lazy_node.mount(secret=b"secret")
    with readers(target / "file") as stop:
        for _ in range(5):
            holder, active = lazy_node.holder(), lazy_node.server()
            os.kill(holder, signal.SIGKILL)
            lazy_node.other_holder(holder)
            wait_for_end(active)
        results = stop()
    lazy_node.restart()

    assert [] == _errors(results)
    assert [b"secret"] == [held.secret for held in lazy_node.daemons.held()]


def test_holder_and_servers_are_killed(lazy_node: LazyNode) -> None:
    """All descriptors but the driver's are gone: readers wait until it has started everything anew."""
    target = lazy_node.mount()
    with readers(target / "file") as stop:
        for _ in range(3):
            victims = [lazy_node.holder(), lazy_node.server("active"), lazy_node.server("standby")]
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            lazy_node.server(but=victims)
        results = stop()

    assert [] == _errors(results)
    assert [] == lazy_node.lost


def test_the_driver_is_restarted(lazy_node: LazyNode) -> None:
    """Another driver finds the views, with what only the holder knew; the servers have not noticed."""
    target = lazy_node.mount(secret=b"\0" * 300_000)
    lazy_node.mount("other", OTHER)
    active = lazy_node.server()
    with readers(target / "file") as stop:
        lazy_node.restart()
        results = stop()
    found = {held.view: held.secret for held in lazy_node.daemons.held()}

    assert [] == _errors(results)
    assert {VIEW: b"\0" * 300_000, OTHER: b"s"} == found
    assert active == lazy_node.server()


def _leave_servers_alone(node: LazyNode) -> None:
    """The driver ends, and the holder is killed; another driver has begun."""
    holder = node.holder()
    node.daemons.stop()
    os.kill(holder, signal.SIGKILL)
    wait_for_end(holder)
    node.restart()


def test_driver_and_holder_die_together(lazy_node: LazyNode) -> None:
    """The orphaned server hands the descriptors to the next holder; only the secret is lost."""
    target = lazy_node.mount()
    active = lazy_node.server()
    with readers(target / "file") as stop:
        _leave_servers_alone(lazy_node)
        lazy_node.mount("other", OTHER)  # which starts a holder
        wait_for_end(active)
        eventually(lambda: len(lazy_node.daemons.held()) == 2, "both views")
        results = stop()
    found = {held.view: held.secret for held in lazy_node.daemons.held()}
    lazy_node.daemons.renew(VIEW, b"again")
    lazy_node.server()
    lazy_node.restart()

    assert [] == _errors(results)
    assert {VIEW: None, OTHER: b"s"} == found
    assert {VIEW: b"again", OTHER: b"s"} == {held.view: held.secret for held in lazy_node.daemons.held()}


def test_a_driver_finds_servers_without_a_holder(lazy_node: LazyNode) -> None:
    """It starts one, and has their views when it has started: it would take their mounts for dead, and mount them anew."""
    target = lazy_node.mount()
    active = lazy_node.server()
    with readers(target / "file") as stop:
        _leave_servers_alone(lazy_node)
        is_alive = lazy_node.daemons.is_alive(VIEW)
        wait_for_end(active)
        results = stop()

    assert is_alive
    assert [] == _errors(results)


def test_an_orphan_was_stopped_meanwhile(lazy_node: LazyNode) -> None:
    """What it had read is answered by its successor; when it wakes it leaves, and no request goes with it."""
    target = lazy_node.mount()
    active, holder = lazy_node.server(), lazy_node.holder()
    with readers(target / "file") as stop:
        os.kill(active, signal.SIGSTOP)
        os.kill(holder, signal.SIGKILL)
        lazy_node.other_holder(holder)
        lazy_node.server(but=[active])
        os.kill(active, signal.SIGCONT)
        wait_for_end(active)
        results = stop()

    assert [] == _errors(results)


def test_a_stuck_server_is_replaced(lazy_node: LazyNode) -> None:
    """Some seconds of silence, and it is killed; its readers wait that long and no longer."""
    target = lazy_node.mount()
    active = lazy_node.server()
    with readers(target / "file") as stop:
        os.kill(active, signal.SIGSTOP)
        wait_for_end(active)
        lazy_node.server()
        results = stop()

    assert [] == _errors(results)
    assert all(result["longest"] > 1 for result in results)


def test_a_stuck_holder_is_replaced(lazy_node: LazyNode) -> None:
    """A driver that has something to say to it, and started it, starts another; the servers go over to that."""
    target = lazy_node.mount()
    holder = lazy_node.holder()
    lazy_node.server()
    os.kill(holder, signal.SIGSTOP)
    with readers(target / "file") as stop:
        lazy_node.mount("other", OTHER)
        results = stop()

    assert holder != lazy_node.holder()
    assert [] == _errors(results)
    assert content(0, SIZE) == _read(lazy_node.root / "pods" / "other")


def test_an_update_of_the_holder(lazy_node: LazyNode) -> None:
    """SIGHUP: the same process and views, other servers, and nobody notices."""
    target = lazy_node.mount()
    holder = lazy_node.holder()
    with readers(target / "file") as stop:
        for _ in range(5):
            active = lazy_node.server()
            os.kill(holder, signal.SIGHUP)
            wait_for_end(active)
            eventually(lambda: lazy_node.daemons.holder_pid == holder, "the holder")
        results = stop()
    descriptors = len(os.listdir(f"/proc/{holder}/fd"))
    os.kill(holder, signal.SIGHUP)
    lazy_node.server("standby")

    assert [] == _errors(results)
    assert [(VIEW, b"s")] == [(held.view, held.secret) for held in lazy_node.daemons.held()]
    assert abs(len(os.listdir(f"/proc/{holder}/fd")) - descriptors) <= 2


def test_servers_that_crash_are_given_up(lazy_node: LazyNode) -> None:
    """Readers get errors instead of waiting for ever, and the driver is told why."""
    lazy_node.restart("--give-up", "2")
    (lazy_node.root / "crash").touch()
    target = lazy_node.mount()
    with pytest.raises(OSError, match=_NO_SERVER) as error:
        _read(target)
    eventually(lambda: lazy_node.lost, "the loss")

    assert error.value.errno in (errno.ECONNABORTED, errno.ENOTCONN)
    assert [(VIEW, "no server could be kept alive for 2 s")] == lazy_node.lost
    assert () == lazy_node.daemons.held()


def test_a_standby_that_crashes_is_no_trouble_yet(lazy_node: LazyNode) -> None:
    """Whoever serves goes on, however long nobody can take its place, and starting another is tried less and less often."""
    lazy_node.restart("--give-up", "1")
    target = lazy_node.mount()
    standby = lazy_node.server("standby")
    (lazy_node.root / "crash").touch()
    os.kill(standby, signal.SIGKILL)
    with readers(target / "file") as stop:
        eventually(lambda: (lazy_node.root / "crashes").read_text().count("\n") > 8, "crashes")
        results = stop()

    assert [] == _errors(results)
    assert [] == lazy_node.lost


def test_a_request_that_kills_servers_is_given_up(lazy_node: LazyNode) -> None:
    """Sent again to each successor it would kill them all: that is no life either."""
    lazy_node.restart("--give-up", "2")
    target = lazy_node.mount()
    _read(target)
    (lazy_node.root / "crash-late").touch()
    with pytest.raises(OSError, match=_NO_SERVER):
        _read(target)
    eventually(lambda: lazy_node.lost, "the loss")

    assert [VIEW] == [view for view, _ in lazy_node.lost]


def test_one_view_that_cannot_be_served_harms_no_other(lazy_node: LazyNode) -> None:
    """The server says which, and that one is given up."""
    target = lazy_node.mount()
    lazy_node.server()
    assert content(0, SIZE) == _read(target)  # it is served by now
    (lazy_node.root / "refuse").touch()
    lazy_node.mount("other", OTHER)
    eventually(lambda: lazy_node.lost, "the loss")

    assert [(OTHER, "the test says so")] == lazy_node.lost
    assert content(0, SIZE) == _read(target)
    assert [VIEW] == [held.view for held in lazy_node.daemons.held()]


def test_a_connection_that_somebody_ended_is_a_loss(lazy_node: LazyNode) -> None:
    """The mount is there and answers with errors; after an unmount by hand nothing is there to be told of."""
    lazy_node.mount()
    lazy_node.mount("other", OTHER)
    (device,) = (held.device for held in lazy_node.daemons.held() if held.view == VIEW)
    subprocess.run(["umount", lazy_node.root / "pods" / "other"], check=True)
    eventually(lambda: len(lazy_node.daemons.held()) == 1, "the unmount to be seen")
    abort(device)
    eventually(lambda: lazy_node.lost, "the loss")

    assert [(VIEW, "its FUSE connection was ended")] == lazy_node.lost


def test_an_unmount_is_no_loss_beside_a_dead_mount(lazy_node: LazyNode) -> None:
    """Mounts of the same view may be left of a connection that was ended before, or be another driver's."""

    def device_of(view: str) -> str:
        (device,) = (held.device for held in lazy_node.daemons.held() if held.view == view)
        return device

    lazy_node.mount()
    abort(device_of(VIEW))
    eventually(lambda: lazy_node.lost, "the loss")
    lazy_node.mount("again")
    lazy_node.mount("other", OTHER)
    subprocess.run(["umount", lazy_node.root / "pods" / "again"], check=True)
    eventually(lambda: len(lazy_node.daemons.held()) == 1, "the unmount to be seen")
    abort(device_of(OTHER))
    eventually(lambda: len(lazy_node.lost) > 1, "what is told next")

    assert [VIEW, OTHER] == [view for view, _ in lazy_node.lost]


def test_a_view_of_pyfuse3_ends_with_its_server(lazy_node: LazyNode) -> None:
    """Nobody else has the descriptor, so readers get an error at once; another view's server is another process."""
    target = lazy_node.mount(adapter="pyfuse3")
    other = lazy_node.mount("other", OTHER, adapter="pyfuse3")
    content_before = _read(target), _read(other)
    first, second = lazy_node.servers("active")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: lazy_node.lost, "the loss")
    lost = lazy_node.lost[0][0]
    dead, alive = (target, other) if lost == VIEW else (other, target)
    with pytest.raises(OSError, match=_NO_SERVER):
        _read(dead)

    assert (content(0, SIZE), content(0, SIZE)) == content_before
    assert content(0, SIZE) == _read(alive)
    assert [second] == lazy_node.servers("active")


def test_a_server_of_pyfuse3_outlives_the_holder(lazy_node: LazyNode) -> None:
    """The new holder takes it over as it is, and ends it with its view."""
    target = lazy_node.mount(adapter="pyfuse3")
    with readers(target / "file") as stop:
        (server,) = lazy_node.servers("active")
        holder = lazy_node.holder()
        os.kill(holder, signal.SIGKILL)
        lazy_node.other_holder(holder)
        os.kill(lazy_node.holder(), signal.SIGHUP)
        eventually(lambda: lazy_node.servers("active") == [server], "the server")
        results = stop()
    lazy_node.unmount(target)
    wait_for_end(server)

    assert [] == _errors(results)
    assert [] == lazy_node.lost


def test_all_ends_with_the_last_view(lazy_node: LazyNode) -> None:
    """A holder that the driver started ends, with its servers, some seconds after there is nothing to do."""
    lazy_node.restart("--until-idle")
    target = lazy_node.mount()
    lazy_node.server("standby")
    lazy_node.unmount(target)
    eventually(lambda: not processes_of(lazy_node.root), "the end of all", 30)

    assert not (lazy_node.root / "fuse.sock").exists()
    assert [] == list((lazy_node.root / "pods").iterdir())


def test_views_come_and_go(lazy_node: LazyNode) -> None:
    """Neither the holder nor a server keeps a descriptor of a view that went."""
    keeps = lazy_node.mount()
    lazy_node.server("standby")
    pids = lazy_node.holder(), lazy_node.server("active"), os.getpid()
    before = [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]
    for _ in range(20):
        target = lazy_node.mount("other", OTHER)
        _read(target)
        lazy_node.unmount(target, OTHER)
    _read(keeps)
    lazy_node.server()
    eventually(
        lambda: before == [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids], "no more descriptors than before"
    )

    assert [VIEW] == [held.view for held in lazy_node.daemons.held()]


def test_only_its_own_user_may_speak_to_the_holder(lazy_node: LazyNode) -> None:
    """The socket is closed to others, and who gets at it all the same is not heard."""
    lazy_node.mount()
    path = lazy_node.root / "fuse.sock"
    mode = stat.S_IMODE(path.stat().st_mode)
    lazy_node.root.chmod(0o755)
    path.chmod(0o666)
    code = (
        "import os,socket,sys; os.setuid(65534); s=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.connect(sys.argv[1]); s.settimeout(30); print(s.recv(9))"
    )
    asked = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)

    assert 0o600 == mode
    assert "b''" == asked.stdout.strip()


def test_nonsense_is_no_reason_to_end(lazy_node: LazyNode) -> None:
    """Who talks so is hung up on, or told so."""
    target = lazy_node.mount()
    holder = lazy_node.holder()
    answers = []
    for words in (
        b"{",
        b"[]",
        b'{"op":"later"}',
        b'{"op":"pong"}',
        b'{"op":"hold","view":"%b"}' % VIEW.encode(),
        b"x" * 70_000,
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.settimeout(30)
            line.connect(str(lazy_node.root / "fuse.sock"))
            line.send(words)
            line.shutdown(socket.SHUT_WR)
            answers.append(line.recv(100))

    assert [b"", b"", b'{"op":"done","ok":false,"error":"unknown message \'later\'"}', b"", b"", b""] == answers
    assert holder == lazy_node.holder()
    assert content(0, SIZE) == _read(target)


def test_there_is_one_holder(lazy_node: LazyNode) -> None:
    """Another one for the same store ends at once."""
    lazy_node.mount()
    lazy_node.holder()
    command = [sys.executable, str(Path(__file__).with_name("tiny_holder.py")), str(lazy_node.root)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert 1 == second.returncode
    assert "another FUSE holder" in second.stderr


def test_without_a_holder_nothing_is_held(lazy_node: LazyNode) -> None:
    """One that cannot be started is a failed mount; a connection that has ended is refused before anybody is asked."""
    fuse_fd = open_connection()
    with pytest.raises(MountFailed, match="has ended before"):
        lazy_node.daemons.hold(VIEW, fuse_fd, "passthrough", "0:0", b"")
    (lazy_node.root / "fuse.lock").mkdir()
    device = attach(fuse_fd, str(lazy_node.root / "pods" / "target"), view=VIEW, read_ahead_kb=128)
    with pytest.raises(MountFailed, match="does not answer"):
        lazy_node.daemons.hold(VIEW, fuse_fd, "passthrough", device, b"")
    os.close(fuse_fd)

    assert () == lazy_node.daemons.held()
