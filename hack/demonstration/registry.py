"""Debian's docker-registry, and what its access log says about who asked it for what."""

from __future__ import annotations

import http.client
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from hack.demonstration.failure import require
from hack.demonstration.programs import Programs

_PROGRAM = "/usr/bin/docker-registry"
_START_SECONDS = 20.0
_LOG_SECONDS = 10.0
_LISTENING = re.compile(r'msg="listening on (127\.0\.0\.1:\d+)"')
_ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/1\.1" (?P<status>\d+) (?P<size>\d+)')


@dataclass(frozen=True, slots=True)
class Served:
    """What the registry was asked for."""

    requests: int
    downloads: tuple[str, ...]
    """The path of every blob that was sent; twice what was sent twice."""
    size_bytes: int
    """Of all downloads."""


class DockerRegistry:
    """A registry on a port of loopback that the kernel chooses, with its storage in the work directory."""

    def __init__(self, programs: Programs, work: Path) -> None:
        require(Path(_PROGRAM).exists(), f"{_PROGRAM} is missing: install the Debian package docker-registry")
        configuration = work / "registry.yml"
        configuration.write_text(
            "version: 0.1\n"
            "log: {level: info, accesslog: {disabled: false}}\n"
            f"storage: {{filesystem: {{rootdirectory: '{work / 'registry'}'}}}}\n"
            "http: {addr: '127.0.0.1:0', secret: demo}\n"
        )
        self._programs = programs
        self._marks = 0
        self._counted = 0
        self._program = programs.start("docker-registry", _PROGRAM, "serve", configuration)
        programs.wait(self._program, _START_SECONDS, lambda: _LISTENING.search(self._log()) is not None)
        (self.host,) = _LISTENING.findall(self._log())

    @property
    def version(self) -> str:
        """Of the Debian package's program."""
        answer = subprocess.run([_PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout
        return answer.split()[-1] if answer.split() else ""

    def count(self) -> Served:
        """All requests for content since the last count."""
        lines = self._finished_requests()
        fresh, self._counted = lines[self._counted :], len(lines)
        blobs = [line for line in fresh if line["method"] == "GET" and "/blobs/sha256:" in line["path"]]
        return Served(len(fresh), tuple(line["path"] for line in blobs), sum(int(line["size"]) for line in blobs))

    def _finished_requests(self) -> list[re.Match[str]]:
        """A request of our own marks the end: its line in the log comes after those of earlier ones."""
        self._marks += 1
        mark = f"/mark/{self._marks}"
        connection = http.client.HTTPConnection(self.host, timeout=_LOG_SECONDS)
        connection.request("GET", mark)
        connection.getresponse().read()
        connection.close()
        self._programs.wait(self._program, _LOG_SECONDS, lambda: f"GET {mark} " in self._log())
        return [found for found in _ACCESS.finditer(self._log()) if found["path"].startswith("/v2/")]

    def _log(self) -> str:
        # The access log goes to one stream, messages to the other.
        return self._program.log.read_text() + self._program.output.read_text()
