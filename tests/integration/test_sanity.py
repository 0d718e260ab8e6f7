"""csi-sanity v5.5.0, the conformance test of CSI drivers."""

from __future__ import annotations

from tests.fakes.content import Content
from tests.integration.driver import Driver
from tests.integration.models import push, random_files, upload
from tests.integration.registry import DockerRegistry
from tests.integration.sanity import assert_conformant, run_csi_sanity


def test_driver_is_conformant(driver: Driver, docker_registry: DockerRegistry) -> None:
    """None of its tests fails, and as many run as a driver without staging and snapshots can pass."""
    content = Content()
    model = push(content, "sanity/tiny", random_files("sanity", 10_000))
    upload(content, docker_registry.host)
    result = run_csi_sanity(
        f"unix://{driver.socket}", driver.directory / "sanity", {"modelRef": model.at(docker_registry.host)}
    )

    assert_conformant(result)
