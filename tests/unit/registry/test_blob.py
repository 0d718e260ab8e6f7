"""Blobs over real connections: ranges, lengths, cuts and redirects."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import (
    CorruptContent,
    Forbidden,
    ModelCsiError,
    NotFound,
    PolicyDenied,
    RegistryUnavailable,
    Unauthenticated,
)
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import EMPTY_BLOB
from modelcsi.oci.reference import Reference
from modelcsi.registry.client import BlobStream, Registry, Repository
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.unit.registry.conftest import ALICE, Authority, CannedServer, ClientFactory

_CONTENT = random.Random(1).randbytes(200_000)
_USERS = {"alice": User("s3cret")}


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry whose m/x holds one blob; a test enters it."""
    registry = FakeRegistry()
    registry.content.add_blob("m/x", _CONTENT)
    return registry


@pytest.fixture
def blob(registry: FakeRegistry) -> Descriptor:
    """That blob."""
    return registry.content.add_blob("m/x", _CONTENT)


def _read(stream: BlobStream, size: int = 70_000) -> bytes:
    with stream:
        pieces = []
        while piece := stream.read(size):
            assert len(piece) <= size
            pieces.append(piece)
        assert stream.read(size) == b""
        return b"".join(pieces)


@pytest.mark.parametrize(
    ("start", "end", "range_header"),
    [
        (0, None, None),
        (100, None, "bytes=100-199999"),
        (0, 100, "bytes=0-99"),
        (100, 101, "bytes=100-100"),
        (199_999, 200_000, "bytes=199999-199999"),
    ],
)
@pytest.mark.parametrize("ignores_ranges", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_exactly_the_asked_bytes_come(
    start: int,
    end: int | None,
    range_header: str | None,
    ignores_ranges: bool,
    chunked: bool,
    registry: FakeRegistry,
    blob: Descriptor,
    client: ClientFactory,
) -> None:
    """Also from a server that ignores Range, which the stream says, and from one that tells no length."""
    registry.faults.ignores_ranges = ignores_ranges
    registry.faults.chunked = chunked
    with registry:
        stream = client(f"{registry.host}/m/x").open_blob(blob, start, end)
        found = _read(stream)

    assert _CONTENT[start:end] == found
    assert (not ignores_ranges or range_header is None) == stream.honours_ranges
    assert range_header == registry.seen[-1].headers.get("range")


def test_nothing_is_asked_for_no_bytes(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """An empty blob, and what is already complete."""
    with registry:
        repository = client(f"{registry.host}/m/x")
        found = [_read(repository.open_blob(blob, blob.size)), _read(repository.open_blob(Descriptor("", EMPTY_BLOB, 0)))]

    assert [b"", b""] == found
    assert [] == registry.seen


@pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 4), (0, 200_001)])
def test_a_range_outside_the_blob_is_a_bug(start: int, end: int | None, blob: Descriptor, client: ClientFactory) -> None:
    """It is told before anything is sent."""
    with pytest.raises(ValueError, match="of a blob of 200000"):
        client("127.0.0.1:1/m/x").open_blob(blob, start, end)


