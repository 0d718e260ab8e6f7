"""TLS contexts: which roots are trusted for a host, and which client certificate is shown to it.

Verification cannot be switched off here: a registry with a private CA is configured with that CA.
"""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from modelcsi.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What a host needs beyond the system's roots."""

    ca_files: tuple[Path, ...] = ()
    """Merged with the system's roots, never instead of them: a redirect may lead to a public object store."""
    client_pairs: tuple[tuple[Path, Path | None], ...] = ()
    """Certificate and key; a key of None is in the certificate's file."""

    def for_another_host(self) -> TlsSettings:
        """The same roots without the client certificates: those are shown to the host they were configured for only."""
        return TlsSettings(self.ca_files)

    def files(self) -> tuple[Path, ...]:
        """Every file a context is made of."""
        pairs = tuple(path for pair in self.client_pairs for path in pair if path is not None)
        return self.ca_files + pairs


_Stamp = tuple[tuple[Path, int, int], ...]


class TlsContexts:
    """Contexts by settings; a context is built again when one of its files has changed (a renewed certificate)."""

    def __init__(self, ca_file: Path | None = None) -> None:
        """`ca_file` (SSL_CERT_FILE) is trusted instead of the system's roots."""
        self._lock = threading.Lock()  # guards _contexts
        self._contexts: dict[TlsSettings, tuple[_Stamp, ssl.SSLContext]] = {}
        self._ca_file = ca_file

    def context(self, settings: TlsSettings) -> ssl.SSLContext:
        """The context for these settings, the same object as before while the files are the same.

        Raises InvalidRequest when a file cannot be used.
        """
        ca_files = settings.ca_files if self._ca_file is None else (self._ca_file, *settings.ca_files)
        wanted = TlsSettings(ca_files, settings.client_pairs)
        stamp = _stamp(wanted)
        with self._lock:
            known = self._contexts.get(settings)
        if known is not None and known[0] == stamp:
            return known[1]
        context = _build(wanted, has_system_roots=self._ca_file is None)
        with self._lock:
            self._contexts[settings] = (stamp, context)
        return context


def _stamp(settings: TlsSettings) -> _Stamp:
    stamps = []
    for path in settings.files():
        try:
            status = path.stat()
        except OSError as error:
            raise InvalidRequest(f"the certificate file {path} cannot be read: {error.strerror}") from error
        stamps.append((path, status.st_mtime_ns, status.st_size))
    return tuple(stamps)


def _build(settings: TlsSettings, *, has_system_roots: bool) -> ssl.SSLContext:
    # Not create_default_context(): it reads SSLKEYLOGFILE, and its flags differ between Python 3.11 and 3.13.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    # 3.13 sets STRICT, which refuses private CAs without key identifiers. PARTIAL_CHAIN trusts an intermediate or the
    # server's own certificate when it is given as the CA, as Go does, so that a `ca` file of containerd works here.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if has_system_roots:
        context.load_default_certs()
    for path in settings.ca_files:
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise InvalidRequest(f"{path} holds no certificate of a CA in PEM form") from error
    for certificate, key in settings.client_pairs:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"{certificate} and its key are not a usable client certificate") from error
    return context


def _no_password() -> str:
    """An encrypted key is an error: OpenSSL would ask for its password on a terminal."""
    raise ValueError("the key is encrypted")
