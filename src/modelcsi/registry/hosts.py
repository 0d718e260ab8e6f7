"""Which endpoints serve a registry's host, and how: scheme, TLS settings, path, headers.

The node's administrator decides, by containerd's hosts.toml (`hosts_toml.py`) or by `serverscheme` in the docker config; a pod
never does. Files are read again at each question.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from modelcsi.oci.reference import DOCKER_HUB
from modelcsi.registry.hosts_toml import HostsFile, NamedHost, Server, read_hosts
from modelcsi.registry.proxies import is_loopback
from modelcsi.registry.tls import TlsSettings

logger = logging.getLogger(__name__)

_HUB_HOST = "registry-1.docker.io"
_DEFAULT_DIRECTORY = "_default"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server of a registry's content."""

    url: str
    """Scheme, host and path up to and including `/v2`."""
    tls: TlsSettings = TlsSettings()
    may_be_plain: bool = False
    """Loopback of which nobody said how it speaks: when it does not answer as a TLS server, plain HTTP is right."""
    namespace: str = ""
    """The registry that a server of another name is asked for, as containerd tells it (`ns=`); empty where it is the same."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent to this server and to nobody it redirects to."""

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class Mirror:
    """A server beside the registry itself."""

    endpoint: Endpoint
    can_pull: bool = True
    """It serves content by digest."""
    can_resolve: bool = True
    """It tells what a tag means; it is asked only if it checks rights as well."""
    checks_rights: bool = False
    """The admin says that it gives a caller what the registry would give to that caller, and nothing else."""


class Hosts:
    """The endpoints of every host this node may ask."""

    def __init__(self, scheme: Callable[[str], str | None] = lambda _: None, directory: Path | None = None) -> None:
        """`scheme` is what the node's docker config says of a host (`Keychain.scheme`); `directory` holds the hosts.toml files."""
        self._lock = threading.Lock()  # guards _plain and _warned
        self._plain: set[str] = set()
        self._warned: set[str] = set()
        self._scheme = scheme
        self._directory = directory

    def origin(self, host: str) -> Endpoint:
        """The registry `host` itself, which checks everybody's rights.

        Raises InvalidRequest for a hosts.toml that cannot be understood.
        """
        return self._origin(host, self._read(host))

    def mirrors(self, host: str) -> tuple[Mirror, ...]:
        """Who else has content of `host`, in the order of its hosts.toml. Raises as `origin` does.

        Of `_default`, which is for registries that nobody named, only mirrors that check rights are told: whoever runs a
        registry of his own could have any other one's bytes handed out, since his registry says yes to everything.
        """
        file = self._read(host)
        origin = self._origin(host, file)
        mirrors = tuple(_mirror(named, host) for named in file.hosts if not _is_itself(named, host, file, origin))
        if self._is_named(host):
            return mirrors
        believed = tuple(mirror for mirror in mirrors if mirror.checks_rights)
        if len(believed) < len(mirrors):
            self._warn_once(
                _DEFAULT_DIRECTORY,
                "%s/_default/hosts.toml: mirrors that do not check rights are used only for registries that have a directory "
                "of their own",
                self._directory,
            )
        return believed

    def tls_of(self, host: str, origin: Endpoint) -> TlsSettings:
        """The TLS settings for a host that `origin` leads to (a token service, a redirect): its own, else the origin's roots."""
        if host == origin.host:
            return origin.tls
        own = self.origin(host).tls
        return own if own != TlsSettings() else origin.tls.for_another_host()

    def remember_plain(self, host: str) -> None:
        """`host` was found not to speak TLS."""
        with self._lock:
            self._plain.add(host)

    def forget(self, host: str) -> None:
        """A connection to `host` failed: what answers there next may be another program."""
        with self._lock:
            self._plain.discard(host)

    def _origin(self, host: str, file: HostsFile) -> Endpoint:
        server = file.server
        itself = next((named.server for named in file.hosts if _names(named, host)), None)
        if itself is not None and (not server.url or server.url == itself.url):
            # [host."https://registry.example.com"] in the directory of that very registry.
            tls = itself.tls if itself.tls != TlsSettings() else server.tls
            server = Server(itself.url, tls, itself.headers or server.headers)
        if not server.url:
            return self._default_endpoint(host, server)
        return _endpoint(server, host)

    def _default_endpoint(self, host: str, server: Server) -> Endpoint:
        scheme = self._scheme(host)
        loopback = is_loopback((urlsplit(f"//{host}").hostname or "").rstrip("."))
        with self._lock:
            is_plain = scheme == "http" or (scheme is None and loopback and host in self._plain)
        url = f"{'http' if is_plain else 'https'}://{_server_name(host)}/v2"
        may_be_plain = loopback and scheme is None and not is_plain
        return Endpoint(url, server.tls, may_be_plain=may_be_plain, headers=server.headers)

    def _read(self, host: str) -> HostsFile:
        directory = self._directory_of(host)
        file = read_hosts(directory)
        for problem in file.unused:
            self._warn_once(f"{directory}: {problem}", "%s/hosts.toml: %s", directory, problem)
        return file

    def _is_named(self, host: str) -> bool:
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

    def _warn_once(self, key: str, text: str, *arguments: object) -> None:
        with self._lock:
            if key in self._warned:
                return
            self._warned.add(key)
        logger.warning(text, *arguments)


def _mirror(named: NamedHost, host: str) -> Mirror:
    return Mirror(_endpoint(named.server, host), named.can_pull, named.can_resolve, named.checks_rights)


def _endpoint(server: Server, host: str) -> Endpoint:
    # containerd, core/remotes/docker/resolver.go, `isProxy`: a host of another name is told which registry is meant.
    is_another = urlsplit(server.url).netloc not in {host, _server_name(host)}
    return Endpoint(server.url, server.tls, namespace=host if is_another else "", headers=server.headers)


def _server_name(host: str) -> str:
    return _HUB_HOST if host == DOCKER_HUB else host


def _names(named: NamedHost, host: str) -> bool:
    """Whether an entry is the registry itself rather than a mirror."""
    return urlsplit(named.server.url).netloc in {host, _server_name(host)}


def _is_itself(named: NamedHost, host: str, file: HostsFile, origin: Endpoint) -> bool:
    return named.server.url == origin.url or (_names(named, host) and not file.server.url)
