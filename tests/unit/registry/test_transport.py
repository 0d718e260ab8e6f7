from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcsi.errors import CorruptContent, InvalidRequest, RegistryUnavailable
from modelcsi.registry.causes import NotTls
from modelcsi.registry.tls import TlsSettings
from modelcsi.registry.transport import HttpTransport, Request, Timeouts
from tests.fakes.registry import FakeRegistry
from tests.unit.registry.conftest import Authority, CannedServer, make_authority, refused_port

_QUICK, _PATIENT = Timeouts(0.3, 0.3), Timeouts()
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Canned = Callable[..., CannedServer]


def _ask(transport: HttpTransport, url: str, *authorities: Path, timeouts: Timeouts = _PATIENT) -> bytes:
    request = Request("GET", url, {"X-Test": "1"}, tls=TlsSettings(authorities), timeouts=timeouts)
    response = transport.request(request)
    try:
        return response.read(100)
    finally:
        response.close()


def _ask_all(transport: HttpTransport, url: str, timeouts: Timeouts = _PATIENT) -> None:
    response = transport.request(Request("GET", url, timeouts=timeouts))
    try:
        while response.read(100):
            pass
    finally:
        response.close()


def test_identity_is_asked_for_and_netrc_is_not_read(
    transport: HttpTransport, canned: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request carries its own headers, who asks, and that nothing may be compressed; ~/.netrc adds nothing."""
    (tmp_path / ".netrc").write_text("default login alice password s3cret\n", encoding="ascii")
    monkeypatch.setenv("HOME", str(tmp_path))
    server = canned(_OK)
    _ask(transport, f"http://{server.host}/v2/")
    received = server.received[0].decode().lower()

    assert "accept-encoding: identity\r\n" in received
    assert "user-agent: modelcsi\r\n" in received
    assert "x-test: 1\r\n" in received
    assert "authorization" not in received


def test_a_connection_is_used_again(transport: HttpTransport) -> None:
    """A pull of many layers does not pay a handshake for each."""
    with FakeRegistry() as registry:
        for _ in range(3):
            _ask(transport, f"{registry.url}/v2/")

        assert 1 == registry.connections


def test_an_answer_in_another_encoding_is_refused(transport: HttpTransport) -> None:
    """Decoding would change the digest, and a small answer could become a huge one."""
    with FakeRegistry() as registry:
        blob = registry.content.add_blob("m/x", b"weights")
        registry.faults.content_encoding = "gzip"
        with pytest.raises(CorruptContent, match="Content-Encoding 'gzip'"):
            _ask(transport, f"{registry.url}/v2/m/x/blobs/{blob.digest}")


@pytest.mark.parametrize(
    "headers", [b"A: " + b"x" * 40000 + b"\r\nB: " + b"x" * 40000, b"\r\n".join([b"A: 1"] * 200), b"A: " + b"x" * 70000]
)
def test_headers_are_bounded(headers: bytes, transport: HttpTransport, canned: Canned) -> None:
    """64 KiB of headers are too many, in whatever form."""
    server = canned(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n")
    with pytest.raises(RegistryUnavailable, match=re.escape(server.host)):
        _ask(transport, f"http://{server.host}/")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX-Pad: ",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1",
    ],
)
def test_a_head_that_trickles_has_an_end(
    head: bytes, transport: HttpTransport, dripping: Callable[[bytes], str]
) -> None:
    """A byte now and then meets every timeout of a read, and not that of the whole; sizes of chunks are like a head."""
    host = dripping(head)
    with pytest.raises(RegistryUnavailable, match=rf"{host} was not done with its headers after 0\.3 s"):
        _ask_all(transport, f"http://{host}/", _QUICK)


def test_interim_answers_have_an_end(transport: HttpTransport, canned: Canned) -> None:
    """Any number of 100 Continue may precede an answer, says RFC 9110; 64 KiB of them are too many."""
    server = canned(b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, hold=True)
    with pytest.raises(RegistryUnavailable, match="answers with over 65536 bytes of headers"):
        _ask(transport, f"http://{server.host}/")


def test_trailers_have_an_end(transport: HttpTransport, canned: Canned) -> None:
    """What follows the last chunk is bounded as what comes before the first."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = canned(head + b"2\r\nok\r\n0\r\n" + b"A: 1\r\n" * 20_000, hold=True)
    with pytest.raises(RegistryUnavailable, match="answers with over 65536 bytes of headers"):
        _ask_all(transport, f"http://{server.host}/")


def test_a_refused_connection_is_told(transport: HttpTransport) -> None:
    """Nothing listens there."""
    host = f"127.0.0.1:{refused_port()}"
    with pytest.raises(RegistryUnavailable) as caught:
        _ask(transport, f"http://{host}/")

    assert f"{host} refused the connection" == caught.value.message


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (socket.EAI_NONAME, "the name of absent.test:5000 is not found"),
        (socket.EAI_AGAIN, "the name of absent.test:5000 cannot be resolved now: no name server answers"),
    ],
)
def test_a_name_that_is_not_found_is_told(
    code: int, text: str, transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong name, and a name server that is away, are two things."""

    def absent(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "told by the test")

    monkeypatch.setattr(socket, "getaddrinfo", absent)
    with pytest.raises(RegistryUnavailable) as caught:
        _ask(transport, "http://absent.test:5000/")

    assert text == caught.value.message


def test_a_name_that_cannot_be_one_is_told(transport: HttpTransport) -> None:
    """A label over 63 characters is no name."""
    with pytest.raises(RegistryUnavailable, match="is not found"):
        _ask(transport, f"http://{'a' * 64}.test/")


def test_a_connection_that_is_never_made_times_out(transport: HttpTransport) -> None:
    """A full queue drops the SYN, as a firewall does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        with pytest.raises(RegistryUnavailable, match=rf"127\.0\.0\.1:{address[1]} timed out after 0\.3 s"):
            _ask(transport, f"http://127.0.0.1:{address[1]}/", timeouts=_QUICK)
        for one in waiting:
            one.close()


def test_a_server_that_says_nothing_is_a_stall(transport: HttpTransport, canned: Canned) -> None:
    """The connection stands and no byte comes."""
    server = canned(b"", hold=True)
    with pytest.raises(RegistryUnavailable, match=r"sent nothing for 0\.3 s"):
        _ask(transport, f"http://{server.host}/", timeouts=_QUICK)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak proper HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "does not speak proper HTTP"),
    ],
)
def test_an_answer_that_is_no_http_is_told(answer: bytes, text: str, transport: HttpTransport, canned: Canned) -> None:
    """Another program listens on that port."""
    server = canned(answer)
    with pytest.raises(RegistryUnavailable, match=text):
        _ask(transport, f"http://{server.host}/")


