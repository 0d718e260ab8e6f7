"""Registration with kubelet, against a watcher that does as kubelet's."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from modelcsi.csi.pb import csi_pb2, pluginregistration_pb2, pluginregistration_pb2_grpc
from modelcsi.csi.registration import Phase, Registration, RegistrationState
from modelcsi.csi.server import CsiServer
from modelcsi.errors import InvalidRequest
from tests.fakes.plugin_watcher import PluginWatcher
from tests.fakes.volumes import FakeVolumes
from tests.unit.csi.conftest import SERVICE_NAME, SLOTS, Client

MakeRegistration = Callable[[], Registration]
REGISTERED = f"registered {SERVICE_NAME}"
DEREGISTERED = f"deregistered {SERVICE_NAME}"
REFUSED = f"refused {SERVICE_NAME}"


@pytest.fixture
def directory() -> Iterator[Path]:
    """kubelet's directory of registration sockets; its path is short, since a socket's has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kubelet-") as root:
        path = Path(root, "plugins_registry")
        path.mkdir()
        yield path


@pytest.fixture
def path(directory: Path) -> Path:
    """The name by which kubelet finds the driver."""
    return directory / f"{SERVICE_NAME}-reg.sock"


@pytest.fixture
def kubelet(directory: Path) -> Iterator[PluginWatcher]:
    """A kubelet that watches."""
    with PluginWatcher(directory) as watcher:
        yield watcher


@pytest.fixture
def make_registration(directory: Path, server: CsiServer) -> Iterator[MakeRegistration]:
    """Started registrations of a CSI server that answers; they end with the test."""
    with ExitStack() as stack:

        def make() -> Registration:
            registration = Registration(directory, SERVICE_NAME, str(server.path))
            registration.start()
            stack.callback(registration.stop)
            return registration

        yield make


def _info(path: Path) -> pluginregistration_pb2.PluginInfo:
    with grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")]) as channel:
        stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
        info: pluginregistration_pb2.PluginInfo = stub.GetInfo(pluginregistration_pb2.InfoRequest(), timeout=1)
        return info


def test_kubelet_registers_the_driver(
    kubelet: PluginWatcher, server: CsiServer, make_registration: MakeRegistration
) -> None:
    """It learns the name, the socket on the host, and the node's name from there."""
    registration = make_registration()
    kubelet.wait_for_event(REGISTERED)

    assert {SERVICE_NAME: str(server.path)} == kubelet.endpoints
    assert {SERVICE_NAME: "node-1"} == kubelet.node_ids
    assert RegistrationState(Phase.REGISTERED) == registration.state
    assert registration.why_not_registered is None


def test_stopping_deregisters(kubelet: PluginWatcher, directory: Path, make_registration: MakeRegistration) -> None:
    """The socket goes, and with it the driver; nothing else was in the directory."""
    registration = make_registration()
    kubelet.wait_for_event(REGISTERED)
    registration.stop()
    kubelet.wait_for_event(DEREGISTERED)

    assert [] == list(directory.iterdir())


def test_a_directory_that_appears_late(
    directory: Path, kubelet: PluginWatcher, make_registration: MakeRegistration, caplog: pytest.LogCaptureFixture
) -> None:
    """The driver may start before kubelet has made its directory; it is said once, with what to look at."""
    directory.rmdir()
    registration = make_registration()
    before = registration.why_not_registered
    directory.mkdir()
    kubelet.wait_for_event(REGISTERED)

    assert before is not None
    assert f"{directory} does not exist (kubelet makes it;" in before
    assert 1 == sum("does not exist" in record.getMessage() for record in caplog.records)


