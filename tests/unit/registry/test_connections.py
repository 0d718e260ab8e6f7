from __future__ import annotations

import socket
from typing import Any

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import PolicyDenied
from modelcsi.registry.connections import is_link_local
from modelcsi.registry.proxies import ProxySettings
from modelcsi.registry.transport import HttpTransport, Request, Timeouts
from tests.fakes.registry import Auth, FakeRegistry
from tests.unit.registry.conftest import ClientFactory

_QUICK = Timeouts(0.5, 0.5)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("169.254.169.254", True),
        ("169.254.0.1", True),
        ("169.253.1.1", False),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("fd00:ec2::1", False),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("2001:db8::1", False),
    ],
)
def test_link_local_addresses_are_known_in_every_wrapping(address: str, expected: bool) -> None:
    """The metadata services of the clouds and all of link-local; private and loopback addresses are allowed."""
    assert expected == is_link_local(address)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[::ffff:a9fe:a9fe]",
        "[fe80::1]",
    ],
)
@pytest.mark.parametrize("proxied", [False, True])
def test_every_spelling_of_a_link_local_address_is_refused(host: str, proxied: bool) -> None:
    """Decimal, hexadecimal, octal and mapped forms too, also where a proxy would connect."""
    transport = HttpTransport(proxies=ProxySettings.parse(http="http://127.0.0.1:1") if proxied else None)
    with pytest.raises(PolicyDenied, match="link-local"):
        transport.request(Request("GET", f"http://{host}/latest/meta-data/", timeouts=_QUICK))


def test_a_name_is_resolved_once_and_the_checked_address_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers with another address the second time (DNS rebinding) is not asked a second time."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *args: Any, **options: Any) -> Any:
        if host != "rebind.test":
            return real(host, *args, **options)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "169.254.169.254", *args, **options)

    with FakeRegistry() as registry:
        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        port = registry.host.partition(":")[2]
        HttpTransport().request(Request("GET", f"http://rebind.test:{port}/v2/", timeouts=_QUICK)).close()

    assert ["rebind.test"] == asked
    assert 1 == len(registry.seen)


def test_a_name_of_a_link_local_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the address behind the name."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _host, *args, **options: real("169.254.169.254", *args, **options)
    )
    with pytest.raises(PolicyDenied, match=r"metadata\.test has the link-local address 169\.254\.169\.254"):
        HttpTransport().request(Request("GET", "http://metadata.test/", timeouts=_QUICK))


def test_of_several_addresses_the_allowed_ones_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link-local address beside others is left out, one that refuses is followed by the next."""
    real = socket.getaddrinfo

    def several(host: str, *args: Any, **options: Any) -> Any:
        if host != "several.test":
            return real(host, *args, **options)
        return [real(one, *args, **options)[0] for one in ("169.254.1.1", "127.0.0.9", "127.0.0.1")]

    with FakeRegistry() as registry:
        monkeypatch.setattr(socket, "getaddrinfo", several)
        port = registry.host.partition(":")[2]
        HttpTransport().request(Request("GET", f"http://several.test:{port}/v2/", timeouts=_QUICK)).close()

    assert 1 == len(registry.seen)


def test_a_redirect_to_a_link_local_address_is_refused(client: ClientFactory) -> None:
    """The check is made where connections are made, so no redirect leads around it."""
    with FakeRegistry() as registry:
        blob = registry.content.add_blob("m/x", b"weights")
        registry.faults.redirect_blobs_to = "http://169.254.169.254"
        with pytest.raises(PolicyDenied, match="link-local"):
            client(f"{registry.host}/m/x").open_blob(blob)


def test_a_token_realm_at_a_link_local_address_is_refused(client: ClientFactory) -> None:
    """Nor does a challenge."""
    with FakeRegistry(auth=Auth.BEARER) as registry:
        registry.faults.challenge = 'Bearer realm="http://169.254.169.254/token"'
        with pytest.raises(PolicyDenied, match="link-local"):
            client(f"{registry.host}/m/x").resolve("v1", Deadline.after(5))
