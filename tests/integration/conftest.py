"""Real parts for tests as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from tests.fakes.registry import FakeRegistry
from tests.integration.driver import Driver, new_driver, running_driver
from tests.integration.registry import DockerRegistry, running_docker_registry


class MakeDriver(Protocol):
    """What the fixture `make_driver` is."""

    def __call__(self, config: dict[str, Any] | None = None, *, starts: bool = True) -> Driver:
        """A driver with this configuration, ready unless it shall not start yet."""


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """One anonymous registry for all tests; each uses repositories of its own."""
    with running_docker_registry(tmp_path_factory.mktemp("docker-registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def as_root() -> None:
    """Mounts need root."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")


@pytest.fixture(scope="module")
def driver(as_root: None) -> Iterator[Driver]:
    """A driver for all tests of a module that neither end nor configure it; each uses models of its own."""
    with running_driver() as running:
        yield running


@pytest.fixture
def make_driver(as_root: None) -> Iterator[MakeDriver]:
    """Drivers of a test's own."""
    with ExitStack() as stack:

        def make(config: dict[str, Any] | None = None, *, starts: bool = True) -> Driver:
            return stack.enter_context(running_driver(config) if starts else new_driver(config))

        yield make


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry with faults, of a test's own."""
    with FakeRegistry() as fake:
        yield fake
