"""The API of a dynamic volume, over its real socket, volume, store and registry client; mounts of kernels are not needed."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from modelcsi.api.dynamic import MAX_CONNECTIONS, DynamicServers
from modelcsi.errors import PolicyDenied, StoreFull
from modelcsi.metrics import Metrics
from modelcsi.pull.puller import Puller
from modelcsi.registry.caller import Caller
from modelcsi.registry.client import Registry
from modelcsi.socket_place import SocketPlace
from modelcsi.store.store import Store
from modelcsi.volume.dynamic_mounts import MAX_MOUNTS, DynamicVolume
from modelcsi.volume.spec import DynamicSpec, VolumeId
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, client, fake, make_puller, puller, store, transport, tree_of, wait_until

__all__ = ["client", "fake", "make_puller", "puller", "store", "transport"]

MOUNTS = "/api/v1/volumes/csi-abc/mounts"
LISTED: tuple[int, list[str]] = (200, [])


class Switch:
    """What the administrator allows."""

    refusal: Exception | None = None

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def switch() -> Switch:
    """On."""
    return Switch()


@pytest.fixture
def metrics() -> Metrics:
    """What is counted."""
    return Metrics()


@pytest.fixture
def volume(store: Store, puller: Puller, switch: Switch, metrics: Metrics) -> Iterator[DynamicVolume]:
    """An empty one, served, mounted nowhere."""
    spec = DynamicSpec(VolumeId("csi-abc"), "/target", Caller())
    made = DynamicVolume(store, puller, spec, switch.check)
    store.dynamic.create(made.key, {"volume_id": "csi-abc", "target": "/target", "pod": None}, {})
    server = DynamicServers(metrics).serve(made.path, made)
    yield made
    server.stop()
    made.close()


@pytest.fixture
def reference(fake: FakeRegistry) -> str:
    """A model of three files."""
    fake.content.push("models/tiny", "v1", FILES)
    return f"{fake.host}/models/tiny:v1"


class Client(http.client.HTTPConnection):
    """A pod."""

    def __init__(self, volume: DynamicVolume) -> None:
        super().__init__("localhost", timeout=10)
        self._directory = volume.path / "csi"

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with SocketPlace(self._directory, "csi.sock") as place:
            self.sock.connect(place.socket_path)

    def answer(self) -> tuple[int, Any]:
        """Status and JSON."""
        response = self.getresponse()
        content = response.read()
        self.close()
        return response.status, json.loads(content) if content else None


def ask(volume: DynamicVolume, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """One request."""
    with closing(Client(volume)) as pod:
        pod.request(method, path, body)
        return pod.answer()


def mount(volume: DynamicVolume, mount_id: str, reference: str) -> tuple[int, Any]:
    """A POST."""
    return ask(volume, "POST", MOUNTS, json.dumps({"mount_id": mount_id, "reference": reference}).encode())


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "says"),
    [
        ("GET", f"{MOUNTS}/m", 404, "NOT_FOUND", "volume_name csi-abc with mount_id m is not found"),
        ("GET", "/api/v1/volumes/csi-abd/mounts", 404, "NOT_FOUND", "serves no volume csi-abd"),
        ("POST", "/api/v1/volumes/csi-abd/mounts", 404, "NOT_FOUND", "serves no volume csi-abd"),
        ("DELETE", "/api/v1/volumes/csi-abd/mounts/m", 404, "NOT_FOUND", "serves no volume csi-abd"),
        ("GET", "/api/v1/volumes/../mounts", 400, "INVALID_ARGUMENT", "volume_name is invalid"),
        ("GET", "/api/v1/volumes//mounts", 400, "INVALID_ARGUMENT", "volume_name is invalid"),
        ("GET", "/api/v1/volumes/csi-abc%0a/mounts", 400, "INVALID_ARGUMENT", "volume_name is invalid"),
        ("GET", f"{MOUNTS}/", 400, "INVALID_ARGUMENT", "mount_id is invalid"),
        ("GET", f"{MOUNTS}/..", 400, "INVALID_ARGUMENT", "mount_id is invalid"),
        ("DELETE", f"{MOUNTS}/%2e%2e", 400, "INVALID_ARGUMENT", "mount_id is invalid"),
        ("DELETE", f"{MOUNTS}/../../x", 404, "NOT_FOUND", "does not exist"),
        ("DELETE", MOUNTS, 400, "INVALID_ARGUMENT", "knows no DELETE"),
        ("POST", f"{MOUNTS}/m", 400, "INVALID_ARGUMENT", "knows no POST"),
        ("POST", MOUNTS, 400, "INVALID_ARGUMENT", "mount_id is invalid"),
        ("GET", "/", 404, "NOT_FOUND", "does not exist"),
        ("GET", "/v1/status", 404, "NOT_FOUND", "does not exist"),
    ],
)
def test_refusals(volume: DynamicVolume, method: str, path: str, status: int, code: str, says: str) -> None:
    """Status, code and message of what is not served; nothing is made or removed by it."""
    answered, body = ask(volume, method, path)

    assert (status, code, {"code", "message"}) == (answered, body["code"], set(body))
    assert says in body["message"]
    assert LISTED == ask(volume, "GET", MOUNTS)


def test_mount_and_unmount(volume: DynamicVolume, reference: str, store: Store) -> None:
    """201, 200, 204; an unmount of what is not there is 204 too."""
    codes = [
        mount(volume, "m", reference)[0],
        ask(volume, "GET", f"{MOUNTS}/m")[0],
        ask(volume, "GET", MOUNTS)[0],
    ]
    tree = tree_of(volume.path / "models" / "m" / "model")
    codes += [ask(volume, "DELETE", f"{MOUNTS}/m")[0] for _ in range(2)]

    assert [201, 200, 200, 204, 204] == codes
    assert FILES == tree
    assert 0 == sum(artifact.leases for artifact in store.records.artifacts())


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (StoreFull("no space"), 406, "INSUFFICIENT_DISK_QUOTA"),
        (PolicyDenied("not allowed"), 500, "INTERNAL"),
        (KeyError("a bug"), 500, "INTERNAL"),
    ],
)
def test_codes_of_failures(
    volume: DynamicVolume, reference: str, switch: Switch, refusal: Exception, status: int, code: str
) -> None:
    """Upstream's four codes; a bug is not told, and leaves nothing."""
    switch.refusal = refusal
    answered, body = mount(volume, "m", reference)

    assert (status, code, False) == (answered, body["code"], "a bug" in body["message"])
    assert LISTED == ask(volume, "GET", MOUNTS)


