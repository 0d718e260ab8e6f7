"""The life of a socket file; looks are taken here by hand, but for the one test of the watch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from modelcsi.csi.identity import Identity
from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc
from modelcsi.csi.server import CsiServer
from modelcsi.csi.socketfile import ServedSocket
from modelcsi.errors import InvalidRequest
from tests.fakes.volumes import FakeVolumes
from tests.unit.csi.conftest import SERVICE_NAME, Client

MakeSocket = Callable[[], ServedSocket]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket will be."""
    return tmp_path / "csi" / "csi.sock"


@pytest.fixture
def make_socket(path: Path) -> Iterator[MakeSocket]:
    """Sockets at one path, each with a server of its own; they end with the test."""
    with ExitStack() as stack:

        def make_server() -> grpc.Server:
            server = grpc.server(stack.enter_context(ThreadPoolExecutor(1)))
            csi_pb2_grpc.add_IdentityServicer_to_server(Identity(SERVICE_NAME, lambda: True), server)
            return server

        def make() -> ServedSocket:
            served = ServedSocket(path, make_server, makes_directory=True)
            stack.callback(served.stop, 0)
            return served

        yield make


def _answers(path: Path) -> bool:
    """Whether a client gets an answer at the path, now or within some seconds."""
    # Of its own: else gRPC shares the connection that another channel of this process has to the same path.
    options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        answer = Client.over(channel).identity.Probe(csi_pb2.ProbeRequest(), timeout=10, wait_for_ready=True)
    return bool(answer.ready.value)


def _no_server() -> grpc.Server:
    raise AssertionError("there is no place for its socket")


def test_a_removed_socket_is_made_again(path: Path, make_socket: MakeSocket) -> None:
    """Whoever removed it, the next look serves again, and leaves nothing else beside it."""
    served = make_socket()
    served.ensure()
    path.unlink()
    served.look()

    assert _answers(path)
    assert ["csi.sock"] == os.listdir(path.parent)


def test_a_removed_directory_is_made_again(path: Path, make_socket: MakeSocket) -> None:
    """The same for the plugin's directory, which is the driver's own."""
    served = make_socket()
    served.ensure()
    shutil.rmtree(path.parent)
    served.look()

    assert _answers(path)


def test_an_intact_socket_stays(path: Path, make_socket: MakeSocket) -> None:
    """A look changes nothing then: kubelet would take a new socket for a new driver."""
    served = make_socket()
    served.ensure()
    inode = path.stat().st_ino
    served.look()

    assert inode == path.stat().st_ino


def test_a_living_socket_in_its_place_is_left_alone(
    path: Path, make_socket: MakeSocket, caplog: pytest.LogCaptureFixture
) -> None:
    """Two that take the name from each other would never end: the first waits, says so once, and takes over from the dead."""
    first, second = make_socket(), make_socket()
    first.ensure()
    path.unlink()
    second.ensure()
    inode = path.stat().st_ino
    first.look()
    first.look()
    trouble, inode_then = first.trouble, path.stat().st_ino
    second.stop(0)
    first.look()

    assert inode == inode_then
    assert trouble.startswith(f"another process serves {path}")
    assert 1 == sum("another process" in record.getMessage() for record in caplog.records)
    assert not first.trouble
    assert _answers(path)


def test_nothing_is_made_after_the_end(path: Path, make_socket: MakeSocket) -> None:
    """A look that comes too late does not bring the socket back."""
    served = make_socket()
    served.ensure()
    served.stop(0)
    served.look()

    assert [] == os.listdir(path.parent)


def test_a_directory_that_was_removed_below_a_mount(path: Path) -> None:
    """A container keeps seeing the directory that the host has removed; only its restart helps, and that is said."""
    path.parent.mkdir()
    descriptor = os.open(path.parent, os.O_PATH)
    try:
        # A path to an unlinked directory, as a bind mount of it is one.
        served = ServedSocket(Path(f"/proc/self/fd/{descriptor}/csi.sock"), _no_server, makes_directory=False)
        path.parent.rmdir()
        with pytest.raises(InvalidRequest, match="was removed while it was mounted here"):
            served.ensure()
    finally:
        os.close(descriptor)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """What the kernel says is said with the path."""
    (tmp_path / "file").touch()
    served = ServedSocket(tmp_path / "file" / "csi" / "csi.sock", _no_server, makes_directory=True)
    with pytest.raises(InvalidRequest, match=r"cannot serve at .*/file/csi/csi.sock: "):
        served.ensure()


def test_a_lost_socket_costs_no_call(
    server: CsiServer, client: Client, volumes: FakeVolumes, publish_request: csi_pb2.NodePublishVolumeRequest
) -> None:
    """A publish goes on while its socket is replaced, and new calls find the new one within seconds."""
    volumes.hold()
    with ThreadPoolExecutor(1) as threads:
        publish = threads.submit(client.node.NodePublishVolume, publish_request)
        assert volumes.waiting.acquire(timeout=10)
        server.path.unlink()
        is_served_again = _answers(server.path)
        volumes.release()

        assert is_served_again
        assert csi_pb2.NodePublishVolumeResponse() == publish.result()
