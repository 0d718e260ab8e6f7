"""What every call gets, seen from the other end of the socket."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from modelcsi import errors
from modelcsi.csi.pb import csi_pb2
from modelcsi.csi.server import CsiServer
from modelcsi.csi.status import CODES
from modelcsi.logs import JsonFormatter
from tests.fakes.operations import RecordedOperations
from tests.fakes.volumes import FakeVolumes
from tests.unit.csi.conftest import SLOTS, Client

CANARY = "canary-8f3a"
# Of the 16 spare threads 8 are for calls that never wait.
WORKING_CALLS = SLOTS + 8


def _refusal(call: object, request: object) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)  # type: ignore[operator]  # stubs are generated without types
    assert isinstance(caught.value, grpc.Call)
    return caught.value


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_an_error_arrives_as_its_code(
    kind: type[errors.ModelCsiError],
    code: grpc.StatusCode,
    client: Client,
    volumes: FakeVolumes,
    publish_request: csi_pb2.NodePublishVolumeRequest,
) -> None:
    """Each kind is one code, with message and hint as the text."""
    volumes.failure = kind("what and which", hint="what next")
    refusal = _refusal(client.node.NodePublishVolume, publish_request)

    assert (refusal.code(), refusal.details()) == (code, "what and which (what next)")


def test_a_bug_is_internal_and_keeps_its_traceback_at_home(
    client: Client,
    volumes: FakeVolumes,
    publish_request: csi_pb2.NodePublishVolumeRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller gets a request id to look for; the log has the id and the traceback."""
    formatter = JsonFormatter()
    caplog.handler.setFormatter(formatter)
    volumes.failure = ZeroDivisionError("secret detail")
    refusal = _refusal(client.node.NodePublishVolume, publish_request)
    text = refusal.details() or ""

    assert refusal.code() == grpc.StatusCode.INTERNAL
    assert "secret detail" not in text
    assert "ZeroDivisionError: secret detail" in caplog.text
    assert f'"request": "{text.split("request ")[1].rstrip(")")}"' in caplog.text


def test_an_rpc_that_no_service_has_is_unimplemented(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """NodeStageVolume is not ours; that is no bug, and no line of an error log."""
    refusal = _refusal(client.node.NodeStageVolume, csi_pb2.NodeStageVolumeRequest(volume_id="v"))

    assert (refusal.code(), refusal.details()) == (grpc.StatusCode.UNIMPLEMENTED, "NodeStageVolume is not implemented")
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_call_without_deadline_never_ends(
    client: Client, volumes: FakeVolumes, publish_request: csi_pb2.NodePublishVolumeRequest
) -> None:
    """How long such a publish waits is decided in `volume`."""
    client.node.NodePublishVolume(publish_request)

    assert volumes.deadlines[0].remaining_seconds() == float("inf")


def test_the_callers_deadline_is_handed_down(
    client: Client, volumes: FakeVolumes, publish_request: csi_pb2.NodePublishVolumeRequest
) -> None:
    """Kubelet's 120 s arrive as 120 s, within the second to which C-core rounds up."""
    client.node.NodePublishVolume(publish_request, timeout=120)

    assert 110 < volumes.deadlines[0].remaining_seconds() <= 121


def test_quick_calls_are_answered_while_every_slot_is_taken(
    client: Client, volumes: FakeVolumes, publish_request: csi_pb2.NodePublishVolumeRequest
) -> None:
    """D1: Probe and NodeGetCapabilities do not queue behind publishes, not even behind more than there are slots."""
    volumes.hold()
    with ThreadPoolExecutor(WORKING_CALLS) as pods:
        publishes = [pods.submit(client.node.NodePublishVolume, publish_request) for _ in range(WORKING_CALLS)]
        for _ in publishes:
            assert volumes.waiting.acquire(timeout=10)
        client.identity.Probe(csi_pb2.ProbeRequest(), timeout=1)
        client.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest(), timeout=1)
        refusal = _refusal(client.node.NodePublishVolume, publish_request)
        volumes.release()

    assert refusal.code() == grpc.StatusCode.UNAVAILABLE
    assert WORKING_CALLS == len([publish for publish in publishes if publish.result() is not None])


def test_a_permit_comes_back_after_a_failure(
    client: Client, volumes: FakeVolumes, publish_request: csi_pb2.NodePublishVolumeRequest
) -> None:
    """Failing calls do not use up the bound."""
    volumes.failure = errors.NotFound("no such model")
    codes = {_refusal(client.node.NodePublishVolume, publish_request).code() for _ in range(WORKING_CALLS + 1)}

    assert codes == {grpc.StatusCode.NOT_FOUND}


def test_changing_calls_are_counted(
    client: Client,
    volumes: FakeVolumes,
    operations: RecordedOperations,
    publish_request: csi_pb2.NodePublishVolumeRequest,
) -> None:
    """By the existing driver's names, in which a volume that no claim made is dynamic; Probe is not counted."""
    client.identity.Probe(csi_pb2.ProbeRequest())
    client.node.NodePublishVolume(publish_request)
    publish_request.volume_id = "pvc-1"
    volumes.failure = errors.NotFound("no such model")
    _refusal(client.node.NodePublishVolume, publish_request)
    client.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id="pvc-1"))

    assert operations.ended == [("publish_dynamic_volume", True), ("publish_volume", False), ("delete_volume", True)]


@pytest.mark.parametrize("failure", [None, errors.Unauthenticated("refused"), ZeroDivisionError("bug")])
def test_secrets_are_never_logged(
    failure: Exception | None,
    client: Client,
    volumes: FakeVolumes,
    publish_request: csi_pb2.NodePublishVolumeRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At debug, whether a call succeeds, fails or breaks."""
    caplog.set_level(logging.DEBUG)
    volumes.failure = failure
    publish_request.secrets["password"] = CANARY
    publish_request.volume_context["csi.storage.k8s.io/serviceAccount.tokens"] = CANARY
    create = csi_pb2.CreateVolumeRequest(name="n", secrets={"password": CANARY})
    answers: list[str] = []
    for call, request in ((client.node.NodePublishVolume, publish_request), (client.controller.CreateVolume, create)):
        try:
            call(request)
        except grpc.RpcError as error:
            answers.append(str(error))

    assert "asked" in caplog.text
    assert CANARY not in caplog.text + "".join(answers)


def test_lines_carry_rpc_volume_and_request(
    client: Client, publish_request: csi_pb2.NodePublishVolumeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """So that one pod's story can be filtered out of many."""
    caplog.handler.setFormatter(JsonFormatter())
    caplog.set_level(logging.INFO)
    client.node.NodePublishVolume(publish_request)

    assert '"rpc": "NodePublishVolume", "request": "' in caplog.text
    assert '"volume": "csi-0123"' in caplog.text


def test_a_huge_request_is_refused(server: CsiServer, client: Client, tmp_path: Path) -> None:
    """Above 4 MiB nothing is read, let alone parsed."""
    request = csi_pb2.NodeUnpublishVolumeRequest(volume_id="v" * 5_000_000, target_path=str(tmp_path))

    assert _refusal(client.node.NodeUnpublishVolume, request).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
