"""Which endpoints serve a registry's host, and how: scheme, TLS settings, path, headers.

The node's administrator decides, by containerd's hosts.toml (`hosts_toml.py`) or by `serverscheme` in the docker config; a pod
never does. Files are read again at each question.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from modelcsi.registry.hosts_files import HostsFiles, is_itself, server_name
from modelcsi.registry.hosts_toml import NamedHost, Server
from modelcsi.registry.notices import Notices
from modelcsi.registry.proxies import is_loopback
from modelcsi.registry.tls import TlsSettings

logger = logging.getLogger(__name__)


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
    """Sent to this server and to nobody it redirects to. The Authorization of the registry itself is not among them: it is a
    credential of the node's (`Keychain`).
    """

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

    def __init__(self, scheme: Callable[[str], str | None] = lambda _: None, files: HostsFiles | None = None) -> None:
        """`scheme` is what the node's docker config says of a host (`Keychain.scheme`)."""
        self._lock = threading.Lock()  # guards _plain
        self._plain: set[str] = set()
        self._scheme = scheme
        self._files = files or HostsFiles()
        self._notices = Notices(logger)

    def origin(self, host: str) -> Endpoint:
        """The registry `host` itself, which checks everybody's rights.

        Raises InvalidRequest for a hosts.toml that cannot be understood.
        """
        server = self._files.server(host)
        return _endpoint(server, host) if server.url else self._default_endpoint(host, server)

    def mirrors(self, host: str) -> tuple[Mirror, ...]:
        """Who else has content of `host`, in the order of its hosts.toml. Raises as `origin` does.

        Of `_default`, which is for registries that nobody named, only mirrors that check rights are told: whoever runs a
        registry of his own could have any other one's bytes handed out, since his registry says yes to everything.
        """
        file = self._files.read(host)
        origin = self.origin(host)
        others = (
            named
            for named in file.hosts
            if named.server.url != origin.url and (file.server.url or not is_itself(named, host))
        )
        mirrors = tuple(_mirror(named, host) for named in others)
        if self._files.is_named(host):
            return mirrors
        believed = tuple(mirror for mirror in mirrors if mirror.checks_rights)
        if len(believed) < len(mirrors):
            self._notices.warn_once(
                "mirrors of _default/hosts.toml that do not check rights are used only for registries that have a directory of "
                "their own"
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

    def _default_endpoint(self, host: str, server: Server) -> Endpoint:
        scheme = self._scheme(host)
        loopback = is_loopback((urlsplit(f"//{host}").hostname or "").rstrip("."))
        with self._lock:
            is_plain = scheme == "http" or (scheme is None and loopback and host in self._plain)
        url = f"{'http' if is_plain else 'https'}://{server_name(host)}/v2"
        may_be_plain = loopback and scheme is None and not is_plain
        return Endpoint(url, server.tls, may_be_plain=may_be_plain, headers=server.headers)


def _mirror(named: NamedHost, host: str) -> Mirror:
    server = named.server
    if server.authorization:
        server = replace(server, headers=(*server.headers, ("Authorization", server.authorization)))
    return Mirror(_endpoint(server, host), named.can_pull, named.can_resolve, named.checks_rights)


def _endpoint(server: Server, host: str) -> Endpoint:
    # containerd, core/remotes/docker/resolver.go, `isProxy`: a host of another name is told which registry is meant.
    is_another = urlsplit(server.url).netloc not in {host, server_name(host)}
    return Endpoint(server.url, server.tls, namespace=host if is_another else "", headers=server.headers)