@pytest.mark.parametrize("start", [0, 1000])
@pytest.mark.parametrize("resized", [-500, 500])
@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_another_length_is_corrupt_before_a_byte_is_read(
    resized: int, start: int, ignores_ranges: bool, registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """The registry's length and the manifest's disagree: no byte of it can be right."""
    registry.faults.resize[str(blob.digest)] = resized
    registry.faults.ignores_ranges = ignores_ranges
    with registry, pytest.raises(CorruptContent, match=f"{blob.digest} of {registry.host}/m/x"):
        client(f"{registry.host}/m/x").open_blob(blob, start)


def test_a_range_beyond_a_blob_that_is_too_short_is_corrupt(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """416 tells the registry's length."""
    registry.faults.resize[str(blob.digest)] = -500
    with registry, pytest.raises(CorruptContent, match="has 199500 bytes in the registry, and 200000 by its manifest"):
        client(f"{registry.host}/m/x").open_blob(blob, 199_900)


def test_a_body_without_length_that_goes_on_is_corrupt(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """It is read one byte further, not to its end."""
    registry.faults.resize[str(blob.digest)] = 500
    registry.faults.chunked = True
    with registry, pytest.raises(CorruptContent, match="is longer than the 200000 bytes"):
        _read(client(f"{registry.host}/m/x").open_blob(blob))


def test_a_body_without_length_that_ends_early_is_a_cut(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """What came can be used, the rest is asked for again."""
    registry.faults.resize[str(blob.digest)] = -500
    registry.faults.chunked = True
    with registry, pytest.raises(RegistryUnavailable, match="after 199500 of 200000 bytes"):
        _read(client(f"{registry.host}/m/x").open_blob(blob))


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-199899/200000", "bytes 100-199999/200001", "bytes 100-199998/200000", "bytes 100-200000/200001", "pages 1-2/3", "bytes */200000"],
)
def test_a_wrong_content_range_is_corrupt(content_range: str, registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """Other bytes would be written where these belong."""
    registry.faults.content_range = content_range
    with registry, pytest.raises(CorruptContent, match="Content-Range|and the registry sends"):
        client(f"{registry.host}/m/x").open_blob(blob, 100)


def test_a_total_that_is_not_told_is_fine(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """RFC 9110: an asterisk where the length is unknown."""
    registry.faults.content_range = "bytes 100-199999/*"
    with registry:
        assert _CONTENT[100:] == _read(client(f"{registry.host}/m/x").open_blob(blob, 100))


def test_a_shorter_range_than_asked_ends_early(blob: Descriptor, client: ClientFactory, canned: Callable[..., CannedServer]) -> None:
    """RFC 9110 allows it: the bytes are right, the rest is asked for again."""
    server = canned(b"", b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-4/200000\r\nContent-Length: 5\r\n\r\nhello")
    with client(f"{server.host}/m/x").open_blob(blob, 0, 100) as stream:
        first = stream.read(100)
        with pytest.raises(RegistryUnavailable, match="after 5 of 100 bytes"):
            stream.read(100)

    assert b"hello" == first


def test_a_range_that_nobody_asked_for_is_refused(blob: Descriptor, client: ClientFactory, canned: Callable[..., CannedServer]) -> None:
    """206 answers a Range only."""
    server = canned(b"", b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-4/200000\r\nContent-Length: 5\r\n\r\nhello")
    with pytest.raises(RegistryUnavailable, match="206"):
        client(f"{server.host}/m/x").open_blob(blob)


def _download(repository: Repository, blob: Descriptor) -> tuple[bytes, int]:
    """All of the blob, going on after each failure; and how many attempts that took."""
    content, attempts = b"", 0
    while len(content) < blob.size and attempts < 100:
        attempts += 1
        try:
            with repository.open_blob(blob, len(content)) as stream:
                while piece := stream.read(1 << 20):
                    content += piece
        except RegistryUnavailable:
            continue
    return content, attempts


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("cut_with_reset", [False, True])
def test_a_connection_cut_every_3_mb_costs_at_most_a_tenth_more(
    cut_with_reset: bool, secure: bool, authority: Authority
) -> None:
    """Of what arrived before a cut nothing is lost, by FIN or RST, whatever the size of the reads."""
    content = random.Random(2).randbytes(10_000_000)
    with FakeRegistry(tls=authority.server_context() if secure else None) as registry:
        blob = registry.content.add_blob("m/x", content)
        registry.faults.cut_every_bytes = 3_000_000
        registry.faults.cut_with_reset = cut_with_reset
        reference = Reference.parse(f"{registry.host}/m/x")
        found, attempts = _download(Registry(HttpTransport(ca_file=authority.ca), Hosts()).repository(reference, ALICE), blob)

    assert content == found
    assert attempts <= 5
    assert registry.bytes_served[str(blob.digest)] <= 11_000_000


@pytest.mark.parametrize(("status", "kind"), [(401, Unauthenticated), (403, Forbidden), (404, NotFound), (429, RegistryUnavailable), (500, RegistryUnavailable)])
def test_blobs_are_not_asked_again_here(
    status: int, kind: type[ModelCsiError], registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """The caller knows what it has, and when to come back."""
    registry.faults.fail_next(status, times=9, retry_after="7")
    with registry, pytest.raises(kind, match=f"blob {blob.digest} of {registry.host}/m/x") as caught:
        client(f"{registry.host}/m/x").open_blob(blob)

    assert 1 == registry.blob_gets[str(blob.digest)]
    assert kind is not RegistryUnavailable or 7.0 == getattr(caught.value, "retry_after_seconds", None)


@pytest.fixture
def storage(registry: FakeRegistry) -> FakeRegistry:
    """An object store on another address, to which the registry redirects once it is told to."""
    return FakeRegistry(address="127.0.0.2", content=registry.content)


def test_a_redirect_is_followed_with_the_range_and_without_authorization(
    registry: FakeRegistry, storage: FakeRegistry, blob: Descriptor, client: ClientFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """The store has a signed URL, which nobody else sees, and no password."""
    caplog.set_level(logging.DEBUG)
    registry.auth, registry.users = Auth.BASIC, _USERS
    with registry, storage:
        registry.faults.redirect_blobs_to = storage.url
        found = _read(client(f"{registry.host}/m/x", ALICE).open_blob(blob, 100))

    assert _CONTENT[100:] == found
    assert "bytes=100-199999" == storage.seen[0].headers["range"]
    assert FakeRegistry.SIGNATURE in storage.seen[0].path
    assert [] == storage.leaked("s3cret", "alice")
    assert FakeRegistry.SIGNATURE not in caplog.text


def test_another_port_of_the_same_address_is_another_origin(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """Scheme, host and port are compared."""
    registry.auth, registry.users = Auth.BASIC, _USERS
    with registry, FakeRegistry(content=registry.content) as neighbour:
        registry.faults.redirect_blobs_to = neighbour.url
        _read(client(f"{registry.host}/m/x", ALICE).open_blob(blob))

    assert [] == neighbour.leaked("s3cret", "alice")


@pytest.mark.parametrize("auth", [Auth.BASIC, Auth.BEARER])
def test_a_401_behind_a_redirect_is_never_answered(
    auth: Auth, registry: FakeRegistry, storage: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """A stranger who asks for credentials gets none, and no token is fetched from its realm."""
    storage.auth, storage.users = auth, _USERS
    registry.auth, registry.users = Auth.BASIC, _USERS
    with registry, storage:
        registry.faults.redirect_blobs_to = storage.url
        with pytest.raises(Unauthenticated, match=f"redirects blob .* to {storage.host}, which answers 401"):
            client(f"{registry.host}/m/x", ALICE).open_blob(blob)

    assert ["GET"] == [seen.method for seen in storage.seen]
    assert [] == storage.leaked("s3cret", "alice")


def test_an_expired_signature_is_asked_for_again_once(
    registry: FakeRegistry, storage: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """The redirect may come from a cache; the registry makes a new one."""
    storage.faults.fail_next(403)
    with registry, storage:
        registry.faults.redirect_blobs_to = storage.url
        found = _read(client(f"{registry.host}/m/x").open_blob(blob))

    assert _CONTENT == found
    assert 2 == registry.blob_gets[str(blob.digest)]


def test_a_store_that_refuses_every_signature_is_told(
    registry: FakeRegistry, storage: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """It is not the credentials' fault, and the signature is not shown."""
    storage.faults.fail_next(403, times=9)
    with registry, storage:
        registry.faults.redirect_blobs_to = storage.url
        with pytest.raises(RegistryUnavailable, match=f"to {storage.host}, which answers 403") as caught:
            client(f"{registry.host}/m/x").open_blob(blob)

    assert 2 == registry.blob_gets[str(blob.digest)]
    assert "Signature" not in str(caught.value)


def test_has_blob_asks_for_a_byte_where_a_redirect_refuses_head(
    registry: FakeRegistry, storage: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """A signature may be for GET only."""
    storage.faults.refuse_head = 403
    with registry, storage:
        registry.faults.redirect_blobs_to = storage.url
        assert client(f"{registry.host}/m/x").has_blob(blob.digest, Deadline.after(10))

    assert 1 == storage.bytes_served[str(blob.digest)]


def test_a_redirect_loop_ends_after_five(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """And says so."""
    registry.faults.redirect_loop = True
    with registry, pytest.raises(RegistryUnavailable, match="redirects more than 5 times"):
        client(f"{registry.host}/m/x").open_blob(blob)

    assert 6 == registry.blob_gets[str(blob.digest)]


def test_a_redirect_from_https_to_http_is_refused(
    registry: FakeRegistry, storage: FakeRegistry, blob: Descriptor, authority: Authority
) -> None:
    """Not a byte goes out in the clear."""
    secure = FakeRegistry(tls=authority.server_context(), content=registry.content)
    with secure, storage:
        secure.faults.redirect_blobs_to = storage.url
        repository = Registry(HttpTransport(ca_file=authority.ca), Hosts()).repository(
            Reference.parse(f"{secure.host}/m/x"), ALICE
        )
        with pytest.raises(PolicyDenied, match="redirects from https to http"):
            repository.open_blob(blob)

    assert [] == storage.seen


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "http://alice:pw@127.0.0.1/", "http://[/", "http://a:0/"])
def test_a_redirect_to_nowhere_is_the_registrys_fault(
    location: str, blob: Descriptor, client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """The location is not shown: it may be signed."""
    answer = f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {location}?X-Signature=1\r\n\r\n".encode()
    server = canned(b"", answer)
    with pytest.raises(RegistryUnavailable, match="redirects to something that is no URL") as caught:
        client(f"{server.host}/m/x").open_blob(blob)

    assert "Signature" not in str(caught.value)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_stalled_blob_goes_on_or_can_be_given_up(
    resumed: bool, registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """Closing a stream in the middle leaves the next one untouched."""
    registry.faults.stall_after_bytes = 50_000
    with registry:
        repository = client(f"{registry.host}/m/x")
        with repository.open_blob(blob) as stream:
            first = stream.read(50_000)
            if resumed:
                registry.faults.resume.set()
                first += _read(stream)
        registry.faults.stall_after_bytes = None
        registry.faults.resume.set()
        again = _read(repository.open_blob(blob))

    assert _CONTENT.startswith(first)
    assert _CONTENT == again


def test_a_corrupt_bit_passes_here(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """The digest is the business of whoever has all the bytes."""
    registry.faults.flip_bit_of.add(str(blob.digest))
    with registry:
        found = _read(client(f"{registry.host}/m/x").open_blob(blob))

    assert 1 == sum(left != right for left, right in zip(_CONTENT, found, strict=True))
