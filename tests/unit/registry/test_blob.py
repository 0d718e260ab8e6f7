"""Blobs over real connections: ranges, lengths and cuts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelcsi.errors import (
    CorruptContent,
    Forbidden,
    ModelCsiError,
    NotFound,
    RegistryUnavailable,
    Unauthenticated,
)
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import EMPTY_BLOB
from modelcsi.oci.reference import Reference
from modelcsi.registry.client import Registry, Repository
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.registry import FakeRegistry, User
from tests.unit.registry.conftest import (
    ALICE,
    CONTENT,
    Authority,
    CannedServer,
    ClientFactory,
    make_bytes,
    read_all,
)

_USERS = {"alice": User("s3cret")}


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
        found = read_all(stream)

    assert CONTENT[start:end] == found
    assert (not ignores_ranges or range_header is None) == stream.honours_ranges
    assert range_header == registry.seen[-1].headers.get("range")


def test_nothing_is_asked_for_no_bytes(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """An empty blob, and what is already complete."""
    with registry:
        repository = client(f"{registry.host}/m/x")
        found = [
            read_all(repository.open_blob(blob, blob.size)),
            read_all(repository.open_blob(Descriptor("", EMPTY_BLOB, 0))),
        ]

    assert [b"", b""] == found
    assert [] == registry.seen


@pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 4), (0, 200_001)])
def test_a_range_outside_the_blob_is_a_bug(
    start: int, end: int | None, blob: Descriptor, client: ClientFactory
) -> None:
    """It is told before anything is sent."""
    with pytest.raises(ValueError, match="of a blob of 200000"):
        client("127.0.0.1:1/m/x").open_blob(blob, start, end)


@pytest.mark.parametrize("start", [0, 1000])
@pytest.mark.parametrize("resized", [-500, 500])
@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_another_length_is_corrupt_before_a_byte_isread_all(
    resized: int, start: int, ignores_ranges: bool, registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """The registry's length and the manifest's disagree: no byte of it can be right."""
    registry.faults.resize[str(blob.digest)] = resized
    registry.faults.ignores_ranges = ignores_ranges
    with registry, pytest.raises(CorruptContent, match=f"{blob.digest} of {registry.host}/m/x"):
        client(f"{registry.host}/m/x").open_blob(blob, start)


def test_a_range_beyond_a_blob_that_is_too_short_is_corrupt(
    registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """416 tells the registry's length."""
    registry.faults.resize[str(blob.digest)] = -500
    with registry, pytest.raises(CorruptContent, match="has 199500 bytes in the registry, and 200000 by its manifest"):
        client(f"{registry.host}/m/x").open_blob(blob, 199_900)


def test_a_body_without_length_that_goes_on_is_corrupt(
    registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """It is read one byte further, not to its end."""
    registry.faults.resize[str(blob.digest)] = 500
    registry.faults.chunked = True
    with registry, pytest.raises(CorruptContent, match="is longer than the 200000 bytes"):
        read_all(client(f"{registry.host}/m/x").open_blob(blob))


def test_a_body_without_length_that_ends_early_is_a_cut(
    registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """What came can be used, the rest is asked for again."""
    registry.faults.resize[str(blob.digest)] = -500
    registry.faults.chunked = True
    with registry, pytest.raises(RegistryUnavailable, match="after 199500 of 200000 bytes"):
        read_all(client(f"{registry.host}/m/x").open_blob(blob))


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-199899/200000",
        "bytes 100-199999/200001",
        "bytes 100-199998/200000",
        "bytes 100-200000/200001",
        "pages 1-2/3",
        "bytes */200000",
    ],
)
def test_a_wrong_content_range_is_corrupt(
    content_range: str, registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """Other bytes would be written where these belong."""
    registry.faults.content_range = content_range
    with registry, pytest.raises(CorruptContent, match=r"Content-Range|and the registry sends"):
        client(f"{registry.host}/m/x").open_blob(blob, 100)


def test_a_total_that_is_not_told_is_fine(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """RFC 9110: an asterisk where the length is unknown."""
    registry.faults.content_range = "bytes 100-199999/*"
    with registry:
        assert CONTENT[100:] == read_all(client(f"{registry.host}/m/x").open_blob(blob, 100))


def test_a_shorter_range_than_asked_ends_early(
    blob: Descriptor, client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """RFC 9110 allows it: the bytes are right, the rest is asked for again."""
    server = canned(b"", b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-4/200000\r\nContent-Length: 5\r\n\r\nhello")
    with client(f"{server.host}/m/x").open_blob(blob, 0, 100) as stream:
        first = stream.read(100)
        with pytest.raises(RegistryUnavailable, match="after 5 of 100 bytes"):
            stream.read(100)

    assert b"hello" == first


def test_a_range_that_nobody_asked_for_is_refused(
    blob: Descriptor, client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
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
    content = make_bytes(10_000_000)
    with FakeRegistry(tls=authority.server_context() if secure else None) as registry:
        blob = registry.content.add_blob("m/x", content)
        registry.faults.cut_every_bytes = 3_000_000
        registry.faults.cut_with_reset = cut_with_reset
        reference = Reference.parse(f"{registry.host}/m/x")
        found, attempts = _download(
            Registry(HttpTransport(ca_file=authority.ca), Hosts()).repository(reference, ALICE), blob
        )

    assert content == found
    assert attempts <= 5
    assert registry.bytes_served[str(blob.digest)] <= 11_000_000


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthenticated), (403, Forbidden), (404, NotFound), (429, RegistryUnavailable), (500, RegistryUnavailable)],
)
def test_blobs_are_not_asked_again_here(
    status: int, kind: type[ModelCsiError], registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """The caller knows what it has, and when to come back."""
    registry.faults.fail_next(status, times=9, retry_after="7")
    with registry, pytest.raises(kind, match=f"blob {blob.digest} of {registry.host}/m/x") as caught:
        client(f"{registry.host}/m/x").open_blob(blob)

    assert 1 == registry.blob_gets[str(blob.digest)]
    assert kind is not RegistryUnavailable or 7.0 == getattr(caught.value, "retry_after_seconds", None)


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
                first += read_all(stream)
        registry.faults.stall_after_bytes = None
        registry.faults.resume.set()
        again = read_all(repository.open_blob(blob))

    assert CONTENT.startswith(first)
    assert CONTENT == again


def test_a_corrupt_bit_passes_here(registry: FakeRegistry, blob: Descriptor, client: ClientFactory) -> None:
    """The digest is the business of whoever has all the bytes."""
    registry.faults.flip_bit_of.add(str(blob.digest))
    with registry:
        found = read_all(client(f"{registry.host}/m/x").open_blob(blob))

    assert 1 == sum(left != right for left, right in zip(CONTENT, found, strict=True))
