"""Redirects to an object store: what is followed, and what goes along."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import (
    PolicyDenied,
    RegistryUnavailable,
    Unauthenticated,
)
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.reference import Reference
from modelcsi.registry.client import Registry
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.unit.registry.conftest import (
    ALICE,
    CONTENT,
    Authority,
    CannedServer,
    ClientFactory,
    read_all,
)

_USERS = {"alice": User("s3cret")}


@pytest.fixture
def storage(registry: FakeRegistry) -> FakeRegistry:
    """An object store on another address, to which the registry redirects once it is told to."""
    return FakeRegistry(address="127.0.0.2", content=registry.content)


def test_a_redirect_is_followed_with_the_range_and_without_authorization(
    registry: FakeRegistry,
    storage: FakeRegistry,
    blob: Descriptor,
    client: ClientFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The store has a signed URL, which nobody else sees, and no password."""
    caplog.set_level(logging.DEBUG)
    registry.auth, registry.users = Auth.BASIC, _USERS
    with registry, storage:
        registry.faults.redirect_blobs_to = storage.url
        found = read_all(client(f"{registry.host}/m/x", ALICE).open_blob(blob, 100))

    assert CONTENT[100:] == found
    assert "bytes=100-199999" == storage.seen[0].headers["range"]
    assert FakeRegistry.SIGNATURE in storage.seen[0].path
    assert [] == storage.leaked("s3cret", "alice")
    assert FakeRegistry.SIGNATURE not in caplog.text


def test_another_port_of_the_same_address_is_another_origin(
    registry: FakeRegistry, blob: Descriptor, client: ClientFactory
) -> None:
    """Scheme, host and port are compared."""
    registry.auth, registry.users = Auth.BASIC, _USERS
    with registry, FakeRegistry(content=registry.content) as neighbour:
        registry.faults.redirect_blobs_to = neighbour.url
        read_all(client(f"{registry.host}/m/x", ALICE).open_blob(blob))

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
        found = read_all(client(f"{registry.host}/m/x").open_blob(blob))

    assert CONTENT == found
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
        assert client(f"{registry.host}/m/x").has_blob(blob, Deadline.after(10))

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
