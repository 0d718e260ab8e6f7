"""Authentication as a whole: what is sent where, for every kind of registry and credentials."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import RegistryUnavailable, Unauthenticated
from modelcsi.oci.reference import Reference
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import ANONYMOUS, Credentials
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.unit.registry.conftest import ALICE, Authority, CannedServer, ClientFactory

_USERS = {"alice": User("s3cret", identity_token="refresh-alice"), "bob": User("b0b", frozenset({"m/other"}))}


def _soon() -> Deadline:
    return Deadline.after(10)


def _briefly() -> Deadline:
    """Time for two attempts, and not for the pause before a third."""
    return Deadline.after(0.55)


@pytest.fixture(params=[Auth.BASIC, Auth.BEARER], ids=str)
def guarded(request: pytest.FixtureRequest) -> FakeRegistry:
    """A registry that wants to know who asks; it holds m/x:v1 and m/other:v1."""
    registry = FakeRegistry(auth=request.param, users=_USERS)
    registry.content.push("m/x", "v1", {"a": b"1"})
    registry.content.push("m/other", "v1", {"a": b"1"})
    return registry


def test_the_right_password_is_enough(guarded: FakeRegistry, client: ClientFactory) -> None:
    """Basic and Bearer registries alike; the challenge is met once and remembered."""
    with guarded as registry:
        repository = client(f"{registry.host}/m/x:v1", ALICE)
        repository.resolve("v1", _soon())
        repository.resolve("v1", _soon())

    assert 3 == registry.manifest_requests
    assert (1 if registry.auth is Auth.BEARER else 0) == registry.token_requests


def test_the_wrong_password_is_told_with_its_source(guarded: FakeRegistry, client: ClientFactory) -> None:
    """And asked once only: some registries lock accounts."""
    wrong = Credentials("alice", "wr0ng", source="the volume's secret")
    with guarded as registry, pytest.raises(Unauthenticated, match="the credentials of the volume's secret") as caught:
        client(f"{registry.host}/m/x:v1", wrong).resolve("v1", _soon())

    assert "wr0ng" not in str(caught.value)
    assert 1 == len(registry.leaked("wr0ng"))


def test_nobody_is_told_that_the_repository_may_be_private(guarded: FakeRegistry, client: ClientFactory) -> None:
    """Without credentials the hint is to bring some."""
    with guarded as registry, pytest.raises(Unauthenticated, match="without credentials") as caught:
        client(f"{registry.host}/m/x:v1").resolve("v1", _soon())

    assert "kubernetes.io/dockerconfigjson" in caught.value.hint


def test_a_public_repository_needs_nobody(guarded: FakeRegistry, client: ClientFactory) -> None:
    """Bearer registries hand out tokens to nobody, too."""
    guarded.public.add("m/x")
    with guarded as registry:
        resolved = client(f"{registry.host}/m/x:v1").resolve("v1", _soon())

    assert str(resolved.digest) in registry.content.manifests["m/x"]


def test_an_identity_token_is_exchanged_by_post(client: ClientFactory) -> None:
    """OAuth 2 as docker does it; the refresh token goes to the token service only."""
    credentials = Credentials(identity_token="refresh-alice", source="a test")
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        registry.content.push("m/x", "v1", {"a": b"1"})
        client(f"{registry.host}/m/x:v1", credentials).resolve("v1", _soon())

    assert [("POST", "/token")] == [(seen.method, seen.path) for seen in registry.leaked("refresh-alice")]


def test_a_stale_identity_token_is_unauthenticated(client: ClientFactory) -> None:
    """OAuth 2 says 400 for it, and repeats no secret."""
    credentials = Credentials(identity_token="refresh-stale", source="a test")
    words = r"refuses the identity token of a test \(400\): invalid_grant"
    with (
        FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry,
        pytest.raises(Unauthenticated, match=words) as caught,
    ):
        client(f"{registry.host}/m/x:v1", credentials).resolve("v1", _soon())

    assert "refresh-stale" not in str(caught.value)


def test_a_registry_token_is_sent_as_it_is(client: ClientFactory) -> None:
    """No token service is asked."""
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        registry.content.push("m/x", "v1", {"a": b"1"})
        token = registry.issue_token("alice", "m/x")
        client(f"{registry.host}/m/x:v1", Credentials(registry_token=token, source="a test")).resolve("v1", _soon())

    assert 0 == registry.token_requests


def test_a_refused_registry_token_is_not_sent_again(client: ClientFactory) -> None:
    """There is no other to get."""
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        registry.content.push("m/x", "v1", {"a": b"1"})
        with pytest.raises(Unauthenticated):
            client(f"{registry.host}/m/x:v1", Credentials(registry_token="stale", source="a test")).resolve(
                "v1", _soon()
            )

    assert 2 == registry.manifest_requests


def test_tokens_are_kept_per_repository_and_credentials(client: ClientFactory) -> None:
    """A token of one user or repository never serves another."""
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        for repository in ("m/x", "m/other"):
            registry.content.push(repository, "v1", {"a": b"1"})
        for repository in ("m/x", "m/other", "m/x"):
            client(f"{registry.host}/{repository}:v1", ALICE).resolve("v1", _soon())
        with pytest.raises(Unauthenticated):
            client(f"{registry.host}/m/x:v1", ANONYMOUS).resolve("v1", _soon())
        bob = Credentials("bob", "b0b", source="a test")
        with pytest.raises(Unauthenticated):
            client(f"{registry.host}/m/x:v1", bob).resolve("v1", _soon())

    assert 4 == registry.token_requests


def test_a_token_that_expired_in_the_middle_is_renewed_once(client: ClientFactory) -> None:
    """A blob of hours outlives its token: the next range gets a new one."""
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        blob = registry.content.add_blob("m/x", b"weights")
        repository = client(f"{registry.host}/m/x", ALICE)
        with repository.open_blob(blob) as stream:
            stream.read(7)
        registry.expire_tokens()
        with repository.open_blob(blob, 3) as stream:
            rest = stream.read(7)

    assert b"ghts" == rest
    assert 2 == registry.token_requests


@pytest.mark.parametrize(
    ("life", "later", "expected"), [(300, 200, 1), (300, 280, 2), (10, 7, 1), (10, 9, 2), (0, 47, 1), (0, 49, 2)]
)
def test_a_token_is_used_until_shortly_before_it_expires(
    life: int, later: int, expected: int, transport: HttpTransport
) -> None:
    """`expires_in` less a margin; without it a token is good for 60 s."""
    now = [1000.0]
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        registry.faults.token_seconds = life
        registry.content.push("m/x", "v1", {"a": b"1"})
        repository = Registry(transport, Hosts(), clock=lambda: now[0]).repository(
            Reference.parse(f"{registry.host}/m/x"), ALICE
        )
        repository.resolve("v1", _soon())
        now[0] += later
        repository.resolve("v1", _soon())

    assert expected == registry.token_requests


@pytest.mark.parametrize(
    "realm", ["http://127.0.0.2:{port}/token", "http://localhost:{port}/token", "https://evil.example.com/token"]
)
def test_no_credentials_go_to_a_token_service_of_another_domain(realm: str, client: ClientFactory) -> None:
    """Realm theft (CVE-2025-51471): the registry names a stranger, who gets no connection at all."""
    with FakeRegistry(address="127.0.0.2") as foreign, FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        registry.content.push("m/x", "v1", {"a": b"1"})
        registry.faults.challenge = f'Bearer realm="{realm.format(port=foreign.host.partition(":")[2])}"'
        for credentials in (ALICE, Credentials(identity_token="refresh-alice", source="a test")):
            with pytest.raises(Unauthenticated, match=r"of another domain: the credentials of .* are not sent there"):
                client(f"{registry.host}/m/x:v1", credentials).resolve("v1", _soon())

    assert [] == foreign.seen
    assert [] == registry.leaked("s3cret", "refresh-alice")


def test_a_plain_realm_of_a_tls_registry_is_refused(authority: Authority) -> None:
    """Otherwise whoever is on the way reads the password."""
    registry = FakeRegistry(auth=Auth.BEARER, users=_USERS, tls=authority.server_context())
    with FakeRegistry() as plain, registry:
        registry.faults.challenge = f'Bearer realm="{plain.url}/token"'
        client = Registry(HttpTransport(ca_file=authority.ca), Hosts(lambda _: "https"))
        with pytest.raises(Unauthenticated, match="over plain http, which is refused"):
            client.repository(Reference.parse(f"{registry.host}/m/x"), ALICE).resolve("v1", _soon())

    assert [] == plain.seen


def test_a_token_service_that_redirects_elsewhere_takes_no_password_along(
    client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """The other host sees the request without Authorization; a refresh token is not sent on at all."""
    with FakeRegistry(auth=Auth.BEARER, users=_USERS, address="127.0.0.2") as foreign:
        location = f"{foreign.url}/token".encode()
        service = canned(b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")
        with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
            registry.content.push("m/x", "v1", {"a": b"1"})
            registry.faults.challenge = f'Bearer realm="http://{service.host}/token"'
            for credentials in (ALICE, Credentials(identity_token="refresh-alice", source="a test")):
                with pytest.raises((Unauthenticated, RegistryUnavailable)):
                    client(f"{registry.host}/m/x:v1", credentials).resolve("v1", _briefly())

    assert [] == foreign.leaked("s3cret", "refresh-alice")
    assert ["GET"] == [seen.method for seen in foreign.seen]


@pytest.mark.parametrize(
    "body", [b"not json", b"{}", b'{"token": 7}', b'{"token": "a\\r\\nX-Evil: 1"}', b'{"token": ""}']
)
def test_an_answer_without_a_token_is_the_registrys_fault(
    body: bytes, client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """It may be a proxy's page: worth another attempt."""
    service = canned(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        registry.faults.challenge = f'Bearer realm="http://{service.host}/token"'
        with pytest.raises(RegistryUnavailable, match="answers without a usable token"):
            client(f"{registry.host}/m/x:v1", ALICE).check("v1", _briefly())


@pytest.mark.parametrize("challenge", ["Bearer", 'Bearer realm="nonsense"'])
def test_a_challenge_without_a_realm_is_the_registrys_fault(challenge: str, client: ClientFactory) -> None:
    """There is nobody to ask for a token."""
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        registry.faults.challenge = challenge
        with pytest.raises(RegistryUnavailable, match="names no token service"):
            client(f"{registry.host}/m/x:v1", ALICE).check("v1", _briefly())


def test_scopes_are_asked_for_one_by_one_beside_the_realms_own_query(
    client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """distribution, "Token Authentication"; without a scope it is pull of this repository."""
    service = canned(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"token":"t"}')
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as registry:
        for scope in (',scope="repository:m/x:pull repository:m/base:pull"', ""):
            registry.faults.challenge = f'Bearer realm="http://{service.host}/token?a=b",service="the service"{scope}'
            with pytest.raises(Unauthenticated):
                client(f"{registry.host}/m/x:v1", ALICE).check("v1", _soon())
    asked = [received.split(b" ")[1].decode() for received in service.received]

    pull = "scope=repository%3Am%2Fx%3Apull"
    assert f"/token?a=b&service=the+service&{pull}&scope=repository%3Am%2Fbase%3Apull" == asked[0]
    assert f"/token?a=b&service=the+service&{pull}" == asked[-1]


def test_a_second_registry_sees_nothing_of_the_first(client: ClientFactory) -> None:
    """One client serves both; tokens and passwords stay where they belong."""
    with FakeRegistry(auth=Auth.BEARER, users=_USERS) as first, FakeRegistry(auth=Auth.BEARER, users=_USERS) as second:
        for registry in (first, second):
            registry.content.push("m/x", "v1", {"a": b"1"})
        client(f"{first.host}/m/x:v1", ALICE).resolve("v1", _soon())
        with pytest.raises(Unauthenticated):
            client(f"{second.host}/m/x:v1", ANONYMOUS).resolve("v1", _soon())

    assert [] == second.leaked("s3cret", "Basic")
    assert all(
        not seen.headers.get("authorization") or "token-" in seen.headers["authorization"] for seen in second.seen
    )
    assert not {seen.headers.get("authorization") for seen in second.seen if seen.headers.get("authorization")} & {
        seen.headers.get("authorization") for seen in first.seen
    }


def test_the_registrys_words_are_shown_without_what_it_was_sent(
    client: ClientFactory, canned: Callable[..., CannedServer]
) -> None:
    """Some registries repeat the credentials that they refuse; others send control characters."""
    body = b'{"errors":[{"code":"DENIED","message":"no s3cret here: YWxpY2U6czNjcmV0 \\u001b[31m Bearer abc.def"}]}'
    challenge = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    server = canned(challenge, refusal)
    with pytest.raises(Unauthenticated) as caught:
        Registry(HttpTransport(), Hosts(lambda _: "http")).repository(
            Reference.parse(f"{server.host}/m/x"), ALICE
        ).resolve("v1", _soon())

    assert "DENIED: no *** here: *** ?[31m ***" in caught.value.message
