"""What the driver says about itself, and to requests that cannot be served: codes, texts, and nothing left behind."""

from __future__ import annotations

import hashlib

import grpc
import pytest

from modelcsi.csi.pb import csi_pb2
from tests.fakes.content import Content
from tests.fakes.kubelet import PodVolume
from tests.integration.driver import SERVICE_NAME, Driver
from tests.integration.models import push, random_files, upload
from tests.integration.registry import DockerRegistry

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def reference(docker_registry: DockerRegistry) -> str:
    """A model that is there."""
    content = Content()
    model = push(content, "requests/tiny", random_files("requests", 1000))
    upload(content, docker_registry.host)
    return model.at(docker_registry.host)


def test_driver_names_itself(driver: Driver) -> None:
    """Name, version, a controller service, readiness, and the node's name from the environment."""
    identity = driver.kubelet.call("Identity", "GetPluginInfo", csi_pb2.GetPluginInfoRequest()).response
    able = driver.kubelet.call("Identity", "GetPluginCapabilities", csi_pb2.GetPluginCapabilitiesRequest()).response
    node = driver.kubelet.call("Node", "NodeGetInfo", csi_pb2.NodeGetInfoRequest()).response

    assert SERVICE_NAME == identity.name
    assert identity.vendor_version
    assert [csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE] == [item.service.type for item in able.capabilities]
    assert "test-node" == node.node_id
    assert driver.kubelet.probe().response.ready.value


def test_node_capabilities(driver: Driver) -> None:
    """Statistics with the volume's condition; no staging."""
    answer = driver.kubelet.call("Node", "NodeGetCapabilities", csi_pb2.NodeGetCapabilitiesRequest())
    kinds = csi_pb2.NodeServiceCapability.RPC

    assert {kinds.GET_VOLUME_STATS, kinds.VOLUME_CONDITION} == {item.rpc.type for item in answer.response.capabilities}


def test_volume_of_a_claim(driver: Driver, reference: str) -> None:
    """CreateVolume hands the parameters on; the volume it names can be published, in either access mode."""
    mode = csi_pb2.VolumeCapability.AccessMode
    request = csi_pb2.CreateVolumeRequest(
        name="pvc-1",
        capacity_range=csi_pb2.CapacityRange(required_bytes=1 << 40),
        volume_capabilities=[
            csi_pb2.VolumeCapability(
                mount=csi_pb2.VolumeCapability.MountVolume(),
                access_mode=mode(mode=mode.MULTI_NODE_READER_ONLY),
            )
        ],
        parameters={f"{SERVICE_NAME}/reference": reference, "csi.storage.k8s.io/pvc/name": "claim"},
    )
    created = driver.kubelet.call("Controller", "CreateVolume", request).response.volume
    volume = PodVolume("claim", dict(created.volume_context), handle=created.volume_id)

    assert 0 == created.capacity_bytes
    assert Code.OK == driver.kubelet.publish(volume).code
    assert Code.OK == driver.kubelet.unpublish(volume).code


@pytest.mark.parametrize(
    ("attributes", "code", "says"),
    [
        ({"modelReff": "{reference}"}, Code.INVALID_ARGUMENT, "modelRef"),
        ({"modelRef": "{reference}", "pulPolicy": "Never"}, Code.INVALID_ARGUMENT, "pullPolicy"),
        ({"modelRef": "{reference}", f"{SERVICE_NAME}/pull-polcy": "x"}, Code.INVALID_ARGUMENT, "pull-policy"),
        ({"modelRef": "{reference}", f"{SERVICE_NAME}/reference": "other:1"}, Code.INVALID_ARGUMENT, "disagree"),
        ({"modelRef": "{reference}", "pullPolicy": "always"}, Code.INVALID_ARGUMENT, "Always"),
        ({"modelRef": "{reference}", "excludeFilePatterns": "[1"}, Code.INVALID_ARGUMENT, "excludeFilePatterns"),
        ({"modelRef": "{reference}", "excludeModelWeights": "ja"}, Code.INVALID_ARGUMENT, "excludeModelWeights"),
        ({"modelRef": "{host}/UPPER/case:v1"}, Code.INVALID_ARGUMENT, "UPPER"),
        ({}, Code.INVALID_ARGUMENT, "modelRef"),
        ({"modelRef": "{host}/requests/tiny:v9"}, Code.NOT_FOUND, "{host}/requests/tiny:v9"),
        ({"modelRef": "{host}/requests/none:v1"}, Code.NOT_FOUND, "{host}/requests/none:v1"),
        ({"modelRef": "{host}/requests/tiny:v9", "pullPolicy": "Never"}, Code.NOT_FOUND, "Never"),
    ],
)
def test_refused_request_leaves_nothing(
    driver: Driver,
    reference: str,
    attributes: dict[str, str],
    code: grpc.StatusCode,
    says: str,
    request: pytest.FixtureRequest,
) -> None:
    """The answer names what is wrong and what may be meant; it is final, so no target and no record stay."""
    host = reference.partition("/")[0]
    filled = {key: value.format(reference=reference, host=host) for key, value in attributes.items()}
    volume = PodVolume(f"refused-{hashlib.sha256(request.node.name.encode()).hexdigest()[:16]}", filled)
    answer = driver.kubelet.publish(volume)

    assert code == answer.code
    assert says.format(host=host) in answer.text
    assert not driver.kubelet.target(volume).exists()
    assert volume.volume_id not in str(driver.ask("status"))


def test_parameters_of_a_claim_are_checked(driver: Driver) -> None:
    """A typo in a StorageClass is found when the claim is made, not when the pod starts."""
    mode = csi_pb2.VolumeCapability.AccessMode
    request = csi_pb2.CreateVolumeRequest(
        name="pvc-2",
        volume_capabilities=[
            csi_pb2.VolumeCapability(
                mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=mode(mode=mode.SINGLE_NODE_WRITER)
            )
        ],
        parameters={f"{SERVICE_NAME}/referense": "host/model:v1"},
    )
    answer = driver.kubelet.call("Controller", "CreateVolume", request)

    assert Code.INVALID_ARGUMENT == answer.code
    assert f"{SERVICE_NAME}/reference" in answer.text


def test_block_volumes_are_refused(driver: Driver, reference: str) -> None:
    """A model is files."""
    volume = PodVolume("block", {"modelRef": reference})
    request = volume.publish_request(driver.kubelet.target(volume))
    request.volume_capability.block.SetInParent()

    assert Code.INVALID_ARGUMENT == driver.kubelet.call("Node", "NodePublishVolume", request).code