@pytest.mark.parametrize("head", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
def test_bytes_before_a_cut_are_returned_and_then_the_cut_is_told(
    head: bytes, transport: HttpTransport, canned: Canned
) -> None:
    """Nothing that arrived is lost: the next attempt goes on behind it."""
    body = b"5\r\nhello\r\n" if b"chunked" in head else b"hello"
    server = canned(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)
    response = transport.request(Request("GET", f"http://{server.host}/", timeouts=_QUICK))

    assert b"hello" == response.read(1 << 20)
    for _ in range(2):
        with pytest.raises(RegistryUnavailable, match="closed the connection in the middle of its answer"):
            response.read(1 << 20)


def test_a_stall_in_the_body_is_told_after_what_arrived(transport: HttpTransport, canned: Canned) -> None:
    """The stall limit counts from the last byte."""
    server = canned(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", hold=True)
    response = transport.request(Request("GET", f"http://{server.host}/", timeouts=_QUICK))

    assert b"hello" == response.read(10)
    with pytest.raises(RegistryUnavailable, match=r"sent nothing for 0\.3 s"):
        response.read(10)


def test_a_trickle_is_passed_on_before_the_read_is_full(transport: HttpTransport) -> None:
    """At 20 kB/s a read of 1 MiB would take a minute: progress must be seen earlier."""
    with FakeRegistry() as registry:
        blob = registry.content.add_blob("m/x", b"w" * 1_000_000)
        registry.faults.bytes_per_second = 20_000
        response = transport.request(Request("GET", f"{registry.url}/v2/m/x/blobs/{blob.digest}"))
        first = response.read(1 << 20)
        response.close()

    assert 0 < len(first) < 20_000


def test_closing_from_another_thread_ends_a_read_that_waits(transport: HttpTransport, canned: Canned) -> None:
    """A pull that nobody wants any more must not wait for the stall limit."""
    server = canned(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", hold=True)
    response = transport.request(Request("GET", f"http://{server.host}/", timeouts=Timeouts(5, 60)))
    failures: list[Exception] = []

    def read() -> None:
        try:
            response.read(10)
        except RegistryUnavailable as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    response.close()
    reader.join(10)

    assert 1 == len(failures)
    response.close()


def test_closing_from_another_thread_ends_a_read_over_tls(authority: Authority) -> None:
    """The same through TLS, in the middle of a body."""
    with FakeRegistry(tls=authority.server_context()) as registry:
        blob = registry.content.add_blob("m/x", b"w" * 1000)
        registry.faults.stall_after_bytes = 100
        transport = HttpTransport(ca_file=authority.ca)
        response = transport.request(Request("GET", f"{registry.url}/v2/m/x/blobs/{blob.digest}"))
        first = response.read(100)
        failures: list[Exception] = []

        def read() -> None:
            try:
                response.read(10)
            except RegistryUnavailable as error:
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        response.close()
        reader.join(10)
        transport.close()

    assert b"w" * 100 == first
    assert 1 == len(failures)


def test_an_untrusted_certificate_comes_with_a_hint(transport: HttpTransport, authority: Authority) -> None:
    """The message says what the verification said, the hint where a CA is configured."""
    untrusted = pytest.raises(RegistryUnavailable, match=r"the certificate of 127\.0\.0\.1:\d+ is not trusted")
    with FakeRegistry(tls=authority.server_context()) as registry, untrusted as caught:
        _ask(transport, f"{registry.url}/v2/")

    assert "hosts.toml" in caught.value.hint
    assert "SSL_CERT_FILE" in caught.value.hint


def test_a_certificate_for_another_name_is_not_trusted(transport: HttpTransport, authority: Authority) -> None:
    """The right CA is not enough."""
    untrusted = pytest.raises(RegistryUnavailable, match=r"is not trusted: .*127\.0\.0\.2")
    with FakeRegistry(tls=authority.server_context(), address="127.0.0.2") as registry, untrusted:
        _ask(transport, f"{registry.url}/v2/", authority.ca)


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_configured_ca_is_trusted(by_environment: bool, authority: Authority) -> None:
    """Of the host, or of the whole process."""
    transport = HttpTransport(ca_file=authority.ca if by_environment else None)
    with FakeRegistry(tls=authority.server_context()) as registry:
        body = _ask(transport, f"{registry.url}/v2/", *([] if by_environment else [authority.ca]))

    assert b"no such path" in body


def test_a_client_certificate_is_shown(authority: Authority, tmp_path: Path) -> None:
    """A server that wants one gets the pair that is configured for it."""
    client = make_authority(tmp_path)
    settings = TlsSettings((authority.ca,), ((client.certificate, client.key),))
    with FakeRegistry(tls=authority.server_context(client_ca=client.ca)) as registry:
        response = HttpTransport().request(Request("GET", f"{registry.url}/v2/", tls=settings))
        body = response.read(100)
        response.close()
        with pytest.raises(RegistryUnavailable):
            _ask(HttpTransport(), f"{registry.url}/v2/", authority.ca)

    assert b"no such path" in body


def test_a_server_of_old_tls_only_is_told(authority: Authority, transport: HttpTransport) -> None:
    """TLS 1.1 is not spoken; that is no reason to try plain HTTP."""
    context = authority.server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with FakeRegistry(tls=context) as registry, pytest.raises(RegistryUnavailable, match="no TLS connection") as caught:
        _ask(transport, f"{registry.url}/v2/", authority.ca)

    assert not isinstance(caught.value, NotTls)


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"", b"-ERR unknown command\r\n"])
def test_a_plain_server_is_told_from_a_failed_handshake(
    answer: bytes, transport: HttpTransport, canned: Canned
) -> None:
    """`hosts` may then allow plain HTTP; everybody else sees a hint."""
    server = canned(answer)
    with pytest.raises(NotTls) as caught:
        _ask(transport, f"https://{server.host}/")

    assert "serverscheme" in caught.value.hint


def test_a_handshake_that_waits_proves_nothing(transport: HttpTransport, canned: Canned) -> None:
    """A plain server may take the ClientHello for the beginning of a line, and a TLS server may be busy: the person decides."""
    server = canned(b"", hold=True)
    with pytest.raises(RegistryUnavailable, match="does not end the TLS handshake in time") as caught:
        _ask(transport, f"https://{server.host}/", timeouts=_QUICK)

    assert not isinstance(caught.value, NotTls)
    assert "serverscheme" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["ftp://host/", "http://", "http://user:hunter2@host/", "http://host:port/", "nonsense"]
)
def test_what_is_no_url_is_refused(url: str, transport: HttpTransport) -> None:
    """Nothing of it is shown: it may carry a password."""
    with pytest.raises(InvalidRequest) as caught:
        _ask(transport, url)

    assert "hunter2" not in str(caught.value)


def test_no_query_and_no_header_is_logged_or_shown(
    transport: HttpTransport, canned: Canned, caplog: pytest.LogCaptureFixture
) -> None:
    """urllib3 logs URLs at DEBUG; the query of a redirect is a credential."""
    caplog.set_level(logging.DEBUG)
    server = canned(_OK)
    request = Request("GET", f"http://{server.host}/?X-Signature=hunter2", {"Authorization": "Bearer hunter2"})
    response = transport.request(request)
    response.close()

    assert "hunter2" not in caplog.text
    assert "hunter2" not in repr(request)
    assert f"<Response 200 from {server.host}>" == repr(response)
