"""Requests to the Node service, and what of them reaches the use cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from modelcsi.csi.pb import csi_pb2
from modelcsi.volume.spec import VolumeSpec
from tests.fakes.volumes import FakeVolumes
from tests.unit.csi.conftest import Client

Publish = csi_pb2.NodePublishVolumeRequest
MODES = csi_pb2.VolumeCapability.AccessMode.Mode.values()


def _refusal(call: Any, request: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), caught.value.details() or ""


def _ask_for_block(request: Publish) -> None:
    request.volume_capability.block.SetInParent()


def _fill_context(request: Publish) -> None:
    request.volume_context["other.example/key"] = "x" * 300_000


BAD_PUBLISHES: list[tuple[str, Callable[[Publish], Any]]] = [
    ("volume_id is missing", lambda request: request.ClearField("volume_id")),
    ("volume_id has over 128 bytes", lambda request: setattr(request, "volume_id", "v" * 129)),
    ("volume_id has a NUL byte", lambda request: setattr(request, "volume_id", "v\0")),
    ("target_path is missing", lambda request: request.ClearField("target_path")),
    ("target_path has over 4096 bytes", lambda request: setattr(request, "target_path", "/" + "t" * 4096)),
    ("target_path 'some/path' is not absolute", lambda request: setattr(request, "target_path", "some/path")),
    ("target_path '/a/../b' has a part '..'", lambda request: setattr(request, "target_path", "/a/../b")),
    ("volume_capability is missing", lambda request: request.ClearField("volume_capability")),
    ("a model cannot be a block device (use volumeMode: Filesystem)", _ask_for_block),
    ("volume_context has over 262144 bytes", _fill_context),
]


@pytest.mark.parametrize(("message", "spoil"), BAD_PUBLISHES)
def test_bad_publishes_are_refused(
    message: str,
    spoil: Callable[[Publish], Any],
    client: Client,
    volumes: FakeVolumes,
    publish_request: Publish,
) -> None:
    """INVALID_ARGUMENT names the field, and no use case was asked."""
    spoil(publish_request)

    assert _refusal(client.node.NodePublishVolume, publish_request) == (grpc.StatusCode.INVALID_ARGUMENT, message)
    assert volumes.specs == []


def test_missing_fields_are_named_in_csis_order(client: Client) -> None:
    """An empty request misses its volume id first, then the target, then the capability."""
    request = Publish()
    first = _refusal(client.node.NodePublishVolume, request)[1]
    request.volume_id = "v"
    second = _refusal(client.node.NodePublishVolume, request)[1]
    request.target_path = "/t"
    third = _refusal(client.node.NodePublishVolume, request)[1]

    assert (first, second, third) == (
        "volume_id is missing",
        "target_path is missing",
        "volume_capability is missing",
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("readonly", [True, False])
def test_every_access_mode_is_published(
    mode: csi_pb2.VolumeCapability.AccessMode.Mode,
    readonly: bool,
    client: Client,
    volumes: FakeVolumes,
    publish_request: Publish,
) -> None:
    """The mount is read-only whatever was asked for, so there is nothing to refuse."""
    publish_request.volume_capability.access_mode.mode = mode
    publish_request.readonly = readonly
    client.node.NodePublishVolume(publish_request)

    assert len(volumes.published) == 1


def test_the_request_becomes_a_spec(client: Client, volumes: FakeVolumes, publish_request: Publish) -> None:
    """Id, target, attributes and secrets reach the use case."""
    publish_request.secrets["username"] = "alice"
    client.node.NodePublishVolume(publish_request)
    spec = volumes.specs[0]

    assert isinstance(spec, VolumeSpec)
    assert (spec.volume_id, spec.target) == (publish_request.volume_id, publish_request.target_path)
    assert str(spec.reference) == "registry.example/model:v1"
    assert dict(spec.secrets) == {"username": "alice"}


@pytest.mark.parametrize(("place", "expected"), [("secrets", {"registry": "t0ken"}), ("volume_context", {})])
def test_service_account_tokens_are_kubelets(
    client: Client, volumes: FakeVolumes, publish_request: Publish, place: str, expected: dict[str, str]
) -> None:
    """Among the secrets they count; among the attributes only where kubelet is known to write them there."""
    tokens = '{"registry": {"token": "t0ken", "expirationTimestamp": "2999-01-01T00:00:00Z"}}'
    getattr(publish_request, place)["csi.storage.k8s.io/serviceAccount.tokens"] = tokens
    client.node.NodePublishVolume(publish_request)
    spec = volumes.specs[0]

    assert isinstance(spec, VolumeSpec)
    assert (expected, {}) == (dict(spec.tokens), dict(spec.secrets))


def test_unpublish_takes_any_id(client: Client, tmp_path: Path) -> None:
    """Ids that we would not publish may be another driver's; refusing them would leave the pod Terminating."""
    request = csi_pb2.NodeUnpublishVolumeRequest(volume_id="v" * 500, target_path=str(tmp_path / "gone"))

    assert csi_pb2.NodeUnpublishVolumeResponse() == client.node.NodeUnpublishVolume(request)


