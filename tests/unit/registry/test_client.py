from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, Forbidden, ModelCsiError, NotFound, RegistryUnavailable, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import EMPTY_BLOB, Digest
from modelcsi.oci.manifest import MAX_MANIFEST_BYTES, OCI_MANIFEST
from modelcsi.oci.reference import Reference
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Credentials
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.unit.registry.conftest import ALICE, Authority, CannedServer, ClientFactory


def _soon() -> Deadline:
    return Deadline.after(10)


def _briefly() -> Deadline:
    """Time for two attempts, and not for the pause before a third."""
    return Deadline.after(0.55)


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry for everybody with m/x:v1; a test enters it."""
    registry = FakeRegistry()
    registry.content.push("m/x", "v1", {"a": b"hello"})
    return registry


@pytest.mark.parametrize("tells_digest", [True, False])
@pytest.mark.parametrize("by_digest", [True, False])
def test_a_manifest_is_resolved_by_tag_and_by_digest(
    by_digest: bool, tells_digest: bool, registry: FakeRegistry, client: ClientFactory
) -> None:
    """Its digest is that of the raw bytes; Docker-Content-Digest may be absent."""
    digest = registry.content.push("m/x", "v1", {"a": b"hello"})
    registry.faults.tells_digest = tells_digest
    with registry:
        found = client(f"{registry.host}/m/x:v1").resolve(str(digest) if by_digest else "v1", _soon())

    assert digest == found.digest
    assert digest == Digest.of(found.content)
    assert OCI_MANIFEST == found.media_type


def test_every_manifest_type_is_accepted(registry: FakeRegistry, client: ClientFactory) -> None:
    """Registries convert, or refuse, what is not asked for."""
    with registry:
        client(f"{registry.host}/m/x:v1").resolve("v1", _soon())
    accept = registry.seen[-1].headers["accept"]

    assert OCI_MANIFEST in accept
    assert "application/vnd.docker.distribution.manifest.list.v2+json" in accept


def test_an_absent_tag_is_not_found(registry: FakeRegistry, client: ClientFactory) -> None:
    """The message has the full reference and the registry's own words, and there is one request."""
    with (
        registry,
        pytest.raises(NotFound, match=rf"{registry.host}/m/x:v2 does not exist .*MANIFEST_UNKNOWN: manifest unknown"),
    ):
        client(f"{registry.host}/m/x:v2").resolve("v2", _soon())

    assert 1 == registry.manifest_requests


def test_a_repository_that_is_not_theirs_is_forbidden(registry: FakeRegistry, client: ClientFactory) -> None:
    """403 is about rights, and names whose."""
    registry.auth = Auth.BASIC
    registry.users = {"alice": User("s3cret", frozenset())}
    with registry, pytest.raises(Forbidden, match=r"with the credentials of the volume's secret \(403\): DENIED"):
        client(f"{registry.host}/m/x:v1", ALICE).resolve("v1", _soon())


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_asked_again(status: int, registry: FakeRegistry, client: ClientFactory) -> None:
    """Quickly, and nobody notices."""
    registry.faults.fail_next(status)
    with registry:
        client(f"{registry.host}/m/x:v1").resolve("v1", _soon())

    assert 2 == registry.manifest_requests


def test_a_lasting_failure_is_told(registry: FakeRegistry, client: ClientFactory) -> None:
    """Reference, host, status and the registry's words."""
    registry.faults.fail_next(503, times=9)
    with (
        registry,
        pytest.raises(RegistryUnavailable, match=rf"{registry.host}/m/x:v1 \(503\): FAULT: switched on") as caught,
    ):
        client(f"{registry.host}/m/x:v1").resolve("v1", _soon())

    assert 3 == registry.manifest_requests
    assert caught.value.retry_after_seconds is None


def test_a_short_retry_after_is_waited_for(registry: FakeRegistry, client: ClientFactory) -> None:
    """When it fits the deadline."""
    registry.faults.fail_next(429, retry_after="1")
    deadline = _soon()
    with registry:
        client(f"{registry.host}/m/x:v1").resolve("v1", deadline)

    assert deadline.remaining_seconds() < 9


