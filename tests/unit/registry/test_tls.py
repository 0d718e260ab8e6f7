from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest
from modelcsi.registry.tls import TlsContexts, TlsSettings
from tests.unit.registry.conftest import Authority, make_authority


def test_private_cas_without_key_identifiers_are_accepted() -> None:
    """Python 3.13's strict mode is off, the rest of the verification is on, and TLS is at least 1.2."""
    context = TlsContexts().context(TlsSettings())

    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.check_hostname
    assert ssl.CERT_REQUIRED == context.verify_mode
    assert ssl.TLSVersion.TLSv1_2 == context.minimum_version


def test_a_hosts_ca_is_added_to_the_system_roots(authority: Authority) -> None:
    """A redirect may lead from a private registry to a public object store."""
    contexts = TlsContexts()
    alone = contexts.context(TlsSettings()).cert_store_stats()["x509_ca"]

    merged = contexts.context(TlsSettings((authority.ca,))).cert_store_stats()["x509_ca"]

    assert alone + 1 == merged


def test_ssl_cert_file_replaces_the_system_roots(authority: Authority) -> None:
    """The file that the environment names is trusted, and nothing else."""
    context = TlsContexts(authority.ca).context(TlsSettings())

    assert 1 == context.cert_store_stats()["x509_ca"]


def test_a_context_is_kept_until_a_file_changes(authority: Authority, tmp_path: Path) -> None:
    """A renewed CA needs no restart."""
    settings, contexts = TlsSettings((tmp_path / "ca.crt",)), TlsContexts()
    settings.ca_files[0].write_bytes(authority.ca.read_bytes())
    first = contexts.context(settings)
    again = contexts.context(settings)
    settings.ca_files[0].write_bytes(make_authority(tmp_path).ca.read_bytes() + b"\n")

    assert first is again
    assert first is not contexts.context(settings)


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_an_unusable_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    """A CA file that is absent, empty or something else is an error with its path."""
    path = tmp_path / "broken.crt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequest) as caught:
        TlsContexts().context(TlsSettings((path,)))

    assert str(path) in caught.value.message


def test_client_certificates_are_not_shown_to_other_hosts(authority: Authority) -> None:
    """What is used for a redirect's host has the roots only."""
    settings = TlsSettings((authority.ca,), ((authority.certificate, authority.key),))

    assert TlsSettings((authority.ca,)) == settings.for_another_host()