@pytest.mark.parametrize(
    ("volume_id", "target", "message"),
    [
        ("", "/t", "volume_id is missing"),
        ("v", "", "target_path is missing"),
        ("v", "t", "target_path 't' is not absolute"),
        ("v", "/a/..", "target_path '/a/..' has a part '..'"),
    ],
)
def test_bad_unpublishes_are_refused(volume_id: str, target: str, message: str, client: Client) -> None:
    """INVALID_ARGUMENT names the field."""
    request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=target)

    assert _refusal(client.node.NodeUnpublishVolume, request) == (grpc.StatusCode.INVALID_ARGUMENT, message)


def test_unpublish_reaches_the_use_case(client: Client, volumes: FakeVolumes, publish_request: Publish) -> None:
    """The same id and target that were published."""
    client.node.NodePublishVolume(publish_request)
    client.node.NodeUnpublishVolume(
        csi_pb2.NodeUnpublishVolumeRequest(volume_id=publish_request.volume_id, target_path=publish_request.target_path)
    )

    assert set() == volumes.published


def test_stats_are_bytes_inodes_and_condition(client: Client, publish_request: Publish) -> None:
    """Both units are there: kubelet errs on an empty usage."""
    client.node.NodePublishVolume(publish_request)
    answer = client.node.NodeGetVolumeStats(
        csi_pb2.NodeGetVolumeStatsRequest(volume_id=publish_request.volume_id, volume_path=publish_request.target_path)
    )
    usage = [(entry.unit, entry.total, entry.used, entry.available) for entry in answer.usage]

    assert usage == [(csi_pb2.VolumeUsage.BYTES, 1000, 400, 600), (csi_pb2.VolumeUsage.INODES, 100, 4, 96)]
    assert (answer.volume_condition.abnormal, answer.volume_condition.message) == (False, "mounted")


@pytest.mark.parametrize("spelling", ["{}/", "/{}", "//{}", "{}/.", "/.{}"])
def test_one_target_in_any_spelling(
    spelling: str, client: Client, volumes: FakeVolumes, publish_request: Publish
) -> None:
    """What was published under one spelling is measured and unpublished under another."""
    path = publish_request.target_path
    publish_request.target_path = spelling.format(path)
    client.node.NodePublishVolume(publish_request)
    volume_id = publish_request.volume_id
    keys = set(volumes.published)
    answer = client.node.NodeGetVolumeStats(
        csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=spelling.format(path))
    )
    client.node.NodeUnpublishVolume(
        csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=spelling.format(path))
    )

    assert {(volume_id, path)} == keys
    assert 2 == len(answer.usage)
    assert set() == volumes.published


@pytest.mark.parametrize(
    ("volume_id", "path", "code"),
    [
        ("", "/t", grpc.StatusCode.INVALID_ARGUMENT),
        ("v", "", grpc.StatusCode.INVALID_ARGUMENT),
        ("v", "/t/../t", grpc.StatusCode.INVALID_ARGUMENT),
        ("v", "some/path", grpc.StatusCode.NOT_FOUND),
        ("v", "/t", grpc.StatusCode.NOT_FOUND),
    ],
)
def test_stats_of_nothing(volume_id: str, path: str, code: grpc.StatusCode, client: Client) -> None:
    """Missing fields are invalid; what is not mounted there is not found, also by a relative path."""
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume_id, volume_path=path)

    assert code == _refusal(client.node.NodeGetVolumeStats, request)[0]


def test_capabilities(client: Client) -> None:
    """Statistics with condition; no staging."""
    answer = client.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest())
    rpc = csi_pb2.NodeServiceCapability.RPC

    assert [rpc.GET_VOLUME_STATS, rpc.VOLUME_CONDITION] == [item.rpc.type for item in answer.capabilities]


def test_node_info_is_the_id_alone(client: Client) -> None:
    """No limit and no topology, since a model can be pulled on every node."""
    answer = client.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest())

    assert csi_pb2.NodeGetInfoResponse(node_id="node-1") == answer