def test_kubelet_wipes_its_directory(
    path: Path, kubelet: PluginWatcher, make_registration: MakeRegistration, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that somebody removed is there again within a second or two."""
    make_registration()
    kubelet.wait_for_event(REGISTERED)
    path.unlink()
    kubelet.wait_for_event(REGISTERED, times=2)

    assert [REGISTERED, DEREGISTERED, REGISTERED] == kubelet.events
    assert "was removed or replaced by somebody else" in caplog.text


def test_the_whole_directory_is_made_anew(
    directory: Path, kubelet: PluginWatcher, make_registration: MakeRegistration
) -> None:
    """The same, when the directory goes with it."""
    make_registration()
    kubelet.wait_for_event(REGISTERED)
    shutil.rmtree(directory)
    directory.mkdir()
    kubelet.wait_for_event(REGISTERED, times=2)

    assert [REGISTERED, DEREGISTERED, REGISTERED] == kubelet.events


def test_kubelet_restarts(directory: Path, make_registration: MakeRegistration) -> None:
    """A new kubelet finds the socket that is there."""
    make_registration()
    for _ in range(2):
        with PluginWatcher(directory) as kubelet:
            kubelet.wait_for_event(REGISTERED)

            assert [REGISTERED] == kubelet.events


def test_an_old_instance_goes_on_until_its_end(
    path: Path, kubelet: PluginWatcher, make_registration: MakeRegistration
) -> None:
    """Of two that overlap, the new one waits politely, and takes over when the old one has gone."""
    old = make_registration()
    kubelet.wait_for_event(REGISTERED)
    inode = path.stat().st_ino
    new = make_registration()
    waiting, inode_with_both = str(new.state), path.stat().st_ino
    old.stop()
    kubelet.wait_for_event(REGISTERED, times=2)

    assert inode == inode_with_both
    assert f"waiting for kubelet: another process serves {path}" in waiting
    assert [REGISTERED, DEREGISTERED, REGISTERED] == kubelet.events
    assert Phase.REGISTERED is new.state.phase


def test_an_old_instance_removes_the_new_ones_socket(
    path: Path, kubelet: PluginWatcher, make_registration: MakeRegistration
) -> None:
    """C-core, at its end, unlinks whatever has the name that it bound; so do registrars of other make."""
    with ThreadPoolExecutor(1) as threads:
        old = grpc.server(threads)
        old.add_insecure_port(f"unix:{path}")
        old.start()
        path.unlink()
        registration = make_registration()
        kubelet.wait_for_event(REGISTERED)
        old.stop(None).wait()
        kubelet.wait_for_event(REGISTERED, times=2)

    # kubelet may have met the old one in the moment between its start and its unlinking: it is no registrar.
    events = [event for event in kubelet.events if not event.startswith("failed")]
    assert [REGISTERED, DEREGISTERED, REGISTERED] == events
    assert Phase.REGISTERED is registration.state.phase


def test_a_stale_socket_is_replaced(path: Path, kubelet: PluginWatcher, make_registration: MakeRegistration) -> None:
    """What a killed instance left is replaced at once."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    make_registration()
    name = _info(path).name
    kubelet.wait_for_event(REGISTERED)

    assert SERVICE_NAME == name


def test_a_dead_socket_takes_the_place(
    path: Path, tmp_path: Path, kubelet: PluginWatcher, make_registration: MakeRegistration
) -> None:
    """A socket that nobody serves, put over ours, is replaced as one left behind is."""
    make_registration()
    kubelet.wait_for_event(REGISTERED)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    os.rename(tmp_path / "dead", path)
    kubelet.wait_for_event(REGISTERED, times=2)

    assert {SERVICE_NAME} == set(kubelet.endpoints)


def test_a_successors_socket_stays(
    path: Path, tmp_path: Path, kubelet: PluginWatcher, make_registration: MakeRegistration
) -> None:
    """The end of an instance takes its own socket only."""
    registration = make_registration()
    kubelet.wait_for_event(REGISTERED)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        os.rename(tmp_path / "other", path)
        registration.stop()

        assert path.is_socket()


def test_a_refusal_and_then_success(
    kubelet: PluginWatcher, make_registration: MakeRegistration, caplog: pytest.LogCaptureFixture
) -> None:
    """It shows in the readiness and, with what to do, in the log; kubelet tries again, and nothing has to be restarted."""
    kubelet.refusal = "error updating CSINode object"
    registration = make_registration()
    kubelet.wait_for_event(REFUSED)
    refused = registration.why_not_registered
    kubelet.refusal = ""
    kubelet.wait_for_event(REGISTERED)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]

    assert "registration: refused by kubelet: error updating CSINode object" == refused
    assert "check that kubelet_registration_path" in errors[0]
    assert registration.why_not_registered is None


def test_a_wrong_path_on_the_host(directory: Path, tmp_path: Path, kubelet: PluginWatcher, server: CsiServer) -> None:
    """kubelet finds no driver where the configuration sends it; the driver says which path that was."""
    registration = Registration(directory, SERVICE_NAME, str(tmp_path / "elsewhere" / "csi.sock"))
    registration.start()
    kubelet.wait_for_event(REFUSED)
    state = registration.state
    registration.stop()

    assert Phase.REFUSED is state.phase
    assert "NodeGetInfo failed" in state.detail


def test_while_every_thread_of_the_driver_waits(
    path: Path,
    client: Client,
    volumes: FakeVolumes,
    publish_request: csi_pb2.NodePublishVolumeRequest,
    make_registration: MakeRegistration,
) -> None:
    """kubelet gives GetInfo one second, and gets it in much less."""
    make_registration()
    volumes.hold()
    with ThreadPoolExecutor(SLOTS) as threads:
        publishes = []
        for number in range(SLOTS):
            request = csi_pb2.NodePublishVolumeRequest()
            request.CopyFrom(publish_request)
            request.volume_id, request.target_path = f"csi-{number}", f"{publish_request.target_path}-{number}"
            publishes.append(threads.submit(client.node.NodePublishVolume, request))
            assert volumes.waiting.acquire(timeout=10)
        began = time.monotonic()
        name = _info(path).name
        seconds = time.monotonic() - began
        volumes.release()

    assert SERVICE_NAME == name
    assert seconds < 0.5


def test_a_kubelet_root_that_is_too_deep(tmp_path: Path) -> None:
    """Said at start, where kubelet would fail to connect."""
    with pytest.raises(InvalidRequest, match="too long"):
        Registration(tmp_path, SERVICE_NAME, f"/{'d' * 100}/csi.sock")