def test_number_of_mounts_is_bounded(volume: DynamicVolume, reference: str) -> None:
    """One more than fits is refused, and fits when another one is gone."""
    statuses = {mount(volume, f"m{number}", reference)[0] for number in range(MAX_MOUNTS)}
    refused, body = mount(volume, "more", reference)
    ask(volume, "DELETE", f"{MOUNTS}/m0")

    assert ({201}, 400, True) == (statuses, refused, str(MAX_MOUNTS) in body["message"])
    assert 201 == mount(volume, "more", reference)[0]


def test_two_calls_for_one_mount(volume: DynamicVolume, reference: str, fake: FakeRegistry) -> None:
    """Both wait and both succeed, with one download; the first one's leaving is not the second one's failure."""
    fake.faults.stall_after_bytes = 1 << 20
    body = json.dumps({"mount_id": "m", "reference": reference})
    pods = [Client(volume) for _ in range(3)]
    for pod in pods:
        pod.request("POST", MOUNTS, body)
    wait_until(lambda: sum(fake.bytes_served.values()) > 1 << 20)
    pods[0].close()
    fake.faults.stall_after_bytes = None
    fake.faults.resume.set()
    answers = [pod.answer()[0] for pod in pods[1:]]

    assert [201, 201] == answers
    assert FILES == tree_of(volume.path / "models" / "m" / "model")


def test_connections_are_bounded(volume: DynamicVolume, reference: str, fake: FakeRegistry) -> None:
    """A pod that fills its socket with waiting calls is turned away until one ends; silent ones are cut instead."""
    silent = [Client(volume) for _ in range(50)]
    for pod in silent:
        pod.connect()
    listed = ask(volume, "GET", MOUNTS)
    for pod in silent:
        pod.close()
    fake.faults.stall_after_bytes = 1 << 20
    waiting = [Client(volume) for _ in range(MAX_CONNECTIONS)]
    for number, pod in enumerate(waiting):
        pod.request("POST", MOUNTS, json.dumps({"mount_id": f"m{number}", "reference": reference}))
        wait_until(lambda number=number: len(volume.mounts()) == number + 1)  # type: ignore[misc]  # a default argument
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(volume, "GET", MOUNTS)
    threads = threading.active_count()
    waiting[0].close()
    wait_until(lambda: len(volume.mounts()) == MAX_CONNECTIONS - 1)
    again = ask(volume, "GET", MOUNTS)
    for pod in waiting[1:]:
        pod.close()
    wait_until(lambda: not volume.mounts())

    assert (LISTED, 200, MAX_CONNECTIONS - 1) == (listed, again[0], len(again[1]))
    assert threads < 6 * MAX_CONNECTIONS


def test_a_new_server_takes_the_place(volume: DynamicVolume, metrics: Metrics) -> None:
    """A socket that a dead driver left is replaced, in one step."""
    old = (volume.path / "csi" / "csi.sock").stat().st_ino
    second = DynamicServers(metrics).serve(volume.path, volume)
    new = (volume.path / "csi" / "csi.sock").stat()
    answer = ask(volume, "GET", MOUNTS)
    second.stop()

    assert (LISTED, True, 0o666) == (answer, old != new.st_ino, new.st_mode & 0o777)
    assert ["csi.sock"] == [path.name for path in (volume.path / "csi").iterdir()]


def test_operations_are_counted(volume: DynamicVolume, metrics: Metrics, reference: str) -> None:
    """By upstream's names; a refused URL is no operation."""
    mount(volume, "m", reference)
    ask(volume, "GET", MOUNTS)
    ask(volume, "GET", f"{MOUNTS}/nothing")
    ask(volume, "GET", "/api/v1/volumes/other/mounts")
    ask(volume, "DELETE", f"{MOUNTS}/m")
    text = metrics.exposition().decode()

    assert all(
        f'model_csi_node_op_succeed{{op="{name}"}} 1.0' in text
        for name in ("create_dynamic_volume", "list_dynamic_volumes", "delete_dynamic_volume")
    )
    assert 'model_csi_node_op_failed{op="get_dynamic_volume"} 1.0' in text


def test_deep_directories(store: Store, client: Registry, tmp_path: Path, volume: DynamicVolume) -> None:
    """A volume's path may be longer than a socket's may be."""
    assert len(str(volume.path / "csi" / "csi.sock")) > 107
    assert LISTED == ask(volume, "GET", MOUNTS)
