"""The directory of hosts.toml files: which one is about a host, and what it says of the registry itself; any thread.

Files are read again at each question. One that cannot be understood may be half-written, or mistyped while pulls run: until it
can be again, what it said before counts.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import DOCKER_HUB
from modelcsi.registry.hosts_toml import HostsFile, NamedHost, Server, read_hosts
from modelcsi.registry.notices import Notices
from modelcsi.registry.tls import TlsSettings

logger = logging.getLogger(__name__)

_HUB_HOST = "registry-1.docker.io"
_DEFAULT_DIRECTORY = "_default"


class HostsFiles:
    """What the node's administrator says of registries; a pod never does."""

    def __init__(self, directory: Path | None = None) -> None:
        """None says nothing of any."""
        self._lock = (
            threading.Lock()
        )  # guards what follows: what each file said when it was understood, and why it is not now
        self._understood: dict[Path | None, HostsFile] = {}
        self._problems: dict[Path | None, str] = {}
        self._directory = directory
        self._notices = Notices(logger)

    def read(self, host: str) -> HostsFile:
        """What the directory about `host` says. Raises InvalidRequest for a file that was never understood."""
        directory = self._directory_of(host)
        try:
            file = read_hosts(directory)
        except InvalidRequest as error:
            with self._lock:
                known = self._understood.get(directory)
                is_new = self._problems.get(directory) != error.message
                self._problems[directory] = error.message
            if known is None:
                raise
            if is_new:
                logger.warning("%s; what it said before counts", error.message)
            return known
        with self._lock:
            self._understood[directory] = file
            self._problems.pop(directory, None)
        for problem in file.unused:
            self._notices.warn_once(f"{directory}/hosts.toml: {problem}")
        return file

    def server(self, host: str) -> Server:
        """What it says of the registry `host` itself. Raises as `read` does."""
        file = self.read(host)
        server = file.server
        itself = next((named.server for named in file.hosts if is_itself(named, host)), None)
        if itself is not None and (not server.url or server.url == itself.url):
            # [host."https://registry.example.com"] in the directory of that very registry.
            tls = itself.tls if itself.tls != TlsSettings() else server.tls
            authorization = itself.authorization or server.authorization
            server = Server(itself.url, tls, itself.headers or server.headers, authorization)
        if server.authorization and not server.url and not self.is_named(host):
            self._notices.warn_once(
                f"{self._directory}/{_DEFAULT_DIRECTORY}/hosts.toml: Authorization without `server` is not sent: any pod could "
                "name a registry of its own, which would get it"
            )
            server = replace(server, authorization="")
        return server

    def is_named(self, host: str) -> bool:
        """Whether the administrator named this very registry."""
        directory = self._directory_of(host)
        return directory is not None and directory.name != _DEFAULT_DIRECTORY

    def _directory_of(self, host: str) -> Path | None:
        """The directory about `host`: containerd's order, in which the first that exists is the only one read."""
        if self._directory is None:
            return None
        name, _, port = host.rpartition(":")
        names = [f"{name}_{port}_".replace(":", "")] if name and port.isdecimal() else []
        for candidate in (*names, host, _DEFAULT_DIRECTORY):
            if (self._directory / candidate).is_dir():
                return self._directory / candidate
        return None


def is_itself(named: NamedHost, host: str) -> bool:
    """Whether an entry is the registry itself rather than a mirror."""
    return urlsplit(named.server.url).netloc in {host, server_name(host)}


def server_name(host: str) -> str:
    """The server of a registry's name: Docker's hub has another one."""
    return _HUB_HOST if host == DOCKER_HUB else host
