from __future__ import annotations

import base64
import json

import pytest

from modelcsi.config.model import ServiceAccountToken
from modelcsi.oci.reference import Reference
from modelcsi.registry.caller import Caller
from modelcsi.registry.service_accounts import account_of, of_service_account
from tests.unit.registry.plugins import jwt

REFERENCE = Reference.parse("registry.example.com/team/model:v1")


def packed(claims: object) -> str:
    """A token with these claims."""
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()}.x"


@pytest.mark.parametrize(
    ("token", "account"),
    [
        (jwt("trainer"), "default/trainer/uid-trainer"),
        (jwt("trainer", "2", "ns"), "ns/trainer/uid-trainer"),
        ("opaque", ""),
        ("a.b.c", ""),
        ("a.é.c", ""),
        (packed([]), ""),
        (packed({"kubernetes.io": None}), ""),
        (packed({"kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "x", "uid": 1}}}), ""),
        (packed({"kubernetes.io": {"namespace": "", "serviceaccount": {"name": "x", "uid": "1"}}}), ""),
    ],
)
def test_whose_token_it_is(token: str, account: str) -> None:
    """The three claims that Kubernetes puts in; a token that lacks one is nobody's for sure."""
    assert account == account_of(token)


@pytest.mark.parametrize(
    ("prefix", "is_taken"),
    [
        ("registry.example.com", True),
        ("https://Registry.example.com/", True),
        ("registry.example.com/team", True),
        ("registry.example.com/te", False),
        ("registry.example.com/team/model", True),
        ("example.com", False),
        ("other.example.com", False),
    ],
)
def test_a_token_goes_to_the_registries_that_take_it(prefix: str, *, is_taken: bool) -> None:
    """Prefixes end at borders of components: a token must not go astray."""
    known = ServiceAccountToken((prefix,), "audience")

    assert is_taken == bool(of_service_account((known,), REFERENCE, Caller(tokens={"audience": "t0ken"})))


def test_how_a_token_is_sent() -> None:
    """With a user name as its password, else as it is; the audience chooses the token."""
    configured = tuple(
        ServiceAccountToken(("registry.example.com",), audience, username)
        for audience, username in [("a", "sa"), ("", ""), ("absent", "sa")]
    )
    basic, bearer = of_service_account(configured, REFERENCE, Caller(tokens={"a": "t-a", "": "t-default"}))

    assert ("sa", "t-a", "") == (basic.username, basic.password, basic.registry_token)
    assert ("", "", "t-default") == (bearer.username, bearer.password, bearer.registry_token)
    assert "the pod's service-account token for the API server" == bearer.source


def test_a_renewed_token_is_the_same_identity() -> None:
    """Tokens live for an hour, proofs longer; another account, audience or use is another identity."""
    registries = ("registry.example.com",)
    uses = [
        ServiceAccountToken(registries, "a", "sa"),
        ServiceAccountToken(registries, "a"),
        ServiceAccountToken(registries, "b"),
    ]
    prints = [
        [
            found.fingerprint(b"salt")
            for found in of_service_account(uses, REFERENCE, Caller(tokens={"a": token, "b": token}))
        ]
        for token in (jwt("trainer", "1"), jwt("trainer", "2"), jwt("other", "1"))
    ]

    assert prints[0] == prints[1]
    assert 6 == len({*prints[0], *prints[2]})


def test_an_opaque_token_counts_by_its_value() -> None:
    """Nobody can be vouched for."""
    use = ServiceAccountToken(("registry.example.com",), "a")
    first, second = (of_service_account((use,), REFERENCE, Caller(tokens={"a": token}))[0] for token in ("one", "two"))

    assert first.fingerprint(b"salt") != second.fingerprint(b"salt")
