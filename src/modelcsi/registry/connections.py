"""TCP and TLS connections for urllib3 that never reach a link-local address.

Cloud metadata services live there and hand out the node's identity (SSRF). A name is resolved once, and the connection goes
to the very address that was checked, so a name that changes its address in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from modelcsi.errors import PolicyDenied
from modelcsi.registry.framing import BoundedResponse

# Not link-local by its prefix, and yet a metadata service: AWS serves it at this address of the unique local range.
_EC2_METADATA = ipaddress.IPv6Address("fd00:ec2::254")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# With several addresses, one that does not answer (an IPv6 black hole) must leave time for the others. Guessed: room for
# two retransmissions of the SYN.
_ONE_OF_SEVERAL_SECONDS = 4.0


class HandshakeFailed(Exception):
    """The TCP connection stands, and TLS does not; the cause is the exception of the handshake. `transport` translates it."""


def is_link_local(address: str) -> bool:
    """Whether connecting to this IP address is refused, in whatever form an IPv4 address is wrapped."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_link_local or ip == _EC2_METADATA


def allowed_addresses(host: str, port: int, *, numeric_only: bool = False) -> tuple[str, ...]:
    """The addresses of `host` that may be contacted, in the resolver's order.

    `numeric_only` asks no name server: it understands every spelling of an address that the system does (octal, decimal).
    Raises PolicyDenied when all are refused, socket.gaierror when there are none.
    """
    flags = socket.AI_NUMERICHOST if numeric_only else 0
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=flags)
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = tuple(address for address in addresses if not is_link_local(address))
    if not allowed:
        raise PolicyDenied(
            f"{host} has the link-local address {addresses[0]}, which is never contacted",
            hint="metadata services live there; a registry needs another address",
        )
    return allowed


class CheckedHTTPConnection(HTTPConnection):
    """Connects to allowed addresses only, and reads bounded answers."""

    response_class = BoundedResponse

    def _new_conn(self) -> socket.socket:
        try:
            addresses = allowed_addresses(self._dns_host, self.port)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except UnicodeError as error:  # a label over 63 characters
            raise NameResolutionError(self.host, self, socket.gaierror(socket.EAI_NONAME, "not a host name")) from error
        for address in addresses[:-1]:
            try:
                return self._connect(address, min(self.timeout or _ONE_OF_SEVERAL_SECONDS, _ONE_OF_SEVERAL_SECONDS))
            except (ConnectTimeoutError, NewConnectionError):
                continue
        return self._connect(addresses[-1], self.timeout)

    def _connect(self, address: str, timeout_seconds: float | None) -> socket.socket:
        try:
            connected = create_connection(
                (address, self.port),
                timeout_seconds,
                source_address=self.source_address,
                socket_options=self.socket_options,
            )
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "timed out") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error
        connected.settimeout(self.timeout)
        return connected


class CheckedHTTPSConnection(CheckedHTTPConnection, HTTPSConnection):
    """The same with TLS on top; tells a failed handshake from a failed connection."""

    def connect(self) -> None:
        """Connect and shake hands."""
        try:
            super().connect()
        except (
            OSError
        ) as error:  # ssl.SSLError is one; a failed TCP connection is urllib3's NewConnectionError and is not
            if self.proxy is not None:  # urllib3 tells what failed, the proxy or the host behind it
                raise
            raise HandshakeFailed from error


class CheckedHTTPPool(HTTPConnectionPool):
    """A pool of such connections."""

    ConnectionCls = CheckedHTTPConnection


class CheckedHTTPSPool(HTTPSConnectionPool):
    """A pool of such connections."""

    ConnectionCls = CheckedHTTPSConnection
