"""Who the driver says it is."""

from __future__ import annotations

from importlib import metadata

import pytest

from modelcsi.csi.pb import csi_pb2
from tests.unit.csi.conftest import SERVICE_NAME, Client


def test_plugin_info_is_name_and_version(client: Client) -> None:
    """The version is the distribution's."""
    answer = client.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest())

    assert (answer.name, answer.vendor_version) == (SERVICE_NAME, metadata.version("model-csi-driver"))


def test_there_is_a_controller(client: Client) -> None:
    """CONTROLLER_SERVICE and no topology."""
    answer = client.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest())
    service = csi_pb2.PluginCapability.Service

    assert [service.CONTROLLER_SERVICE] == [capability.service.type for capability in answer.capabilities]


@pytest.mark.parametrize("is_ready", [True, False])
def test_probe_tells_readiness(is_ready: bool, readiness: list[bool], client: Client) -> None:
    """`ready` is always set: absent would mean ready."""
    readiness.append(is_ready)
    answer = client.identity.Probe(csi_pb2.ProbeRequest())

    assert answer.HasField("ready")
    assert is_ready == answer.ready.value
