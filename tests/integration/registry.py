"""Debian's docker-registry (distribution 2.8), as a process of its own on a port of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = "/usr/bin/docker-registry"
_START_SECONDS = 20.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class DockerRegistry:
    """A running registry: plain HTTP on loopback, anonymous unless it was given passwords."""

    port: int
    storage: Path
    log: Path

    @property
    def host(self) -> str:
        """What stands before the first slash of a reference."""
        return f"127.0.0.1:{self.port}"


@contextmanager
def running_docker_registry(directory: Path, *, htpasswd: str | None = None) -> Iterator[DockerRegistry]:
    """A registry that keeps everything in `directory`, ended with the block.

    `htpasswd` is the text of a password file (bcrypt only); with it, every request needs Basic credentials.
    """
    registry = DockerRegistry(_free_port(), directory / "storage", directory / "registry.log")
    registry.storage.mkdir(parents=True)
    configuration = directory / "config.yml"
    configuration.write_text(_configuration(registry, directory, htpasswd))
    with registry.log.open("wb") as log:
        process = subprocess.Popen(
            [_PROGRAM, "serve", configuration], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_it_listens(process, registry)
        yield registry
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _configuration(registry: DockerRegistry, directory: Path, htpasswd: str | None) -> str:
    lines = [
        "version: 0.1",
        "log: {level: info, accesslog: {disabled: false}}",
        f"storage: {{filesystem: {{rootdirectory: {registry.storage}}}, delete: {{enabled: true}}}}",
        f"http: {{addr: '{registry.host}', secret: tests}}",
    ]
    if htpasswd is not None:
        passwords = directory / "htpasswd"
        passwords.write_text(htpasswd)
        lines.append(f"auth: {{htpasswd: {{realm: tests, path: {passwords}}}}}")
    return "\n".join(lines) + "\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_listens(process: subprocess.Popen[bytes], registry: DockerRegistry) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", registry.port), timeout=1).close()
        except OSError:
            # Another process offers no event to wait for; the bound is the deadline, not the number of tries.
            time.sleep(_POLL_SECONDS)
        else:
            return
    raise AssertionError(f"docker-registry does not listen:\n{registry.log.read_text()[-2000:]}")
