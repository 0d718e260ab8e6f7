"""Which endpoints serve a registry's host, and how: scheme, TLS settings, path.

The node's administrator decides, by containerd's hosts.toml (docs/hosts.md there) or by `serverscheme` in the docker config;
a pod never does. Files are read again at each question. The mirrors that a hosts.toml names are not used yet: `endpoints`
returns a tuple so that they become its first elements.
"""

from __future__ import annotations

import logging
import threading
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import DOCKER_HUB
from modelcsi.registry.proxies import is_loopback
from modelcsi.registry.tls import TlsSettings

logger = logging.getLogger(__name__)

_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server of a registry's content."""

    url: str
    """Scheme, host and path up to and including `/v2`."""
    tls: TlsSettings = TlsSettings()
    may_be_plain: bool = False
    """Loopback of which nobody said how it speaks: when it does not answer as a TLS server, plain HTTP is right."""

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc


class Hosts:
    """The endpoints of every host this node may ask."""

    def __init__(self, scheme: Callable[[str], str | None] = lambda _: None, directory: Path | None = None) -> None:
        """`scheme` is what the node's docker config says of a host (`Keychain.scheme`); `directory` holds the hosts.toml files."""
        self._lock = threading.Lock()  # guards _plain and _warned
        self._plain: set[str] = set()
        self._warned: set[str] = set()
        self._scheme = scheme
        self._directory = directory

    def endpoints(self, host: str) -> tuple[Endpoint, ...]:
        """Where to ask for the content of `host`, best first; never empty.

        Raises InvalidRequest for a hosts.toml that cannot be understood.
        """
        directory = self._directory_of(host)
        document = _read(directory)
        tls = _tls_settings(directory, document)
        self._warn_about_unused(host, directory, document)
        server = document.get("server")
        if isinstance(server, str) and server:
            keeps_path = document.get("override_path") is True
            return (Endpoint(_server_url(server, directory, keeps_path=keeps_path), tls),)
        return (self._default_endpoint(host, tls),)

    def tls_of(self, host: str, origin: Endpoint) -> TlsSettings:
        """The TLS settings for a host that `origin` leads to (a token service, a redirect): its own, else the origin's roots."""
        if host == origin.host:
            return origin.tls
        directory = self._directory_of(host)
        own = _tls_settings(directory, _read(directory))
        return own if own != TlsSettings() else origin.tls.for_another_host()

    def remember_plain(self, host: str) -> None:
        """`host` was found not to speak TLS."""
        with self._lock:
            self._plain.add(host)

    def forget(self, host: str) -> None:
        """A connection to `host` failed: what answers there next may be another program."""
        with self._lock:
            self._plain.discard(host)

    def _default_endpoint(self, host: str, tls: TlsSettings) -> Endpoint:
        scheme = self._scheme(host)
        loopback = is_loopback((urlsplit(f"//{host}").hostname or "").rstrip("."))
        with self._lock:
            is_plain = scheme == "http" or (scheme is None and loopback and host in self._plain)
        name = _HUB_HOST if host == DOCKER_HUB else host
        url = f"{'http' if is_plain else 'https'}://{name}/v2"
        return Endpoint(url, tls, may_be_plain=loopback and scheme is None and not is_plain)

    def _directory_of(self, host: str) -> Path | None:
        """The directory about `host`: containerd's order, in which the first that exists is the only one read."""
        if self._directory is None:
            return None
        name, _, port = host.rpartition(":")
        names = [f"{name}_{port}_".replace(":", "")] if name and port.isdecimal() else []
        for candidate in (*names, host, "_default"):
            if (self._directory / candidate).is_dir():
                return self._directory / candidate
        return None

    def _warn_about_unused(self, host: str, directory: Path | None, document: Mapping[str, Any]) -> None:
        unused = [key for key in ("host", "header", "skip_verify") if document.get(key)]
        with self._lock:
            if not unused or host in self._warned:
                return
            self._warned.add(host)
        texts = {
            "host": "its mirrors are not used, only the registry itself",
            "header": "its headers are not sent",
            "skip_verify": "skip_verify is refused: certificates are always verified; name the CA with `ca`",
        }
        for key in unused:
            logger.warning("%s/hosts.toml: %s", directory, texts[key])


def _read(directory: Path | None) -> Mapping[str, Any]:
    if directory is None:
        return {}
    path = directory / "hosts.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError
        raise InvalidRequest(f"{path} is not TOML: {error}") from error


def _server_url(server: str, directory: Path | None, *, keeps_path: bool) -> str:
    try:
        parts = urlsplit(server if "://" in server else f"https://{server}")
        usable = (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise InvalidRequest(f"{directory}/hosts.toml: server is not the URL of a registry")
    path = parts.path.rstrip("/")
    if not keeps_path and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _tls_settings(directory: Path | None, document: Mapping[str, Any]) -> TlsSettings:
    if directory is None:
        return TlsSettings()
    if not document:  # containerd: without a hosts.toml the certificates lie in the directory itself
        authorities = tuple(sorted(directory.glob("*.crt")))
        pairs = tuple((path, path.with_suffix(".key")) for path in sorted(directory.glob("*.cert")))
        return TlsSettings(authorities, pairs)
    return TlsSettings(
        tuple(directory / name for name in _strings(document.get("ca"), directory, "ca")),
        tuple(_client_pairs(document.get("client"), directory)),
    )


def _strings(value: object, directory: Path, key: str) -> tuple[str, ...]:
    """A key that is a string or a list of them."""
    values = [value] if isinstance(value, str) else value
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise InvalidRequest(f"{directory}/hosts.toml: {key} is neither a file name nor a list of them")
    return tuple(values)


def _client_pairs(value: object, directory: Path) -> Iterable[tuple[Path, Path | None]]:
    """`client` is a file with certificate and key, a list of such files, or a list of [certificate, key]."""
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        names = _strings(item, directory, "client")
        if len(names) not in {1, 2}:
            raise InvalidRequest(f"{directory}/hosts.toml: client needs a certificate and its key")
        yield directory / names[0], directory / names[1] if len(names) == 2 and names[1] else None
