"""Which HTTP proxy a request takes, by what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.

The rules are those of Go's httpproxy, which the container runtime of the same node follows: NO_PROXY by domain, address,
CIDR block and port, and never a proxy for loopback. Reading the variables is left to `config`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from modelcsi.errors import InvalidRequest

_DEFAULT_PORTS = {"http": 80, "https": 443}
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy; the password that its URL may carry is in no repr."""

    url: str
    """`scheme://host:port`."""
    credentials: str = field(default="", repr=False)
    """`user:password`, or empty."""


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The proxies of this process; the default uses none."""

    https: Proxy | None = None
    http: Proxy | None = None
    exceptions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, https: str = "", http: str = "", no_proxy: str = "") -> ProxySettings:
        """The settings in the values of HTTPS_PROXY, HTTP_PROXY and NO_PROXY, each of which may be empty.

        Raises InvalidRequest for a proxy that cannot be used.
        """
        return cls(
            https=_parse_proxy("HTTPS_PROXY", https),
            http=_parse_proxy("HTTP_PROXY", http),
            exceptions=tuple(part.strip().lower() for part in no_proxy.split(",") if part.strip()),
        )

    def proxy_for(self, url: SplitResult) -> Proxy | None:
        """The proxy for a request to `url`, or None to connect directly."""
        proxy = self.https if url.scheme == "https" else self.http
        host = (url.hostname or "").rstrip(".")
        if proxy is None or is_loopback(host):
            return None
        port = url.port or _DEFAULT_PORTS.get(url.scheme, 0)
        return None if any(_is_exempt(host, port, rule) for rule in self.exceptions) else proxy


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address, without port) is this machine by its very form; nothing is resolved."""
    address = as_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def as_address(host: str) -> IpAddress | None:
    """The IP address that `host` spells, or None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_exempt(host: str, port: int, rule: str) -> bool:
    if rule == "*":
        return True
    address = as_address(host)
    if "/" in rule:
        return address is not None and _is_in_network(address, rule)
    name, wanted_port = _split_port(rule)
    if wanted_port is not None and wanted_port != port:
        return False
    if address is not None:
        return as_address(name) == address
    # ".example.com" and "*.example.com" are the subdomains, "example.com" is itself and its subdomains.
    suffix = name.removeprefix("*")
    return host.endswith(suffix if suffix.startswith(".") else f".{suffix}") or host == suffix


def _split_port(rule: str) -> tuple[str, int | None]:
    name, colon, port = rule.rpartition(":")
    if not colon or not port.isdecimal() or (":" in name and not name.endswith("]")):
        return rule, None
    return name, int(port)


def _is_in_network(address: IpAddress, rule: str) -> bool:
    try:
        return address in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return False


def _parse_proxy(name: str, value: str) -> Proxy | None:
    if not value:
        return None
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:  # the text may carry a password: it appears neither in the message nor in the chain
        raise InvalidRequest(f"{name} is not the URL of a proxy", hint="write it as http://host:port") from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise InvalidRequest(f"{name} is not the URL of an HTTP proxy", hint="write it as http://host:port")
    shown = f"[{host}]" if ":" in host else host
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return Proxy(f"{parts.scheme}://{shown}:{port or _DEFAULT_PORTS[parts.scheme]}", user)
