"""A real server with the three services on a unix socket, over fake volumes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelcsi.csi.controller import Controller
from modelcsi.csi.identity import Identity
from modelcsi.csi.node import Node
from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc
from modelcsi.csi.server import CsiServer, Services
from tests.fakes.operations import RecordedOperations
from tests.fakes.volumes import FakeVolumes

SERVICE_NAME = "model.csi.modelpack.org"
SLOTS = 3


@dataclass(frozen=True)
class Client:
    """Stubs over one channel, with the authority that kubelet uses."""

    identity: Any
    node: Any
    controller: Any

    @classmethod
    def over(cls, channel: grpc.Channel) -> Client:
        return cls(
            csi_pb2_grpc.IdentityStub(channel),
            csi_pb2_grpc.NodeStub(channel),
            csi_pb2_grpc.ControllerStub(channel),
        )


@pytest.fixture
def volumes() -> Iterator[FakeVolumes]:
    """Volumes whose waiting publishes end with the test."""
    fake = FakeVolumes()
    yield fake
    fake.release()


@pytest.fixture
def operations() -> RecordedOperations:
    """What the server counted."""
    return RecordedOperations()


@pytest.fixture
def readiness() -> list[bool]:
    """What Probe answers: its last item."""
    return [True]


@pytest.fixture
def server(
    tmp_path: Path, volumes: FakeVolumes, operations: RecordedOperations, readiness: list[bool]
) -> Iterator[CsiServer]:
    """A started server."""
    services = Services(
        identity=Identity(SERVICE_NAME, lambda: readiness[-1]),
        node=Node(volumes, service_name=SERVICE_NAME, node_id="node-1"),
        controller=Controller(SERVICE_NAME),
    )
    csi_server = CsiServer(f"unix://{tmp_path}/csi/csi.sock", services, operations, publish_slots=SLOTS)
    csi_server.start()
    yield csi_server
    volumes.release()
    csi_server.stop(grace_seconds=5)


@pytest.fixture
def client(server: CsiServer) -> Iterator[Client]:
    """A client of the server."""
    with grpc.insecure_channel(f"unix:{server.path}", options=[("grpc.default_authority", "localhost")]) as channel:
        yield Client.over(channel)


@pytest.fixture
def publish_request(tmp_path: Path) -> csi_pb2.NodePublishVolumeRequest:
    """What kubelet sends for an inline volume."""
    mode = csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER
    return csi_pb2.NodePublishVolumeRequest(
        volume_id="csi-0123",
        target_path=str(tmp_path / "target"),
        volume_capability=csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(),
            access_mode=csi_pb2.VolumeCapability.AccessMode(mode=mode),
        ),
        volume_context={"modelRef": "registry.example/model:v1"},
    )
