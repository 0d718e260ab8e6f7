"""What of a request may be logged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass

from modelcsi.csi.pb import csi_pb2
from modelcsi.csi.redaction import redacted

CANARY = "canary-8f3a"
_OPTION: Any = csi_pb2.csi_secret
SECRET_FIELDS = [
    (message.name, field.name)
    for message in csi_pb2.DESCRIPTOR.message_types_by_name.values()
    for field in message.fields
    if field.GetOptions().Extensions[_OPTION]
]


def test_the_proto_marks_its_secrets() -> None:
    """The option is read from the descriptors; were it lost in generating, nothing would be masked."""
    assert len(SECRET_FIELDS) >= 19


@pytest.mark.parametrize(("message", "field"), SECRET_FIELDS)
def test_secret_fields_are_masked(message: str, field: str) -> None:
    """Neither key nor value of a field with csi_secret is shown; the field is, so that one sees it was set."""
    request = GetMessageClass(csi_pb2.DESCRIPTOR.message_types_by_name[message])()
    getattr(request, field)[CANARY] = CANARY
    shown = redacted(request)

    assert CANARY not in shown
    assert f'"{field}": "***"' in shown


def test_tokens_in_a_map_are_masked() -> None:
    """Kubelets without serviceAccountTokenInSecrets put the tokens where they are not marked as secret."""
    request = csi_pb2.NodePublishVolumeRequest(
        volume_context={"csi.storage.k8s.io/serviceAccount.tokens": CANARY, "modelRef": "m:v1"}
    )

    assert json.loads(redacted(request)) == {
        "volume_context": {"csi.storage.k8s.io/serviceAccount.tokens": "***", "modelRef": "m:v1"}
    }


def test_the_rest_is_shown() -> None:
    """Nested and repeated messages are walked."""
    request = csi_pb2.CreateVolumeRequest(
        name="pvc-1",
        volume_capabilities=[csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume(fs_type="ext4"))],
    )

    assert redacted(request) == '{"name": "pvc-1", "volume_capabilities": [{"mount": {"fs_type": "ext4"}}]}'
