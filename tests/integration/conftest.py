"""Real parts for tests as root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.registry import DockerRegistry, running_docker_registry


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """One anonymous registry for all tests; each uses repositories of its own."""
    with running_docker_registry(tmp_path_factory.mktemp("docker-registry")) as registry:
        yield registry
