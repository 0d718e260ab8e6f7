"""Registries that the node and its pods reach: plain HTTP, each on one of the ports that the installed driver knows as plain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.content import Content
from tests.fakes.registry import FakeRegistry
from tests.integration.credentials import basic
from tests.integration.models import Format, Model, push, random_files, upload
from tests.integration.registry import DockerRegistry, running_docker_registry
from tests.integration.traffic import Traffic
from tests.integration.wire import Wire

ADDRESS = os.environ.get("MODELCSI_REGISTRY_ADDRESS", "10.222.0.1")
"""Where this machine is for the cluster; the default is the bridge of hack/cluster."""
PORTS = range(5000, 5016)


@dataclass(frozen=True)
class ClusterRegistry:
    """Debian's docker-registry behind a wire: all the cluster's bytes pass `wire`, where they can be slowed, cut and counted."""

    server: DockerRegistry
    wire: Wire
    password: str

    @property
    def host(self) -> str:
        """What stands before the first slash of a reference, as the cluster sees it."""
        return self.wire.host

    def push(self, repository: str, files: Mapping[str, bytes], packed: Format = Format.RAW, tag: str = "v1") -> Model:
        """Pack a model and upload it, past the wire; `model.at(registry.host)` is its reference."""
        content = Content()
        model = push(content, repository, files, packed, tag)
        upload(content, self.server.host, f"Basic {basic(self.password)}" if self.password else "")
        return model

    def push_new(self, repository: str, *sizes: int) -> Model:
        """Random files of these sizes in a repository of a name that no test had before, such as its namespace: the node's store
        outlives a test, and the next one's registry has the same address.
        """
        return self.push(repository, random_files(repository, *sizes))

    def traffic(self) -> Traffic:
        """Counts the blobs that it sends from now on: `traffic.served(repository)`."""
        return Traffic(self.server)


class Registries:
    """Makes registries that end with the test."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._ports = iter(PORTS)

    def docker(self, *, htpasswd: str | None = None, password: str = "") -> ClusterRegistry:
        """A real one; with the text of a password file, for those who have its (alice's) password."""
        port = next(self._ports)
        directory = self._directory / str(port)
        directory.mkdir()
        server = self._stack.enter_context(running_docker_registry(directory, htpasswd=htpasswd))
        wire = self._stack.enter_context(Wire(server.port, address=ADDRESS, listen_port=port))
        return ClusterRegistry(server, wire, password)

    def fake(self, **options: Any) -> FakeRegistry:
        """The fake one, with its faults and counters; `options` are those of FakeRegistry."""
        return self._stack.enter_context(FakeRegistry(address=ADDRESS, port=next(self._ports), **options))
