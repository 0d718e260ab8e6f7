"""A pod with a dynamic volume: how it asks the socket in it."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.kubelet import PodVolume
from tests.integration.driver import Driver
from tests.integration.publishing import published

CONFIG = {"features": {"dynamic_mounts": True}}


@dataclass(frozen=True)
class Said:
    """An answer: its status, and its JSON if it has a body."""

    status: int
    body: Any = None


class PodConnection(http.client.HTTPConnection):
    """HTTP over the socket in a volume."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class DynamicPod:
    """A pod whose dynamic volume is published."""

    def __init__(self, driver: Driver, name: str, secrets: dict[str, str] | None = None) -> None:
        self.volume = PodVolume(name, {}, secrets or {}, name="models")
        self.path = published(driver, self.volume)
        self.mounts = f"/api/v1/volumes/{self.volume.volume_id}/mounts"

    def model(self, mount_id: str) -> Path:
        """Where a model is."""
        return self.path / "models" / mount_id / "model"

    def ask(self, method: str, path: str, body: Any = None) -> Said:
        """Any request to its socket."""
        connection = self.open(method, path, body)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return Said(response.status, json.loads(content) if content else None)

    def open(self, method: str, path: str, body: Any = None) -> PodConnection:
        """A request whose answer is not waited for."""
        connection = PodConnection(self.path / "csi" / "csi.sock")
        connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body))
        return connection

    def mount(self, mount_id: str, reference: str, **fields: Any) -> Said:
        """POST."""
        return self.ask("POST", self.mounts, {"mount_id": mount_id, "reference": reference, **fields})

    def unmount(self, mount_id: str) -> Said:
        """DELETE."""
        return self.ask("DELETE", f"{self.mounts}/{mount_id}")

    def state(self, mount_id: str) -> str:
        """The state of a mount, empty if there is none."""
        said = self.ask("GET", f"{self.mounts}/{mount_id}")
        return str(said.body["state"]) if said.status == http.HTTPStatus.OK else ""

    def ids(self) -> list[str]:
        """The mounts that are listed."""
        return [item["mount_id"] for item in self.ask("GET", self.mounts).body]
