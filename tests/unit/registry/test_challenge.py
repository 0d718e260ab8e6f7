from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.registry.challenge import may_hold_credentials, parse_challenges, parse_realm


def _parsed(*lines: str) -> list[tuple[str, dict[str, str]]]:
    return [(challenge.scheme, dict(challenge.parameters)) for challenge in parse_challenges(lines)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [
                'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
            ],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        (['BEARER Realm = "https://a/t" , SERVICE=plain'], [("bearer", {"realm": "https://a/t", "service": "plain"})]),
        (['Basic realm="x", Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (['Basic realm="x"', 'Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
        (["Negotiate", "Basic"], [("negotiate", {}), ("basic", {})]),
        (["Negotiate, Basic realm=z"], [("negotiate", {}), ("basic", {"realm": "z"})]),
        (["NTLM TlRMTVNTUAAC==, Basic realm=z"], [("ntlm", {}), ("basic", {"realm": "z"})]),
        ([r'Basic realm="a \"quoted\" , b\\"'], [("basic", {"realm": 'a "quoted" , b\\'})]),
        (["Bearer realm=https://a/t,service=s"], [("bearer", {"realm": "https://a/t", "service": "s"})]),
        (['Bearer realm="first",realm="second"'], [("bearer", {"realm": "first"})]),
        (['Basic ???, Bearer realm="y"'], [("basic", {}), ("bearer", {"realm": "y"})]),
        (["", " , ,"], []),
    ],
)
def test_challenges_are_read_in_every_form(lines: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    """Several schemes and headers, any case, quoted strings or tokens."""
    assert expected == _parsed(*lines)


@given(st.text(max_size=200) | st.text(alphabet='Bearer ="\\,: \t', max_size=80))
def test_any_header_is_read_to_its_end(line: str) -> None:
    """What cannot be understood neither raises nor hangs."""
    assert all(challenge.scheme for challenge in parse_challenges([line]))


@pytest.mark.parametrize(
    "realm", ["", "auth", "ftp://a/b", "https://", "https://u:p@a/", "https://a:x/", "https://a:0/"]
)
def test_a_realm_is_a_url(realm: str) -> None:
    """Anything else is no token service."""
    assert parse_realm(realm) is None


@pytest.mark.parametrize(
    ("registry", "realm", "expected"),
    [
        ("registry.example.com", "registry.example.com", True),
        ("Registry.Example.com", "registry.example.COM", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("registry.example.com", "gitlab.example.com", True),
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com", True),
        ("docker.elastic.co", "docker-auth.elastic.co", True),
        ("registry.example.com", "evil.com", False),
        ("registry.example.com", "example.com.evil.com", False),
        ("registry.example.com", "notexample.com", False),
        ("registry.example.co.uk", "evil.co.uk", False),
        ("registry.example.co.uk", "auth.example.co.uk", True),
        ("mine.azurecr.io", "yours.azurecr.io", False),
        ("1.dkr.ecr.eu-west-1.amazonaws.com", "evil.eu-west-1.amazonaws.com", False),
        ("registry", "auth", False),
        ("registry", "registry", True),
        ("registry.corp", "auth.corp", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.1", "9.0.0.1", False),
        ("localhost", "127.0.0.1", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("registry.a.svc.cluster.local", "auth.a.svc.cluster.local", True),
        ("registry.a.svc.cluster.local", "evil.b.svc.cluster.local", False),
    ],
)
def test_a_token_service_holds_credentials_of_its_own_domain_only(registry: str, realm: str, expected: bool) -> None:
    """The same host or a common domain that strangers cannot join; an address must be the same."""
    assert expected == may_hold_credentials(registry, realm)
