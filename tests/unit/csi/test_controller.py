"""The stateless Controller service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from modelcsi.csi.pb import csi_pb2
from tests.unit.csi.conftest import Client

Create = csi_pb2.CreateVolumeRequest
PARAMETERS = {"modelRef": "registry.example/model:v1"}


def _mount_capability() -> csi_pb2.VolumeCapability:
    return csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume())


def _block_capability() -> csi_pb2.VolumeCapability:
    return csi_pb2.VolumeCapability(block=csi_pb2.VolumeCapability.BlockVolume())


def _create_request(name: str = "pvc-1") -> Create:
    return Create(name=name, parameters=PARAMETERS, volume_capabilities=[_mount_capability()])


def _refusal(call: Any, request: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), caught.value.details() or ""


def test_a_volume_is_its_parameters(client: Client) -> None:
    """They come back as volume_context; the capacity is unknown."""
    volume = client.controller.CreateVolume(_create_request()).volume

    assert dict(volume.volume_context) == PARAMETERS
    assert volume.capacity_bytes == 0
    assert len(volume.volume_id) == len("pvc-") + 64


def test_the_same_name_is_the_same_volume(client: Client) -> None:
    """CSI's idempotency, for names up to its limit; another name is another volume."""
    ids = [
        client.controller.CreateVolume(_create_request(name)).volume.volume_id
        for name in ("n" * 128, "n" * 128, "n" * 127)
    ]

    assert ids[0] == ids[1] != ids[2]


def _spoil_capability(request: Create) -> None:
    request.volume_capabilities.append(_block_capability())


def _spoil_source(request: Create) -> None:
    request.volume_content_source.volume.volume_id = "pvc-0"


BAD_CREATES: list[tuple[str, Callable[[Create], Any]]] = [
    ("name is missing", lambda request: request.ClearField("name")),
    ("name has over 128 bytes", lambda request: setattr(request, "name", "n" * 129)),
    ("volume_capabilities are missing", lambda request: request.ClearField("volume_capabilities")),
    ("a model cannot be a block device (use volumeMode: Filesystem)", _spoil_capability),
    ("a model cannot be made from a snapshot or another volume", _spoil_source),
]


@pytest.mark.parametrize(("message", "spoil"), BAD_CREATES)
def test_bad_creates_are_refused(message: str, spoil: Callable[[Create], Any], client: Client) -> None:
    """INVALID_ARGUMENT names the field."""
    request = _create_request()
    spoil(request)

    assert _refusal(client.controller.CreateVolume, request) == (grpc.StatusCode.INVALID_ARGUMENT, message)


def test_parameters_are_checked_before_a_pod_waits_for_them(client: Client) -> None:
    """A StorageClass with a wrong attribute fails at the claim."""
    request = _create_request()
    request.parameters["modelRefs"] = request.parameters.pop("modelRef")

    assert grpc.StatusCode.INVALID_ARGUMENT == _refusal(client.controller.CreateVolume, request)[0]


@pytest.mark.parametrize("volume_id", ["unknown", "pvc-1"])
def test_deleting_is_always_done(volume_id: str, client: Client) -> None:
    """There is nothing to delete, whoever named the volume."""
    answer = client.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id=volume_id))

    assert csi_pb2.DeleteVolumeResponse() == answer


def test_deleting_needs_an_id(client: Client) -> None:
    """As CSI wants it."""
    refusal = _refusal(client.controller.DeleteVolume, csi_pb2.DeleteVolumeRequest())

    assert refusal == (grpc.StatusCode.INVALID_ARGUMENT, "volume_id is missing")


def test_mount_capabilities_are_confirmed(client: Client) -> None:
    """`confirmed` echoes what was asked."""
    volume = client.controller.CreateVolume(_create_request()).volume
    answer = client.controller.ValidateVolumeCapabilities(
        csi_pb2.ValidateVolumeCapabilitiesRequest(
            volume_id=volume.volume_id, volume_capabilities=[_mount_capability()], volume_context=PARAMETERS
        )
    )

    assert [_mount_capability()] == list(answer.confirmed.volume_capabilities)
    assert dict(answer.confirmed.volume_context) == PARAMETERS


def test_block_capabilities_are_not_confirmed(client: Client) -> None:
    """Not an error: `confirmed` is empty and the message says why."""
    volume = client.controller.CreateVolume(_create_request()).volume
    answer = client.controller.ValidateVolumeCapabilities(
        csi_pb2.ValidateVolumeCapabilitiesRequest(volume_id=volume.volume_id, volume_capabilities=[_block_capability()])
    )

    assert not answer.HasField("confirmed")
    assert answer.message == "a model cannot be a block device"


@pytest.mark.parametrize(
    ("volume_id", "capabilities", "code"),
    [
        ("", [_mount_capability()], grpc.StatusCode.INVALID_ARGUMENT),
        ("pvc-1", [], grpc.StatusCode.INVALID_ARGUMENT),
        ("fake-vol-id", [_mount_capability()], grpc.StatusCode.NOT_FOUND),
    ],
)
def test_bad_validations_are_refused(
    volume_id: str, capabilities: list[csi_pb2.VolumeCapability], code: grpc.StatusCode, client: Client
) -> None:
    """Missing fields are invalid; an id that CreateVolume never gives is not found."""
    request = csi_pb2.ValidateVolumeCapabilitiesRequest(volume_id=volume_id, volume_capabilities=capabilities)

    assert code == _refusal(client.controller.ValidateVolumeCapabilities, request)[0]


def test_capabilities(client: Client) -> None:
    """Create and delete."""
    answer = client.controller.ControllerGetCapabilities(csi_pb2.ControllerGetCapabilitiesRequest())
    rpc = csi_pb2.ControllerServiceCapability.RPC

    assert [rpc.CREATE_DELETE_VOLUME] == [item.rpc.type for item in answer.capabilities]