@pytest.mark.parametrize(("seconds", "left"), [("3600", 10.0), ("5", 3.0)])
def test_a_long_retry_after_is_the_callers_to_wait_for(
    seconds: str, left: float, registry: FakeRegistry, client: ClientFactory
) -> None:
    """It is told with the error, at once."""
    registry.faults.fail_next(429, times=9, retry_after=seconds)
    with registry, pytest.raises(RegistryUnavailable, match=f"come back in {seconds} s") as caught:
        client(f"{registry.host}/m/x:v1").resolve("v1", Deadline.after(left))

    assert float(seconds) == caught.value.retry_after_seconds
    assert 1 == registry.manifest_requests


def test_nothing_is_asked_after_the_deadline(registry: FakeRegistry, client: ClientFactory) -> None:
    """The answer would be worth nothing."""
    with registry, pytest.raises(RegistryUnavailable, match="no time was left"):
        client(f"{registry.host}/m/x:v1").resolve("v1", Deadline.after(0))

    assert [] == registry.seen


def test_a_registry_that_is_down_is_told_with_the_reference(client: ClientFactory) -> None:
    """What was wanted, from whom, and why it failed."""
    with FakeRegistry() as registry:
        host = registry.host
    with pytest.raises(RegistryUnavailable) as caught:
        client(f"{host}/m/x:v1").resolve("v1", _briefly())

    assert f"cannot fetch {host}/m/x:v1: {host} refused the connection" == caught.value.message


@pytest.mark.parametrize("by_digest", [True, False])
def test_a_manifest_that_is_not_its_digest_is_corrupt_after_three_attempts(
    by_digest: bool, registry: FakeRegistry, client: ClientFactory
) -> None:
    """By digest it is compared with what was asked, by tag with what the header says."""
    digest = registry.content.push("m/x", "v1", {"a": b"hello"})
    registry.faults.manifest_bytes = b'{"schemaVersion":2}'
    with registry, pytest.raises(CorruptContent, match=f"not {digest}"):
        client(f"{registry.host}/m/x:v1").resolve(str(digest) if by_digest else "v1", _soon())

    assert 3 == registry.manifest_requests


@pytest.mark.parametrize("content", [b"", b" " * (MAX_MANIFEST_BYTES + 1)])
def test_a_manifest_has_a_limit(content: bytes, registry: FakeRegistry, client: ClientFactory) -> None:
    """It is not read beyond it."""
    registry.faults.manifest_bytes = content
    with registry, pytest.raises(UnsupportedArtifact, match="is empty or has over 4194304 bytes"):
        client(f"{registry.host}/m/x:v1").resolve("v1", _soon())


def test_check_is_a_head(registry: FakeRegistry, client: ClientFactory) -> None:
    """Docker's hub counts GETs only."""
    digest = registry.content.push("m/x", "v1", {"a": b"hello"})
    with registry:
        found = client(f"{registry.host}/m/x:v1").check("v1", _soon())

    assert digest == found
    assert (1, 0) == (registry.manifest_heads, registry.manifest_requests)


def test_check_shows_nothing_where_head_is_refused(registry: FakeRegistry, client: ClientFactory) -> None:
    """405 is about the method, not about the manifest: a GET will tell."""
    registry.faults.refuse_head = 405
    with registry:
        assert client(f"{registry.host}/m/x:v1").check("v1", _soon()) is None


@pytest.mark.parametrize("by_digest", [True, False])
def test_check_shows_nothing_without_a_digest(by_digest: bool, registry: FakeRegistry, client: ClientFactory) -> None:
    """A login page answers 200 too."""
    digest = registry.content.push("m/x", "v1", {"a": b"hello"})
    registry.faults.tells_digest = False
    with registry:
        assert client(f"{registry.host}/m/x:v1").check(str(digest) if by_digest else "v1", _soon()) is None


