"""The life of the socket file."""

from __future__ import annotations

import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from modelcsi.csi.identity import Identity
from modelcsi.csi.pb import csi_pb2
from modelcsi.csi.server import CsiServer, Services, parse_endpoint
from modelcsi.errors import InvalidRequest
from tests.fakes.operations import RecordedOperations
from tests.fakes.volumes import FakeVolumes
from tests.unit.csi.conftest import SERVICE_NAME, Client

MakeServer = Callable[[], CsiServer]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket will be."""
    return tmp_path / "csi" / "csi.sock"


@pytest.fixture
def make_server(path: Path) -> MakeServer:
    """Servers of the Identity service, all for the same socket."""
    services = Services(identity=Identity(SERVICE_NAME, lambda: True))
    return lambda: CsiServer(f"unix://{path}", services, RecordedOperations(), publish_slots=1)


def _probe(path: Path) -> bool:
    with grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")]) as channel:
        answer = Client.over(channel).identity.Probe(csi_pb2.ProbeRequest(), timeout=5)
    return bool(answer.ready.value)


def test_only_root_may_connect(path: Path, make_server: MakeServer) -> None:
    """Access to the socket is root on the node: the file is 0600, its directory 0700, and nothing else is in it."""
    server = make_server()
    server.start()
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent)]
    names = [place.name for place in path.parent.iterdir()]
    server.stop(grace_seconds=0)

    assert (modes, names) == ([0o600, 0o700], ["csi.sock"])


def test_stopping_removes_the_socket(path: Path, make_server: MakeServer) -> None:
    """The directory is empty again."""
    server = make_server()
    server.start()
    server.stop(grace_seconds=0)

    assert [] == list(path.parent.iterdir())


def test_a_successors_socket_stays(path: Path, make_server: MakeServer) -> None:
    """The end of an old instance takes away its own socket only: kubelet would hang without the new one."""
    old, new = make_server(), make_server()
    old.start()
    path.unlink()
    new.start()
    old.stop(grace_seconds=0)
    is_ready = _probe(path)
    new.stop(grace_seconds=0)

    assert is_ready


def test_a_stale_socket_is_replaced(path: Path, make_server: MakeServer) -> None:
    """What a killed instance left does not keep the next one from starting."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = make_server()
    server.start()
    is_ready = _probe(path)
    server.stop(grace_seconds=0)

    assert is_ready


def test_a_living_socket_is_not_taken_over(path: Path, make_server: MakeServer) -> None:
    """Two drivers for one endpoint are a mistake that must show, and the first one goes on."""
    first, second = make_server(), make_server()
    first.start()
    with pytest.raises(InvalidRequest, match="another process serves"):
        second.start()
    second.stop(grace_seconds=0)
    is_ready = _probe(path)
    first.stop(grace_seconds=0)

    assert is_ready


def test_a_file_is_not_replaced(path: Path, make_server: MakeServer) -> None:
    """A mistaken endpoint costs nobody a file."""
    path.parent.mkdir()
    path.write_text("precious")
    server = make_server()
    with pytest.raises(InvalidRequest, match="is not a socket"):
        server.start()
    server.stop(grace_seconds=0)

    assert path.read_text() == "precious"


def test_a_call_in_flight_is_answered_within_the_grace(
    server: CsiServer, client: Client, volumes: FakeVolumes, publish_request: csi_pb2.NodePublishVolumeRequest
) -> None:
    """Stopping lets a publish end that ends soon."""
    volumes.hold()
    with ThreadPoolExecutor(2) as threads:
        publish = threads.submit(client.node.NodePublishVolume, publish_request)
        assert volumes.waiting.acquire(timeout=10)
        stop = threads.submit(server.stop, grace_seconds=10)
        volumes.release()
        stop.result()

    assert csi_pb2.NodePublishVolumeResponse() == publish.result()


def test_a_call_in_flight_after_the_grace_is_not_final(
    server: CsiServer, client: Client, volumes: FakeVolumes, publish_request: csi_pb2.NodePublishVolumeRequest
) -> None:
    """Kubelet must go on asking, and unpublish later."""
    volumes.hold()
    with ThreadPoolExecutor(1) as threads:
        publish = threads.submit(client.node.NodePublishVolume, publish_request)
        assert volumes.waiting.acquire(timeout=10)
        server.stop(grace_seconds=0)
        error = publish.exception()

    assert isinstance(error, grpc.Call)
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.mark.parametrize("endpoint", ["unix:///csi/csi.sock", "unix:/csi/csi.sock"])
def test_endpoints(endpoint: str) -> None:
    """Both spellings that gRPC knows."""
    assert Path("/csi/csi.sock") == parse_endpoint(endpoint)


@pytest.mark.parametrize("endpoint", ["", "/csi/csi.sock", "tcp://0.0.0.0:1", "unix://csi.sock", "unix:///csi/"])
def test_bad_endpoints(endpoint: str) -> None:
    """A mistake in the configuration is named, not guessed around."""
    with pytest.raises(InvalidRequest, match="is not a unix socket"):
        parse_endpoint(endpoint)


def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    """Said at start, by its name, where the kernel would say EINVAL."""
    services = Services(identity=Identity(SERVICE_NAME, lambda: True))
    with pytest.raises(InvalidRequest, match="too long"):
        CsiServer(f"unix://{tmp_path}/{'d' * 100}/csi.sock", services, RecordedOperations(), publish_slots=1)
