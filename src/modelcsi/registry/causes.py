"""What went wrong on the wire, in words that a person who reads `kubectl describe pod` understands.

Only `transport` calls this. The texts name host and cause; URLs stay out of them, since their queries may be signatures.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl

from urllib3 import exceptions as urllib3_errors

from modelcsi.errors import RegistryUnavailable
from modelcsi.registry.connections import HandshakeFailed
from modelcsi.registry.framing import EndlessFraming

_CA_HINT = "add the registry's CA: `ca` in its hosts.toml, or SSL_CERT_FILE; the certificate must name the host"
_NOT_TLS_HINT = "is it plain HTTP? then say so on the node: serverscheme in the docker config, or a hosts.toml"
_NOT_TLS_REASONS = frozenset(
    {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
)
_ERRNO_TEXTS = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ECONNRESET: "cut the connection",
    errno.EPIPE: "cut the connection",
    errno.EHOSTUNREACH: "cannot be reached: no route to the host",
    errno.ENETUNREACH: "cannot be reached: no route to its network",
}
_CHAIN_DEPTH = 6


class NotTls(RegistryUnavailable):
    """What answered the TLS handshake does not speak TLS: `hosts` may allow plain HTTP there."""


def explain(error: Exception, where: str, seconds: tuple[float, float], proxy: str) -> RegistryUnavailable:
    """The failure `error` of a request to `where` (host and port), with its timeouts (connect, stall), through `proxy`."""
    root = _root(error)
    # 1. the certificate; 2. another failure of TLS; 3. the proxy; 4. the name; 5. a timeout; 6. no end; 7. the connection.
    if isinstance(root, ssl.SSLCertVerificationError):
        reason = (root.verify_message or str(root))[:200].rstrip(".")
        return RegistryUnavailable(f"the certificate of {where} is not trusted: {reason}", hint=_CA_HINT)
    if isinstance(error, HandshakeFailed):
        return _explain_handshake(root, where)
    if isinstance(error, urllib3_errors.ProxyError):
        return RegistryUnavailable(
            f"the proxy {proxy} does not lead to {where}: {_proxy_reason(root)}", hint="see HTTPS_PROXY and NO_PROXY"
        )
    if isinstance(error, urllib3_errors.NameResolutionError):
        return _explain_name(root, where)
    if isinstance(error, urllib3_errors.ReadTimeoutError):
        return RegistryUnavailable(f"{where} sent nothing for {seconds[1]:.3g} s")
    if isinstance(root, TimeoutError):
        return RegistryUnavailable(
            f"the connection to {where} timed out after {seconds[0]:.3g} s", hint="is a firewall in between?"
        )
    if isinstance(root, EndlessFraming):
        return RegistryUnavailable(f"{where} {root}")
    return RegistryUnavailable(f"{where} {_connection_text(error, root)}")


def _root(error: BaseException) -> BaseException:
    """The innermost exception that says more than urllib3's wrapper around it."""
    for _ in range(_CHAIN_DEPTH):
        inner = error.__cause__ or next((item for item in reversed(error.args) if isinstance(item, Exception)), None)
        if inner is None or inner is error:
            break
        error = inner
    return error


def _explain_handshake(root: BaseException, where: str) -> RegistryUnavailable:
    reason = (getattr(root, "reason", None) or "").upper().replace(" ", "_")
    # A plain server answers the ClientHello with text, closes the connection, or goes on waiting for a line's end. A busy TLS
    # server waits as well, so that waiting is worth the hint and proves nothing.
    silent = isinstance(root, ConnectionResetError | ssl.SSLEOFError | ssl.SSLZeroReturnError)
    if isinstance(root, TimeoutError):
        return RegistryUnavailable(f"{where} does not end the TLS handshake in time", hint=_NOT_TLS_HINT)
    if silent or reason in _NOT_TLS_REASONS:
        return NotTls(f"{where} does not answer as a TLS server", hint=_NOT_TLS_HINT)
    return RegistryUnavailable(f"no TLS connection to {where}: {reason or type(root).__name__}")


def _explain_name(root: BaseException, where: str) -> RegistryUnavailable:
    if isinstance(root, socket.gaierror) and root.errno == socket.EAI_AGAIN:
        return RegistryUnavailable(f"the name of {where} cannot be resolved now: no name server answers")
    return RegistryUnavailable(f"the name of {where} is not found", hint="check the reference and the node's DNS")


def _proxy_reason(root: BaseException) -> str:
    if isinstance(root, OSError) and root.errno in _ERRNO_TEXTS:
        return f"it {_ERRNO_TEXTS[root.errno]}"
    if isinstance(root, TimeoutError):
        return "it does not answer"
    return "".join(character if " " <= character <= "~" else "?" for character in str(root)[:200])


def _connection_text(error: Exception, root: BaseException) -> str:
    if isinstance(root, OSError) and root.errno in _ERRNO_TEXTS:
        return _ERRNO_TEXTS[root.errno]
    if isinstance(root, urllib3_errors.IncompleteRead | http.client.IncompleteRead):
        return "closed the connection in the middle of its answer"
    if isinstance(root, http.client.RemoteDisconnected | ssl.SSLEOFError):
        return "closed the connection without an answer"
    if isinstance(root, http.client.HTTPException | urllib3_errors.HTTPError) or isinstance(
        error, urllib3_errors.HTTPError
    ):
        return f"does not speak proper HTTP ({type(root).__name__})"
    return f"cannot be reached ({type(root).__name__})"