def test_check_shows_nothing_when_another_digest_is_told(registry: FakeRegistry, client: ClientFactory) -> None:
    """What was asked for by digest is that, or nothing."""
    with registry:
        asked, other = Digest.of(b"asked"), registry.content.manifests["m/x"]["v1"]
        registry.content.manifests["m/x"][str(asked)] = other
        assert client(f"{registry.host}/m/x:v1").check(str(asked), _soon()) is None


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
def test_check_shows_nothing_after_a_redirect_to_another_host(
    status: str, client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """Whatever that one says: it did not check the credentials, which it was not sent."""
    digest = Digest.of(b"{}")
    told = f"HTTP/1.1 {status}\r\nContent-Length: 2\r\nDocker-Content-Digest: {digest}\r\n\r\n".encode()
    other = canned(told)
    location = f"http://{other.host}/login"
    server = canned(b"", f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n".encode())

    assert client(f"{server.host}/m/x:v1").check(str(digest), _soon()) is None
    assert other.received


@pytest.mark.parametrize(("target", "kind"), [("v2", NotFound), ("v1", Forbidden)])
def test_check_fails_as_resolve_does(
    target: str, kind: type[ModelCsiError], registry: FakeRegistry, client: ClientFactory
) -> None:
    """A HEAD has no body to quote, and the same status."""
    if kind is Forbidden:
        registry.auth = Auth.BASIC
        registry.users = {"alice": User("s3cret", frozenset())}
    with registry, pytest.raises(kind, match=f"{registry.host}/m/x:{target}"):
        client(f"{registry.host}/m/x:{target}", ALICE if kind is Forbidden else Credentials()).check(target, _soon())


def test_has_blob_is_answered_for_the_blob_itself(registry: FakeRegistry, client: ClientFactory) -> None:
    """Present here, absent in another repository of the same registry."""
    blob = registry.content.add_blob("m/x", b"weights")
    with registry:
        here = client(f"{registry.host}/m/x").has_blob(blob, _soon())
        there = client(f"{registry.host}/m/y").has_blob(blob, _soon())

    assert (True, False) == (here, there)
    assert {} == dict(registry.bytes_served)


@pytest.mark.parametrize("status", [401, 403, 405])
def test_has_blob_asks_for_a_byte_where_head_is_refused(
    status: int, registry: FakeRegistry, client: ClientFactory
) -> None:
    """public.ecr.aws answers 401 to a HEAD of a blob that it serves."""
    blob = registry.content.add_blob("m/x", b"weights")
    absent = Descriptor("m", Digest.of(b"absent"), 6)
    registry.faults.refuse_head = status
    with registry:
        repository = client(f"{registry.host}/m/x")
        found = repository.has_blob(blob, _soon()), repository.has_blob(absent, _soon())

    assert (True, False) == found
    assert 1 == registry.bytes_served[str(blob.digest)]


@pytest.mark.parametrize("answer", ["200 OK\r\nContent-Length: 5", "200 OK\r\nTransfer-Encoding: chunked"])
@pytest.mark.parametrize("is_redirected", [True, False])
def test_a_login_page_is_no_blob(
    is_redirected: bool, answer: str, client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """It answers 200 to everything, and has another length."""
    page = f"HTTP/1.1 {answer}\r\n\r\n".encode()
    location = f"http://{canned(page).host}/login"
    redirect = f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n".encode()
    server = canned(b"", redirect if is_redirected else page)

    assert not client(f"{server.host}/m/x").has_blob(Descriptor("m", Digest.of(b"weights"), 7), _soon())


@pytest.mark.parametrize(
    ("range_answer", "expected"),
    [
        ("206 Partial Content\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/7", True),
        ("206 Partial Content\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/*", False),
        ("206 Partial Content\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/8", False),
        ("206 Partial Content\r\nContent-Length: 1", False),
        ("200 OK\r\nContent-Length: 7", True),
        ("200 OK\r\nContent-Length: 8", False),
    ],
)
def test_a_byte_of_a_blob_is_of_one_with_its_size(
    range_answer: str, expected: bool, client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """Where HEAD tells no length."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    server = canned(b"", head, f"HTTP/1.1 {range_answer}\r\n\r\n1".encode())
    blob = Descriptor("m", Digest.of(b"weights"), 7)

    assert expected is client(f"{server.host}/m/x").has_blob(blob, _soon())


def test_a_manifest_that_drips_ends_with_the_deadline(client: ClientFactory, dripping: Callable[[bytes], str]) -> None:
    """Each byte comes before the read gives up; all of them together do not."""
    host = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable, match=f"{host}/m/x:v1 did not arrive in time"):
        client(f"{host}/m/x:v1").resolve("v1", Deadline.after(1))

    assert time.monotonic() - began < 5


def test_an_error_that_drips_is_told_without_its_text(client: ClientFactory, dripping: Callable[[bytes], str]) -> None:
    """The status is the news."""
    host = dripping(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10000\r\n\r\n")
    began = time.monotonic()
    with pytest.raises(Forbidden):
        client(f"{host}/m/x:v1").resolve("v1", Deadline.after(1))

    assert time.monotonic() - began < 5


def test_has_blob_without_the_right_is_an_error(registry: FakeRegistry, client: ClientFactory) -> None:
    """Refused is not absent."""
    blob = registry.content.add_blob("m/x", b"weights")
    registry.auth = Auth.BASIC
    registry.users = {"alice": User("s3cret", frozenset())}
    with registry, pytest.raises(Forbidden):
        client(f"{registry.host}/m/x", ALICE).has_blob(blob, _soon())


def test_the_empty_blob_is_everywhere(registry: FakeRegistry, client: ClientFactory) -> None:
    """Some registries refuse to store it; it tells nobody anything."""
    with registry:
        assert client(f"{registry.host}/m/x").has_blob(Descriptor("m", EMPTY_BLOB, 0), _soon())

    assert [] == registry.seen


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_a_plain_registry_on_loopback_needs_no_configuration(
    address: str, registry: FakeRegistry, client: ClientFactory
) -> None:
    """TLS is tried once, then it is known to be plain."""
    with registry:
        repository = client(f"{address}:{registry.host.partition(':')[2]}/m/x:v1")
        repository.resolve("v1", _soon())
        repository.resolve("v1", _soon())

    assert 2 == registry.connections


def test_a_tls_registry_on_loopback_is_verified(
    registry: FakeRegistry, authority: Authority, client: ClientFactory
) -> None:
    """An untrusted certificate is no reason to go on without TLS."""
    secure = FakeRegistry(tls=authority.server_context(), content=registry.content)
    with secure, pytest.raises(RegistryUnavailable, match="is not trusted"):
        client(f"{secure.host}/m/x:v1", ALICE).resolve("v1", _briefly())
    trusting = Registry(HttpTransport(ca_file=authority.ca), Hosts())
    with FakeRegistry(tls=authority.server_context(), content=registry.content) as secure:
        trusting.repository(Reference.parse(f"{secure.host}/m/x:v1"), ALICE).resolve("v1", _soon())

        assert [True] == ["authorization" not in seen.headers for seen in secure.seen]


def test_a_plain_registry_elsewhere_gets_no_request(registry: FakeRegistry, client: ClientFactory) -> None:
    """Where the node's configuration says https, nothing goes out in the clear."""
    strict = Registry(HttpTransport(), Hosts(lambda _: "https"))
    with registry, pytest.raises(RegistryUnavailable, match="does not answer as a TLS server") as caught:
        strict.repository(Reference.parse(f"{registry.host}/m/x:v1"), ALICE).resolve("v1", _briefly())

    assert "serverscheme" in caught.value.hint
    assert [] == registry.seen


def test_loopback_that_refuses_plain_http_is_asked_by_tls_again(registry: FakeRegistry) -> None:
    """A TLS server that cut a handshake once looked plain; many say 400 to plain HTTP."""
    hosts = Hosts()
    with registry:
        hosts.remember_plain(registry.host)
        registry.faults.fail_next(400, times=10)
        repository = Registry(HttpTransport(), hosts).repository(Reference.parse(f"{registry.host}/m/x:v1"), ALICE)
        with pytest.raises(RegistryUnavailable, match="does not serve"):
            repository.resolve("v1", _briefly())

    assert f"https://{registry.host}/v2" == hosts.origin(registry.host).url


def test_loopback_is_asked_by_tls_again_after_a_failure(registry: FakeRegistry) -> None:
    """What listens there next may speak TLS."""
    hosts = Hosts()
    with registry:
        repository = Registry(HttpTransport(), hosts).repository(Reference.parse(f"{registry.host}/m/x:v1"), ALICE)
        repository.resolve("v1", _soon())
        known = hosts.origin(registry.host).url
    with pytest.raises(RegistryUnavailable):
        repository.resolve("v1", _briefly())

    assert known.startswith("http://")
    assert hosts.origin(registry.host).url.startswith("https://")


def test_a_manifest_that_breaks_off_is_asked_again(client: ClientFactory, canned: Callable[..., CannedServer]) -> None:
    """A short answer is the connection's fault, not another digest."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    server = canned(b"", whole[:-1], whole)

    assert Digest.of(b"{}") == client(f"{server.host}/m/x:v1").resolve("v1", _soon()).digest


def test_a_repository_shows_no_secret() -> None:
    """Objects end up in logs."""
    repository = Registry(HttpTransport(), Hosts()).repository(Reference.parse("registry.example.com/m/x"), ALICE)

    assert "<Repository registry.example.com/m/x with the credentials of the volume's secret>" == repr(repository)
