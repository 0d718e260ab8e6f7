from __future__ import annotations

import base64
import contextlib
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.registry.docker_config import ANONYMOUS, Credentials, matching


def _auth(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _users(auths: object, reference: str) -> list[str]:
    return [credentials.username for credentials in matching(auths, Reference.parse(reference), "a test")]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": _auth("alice:s3cret")}, Credentials("alice", "s3cret")),
        ({"auth": _auth("alice:s3:cr:et")}, Credentials("alice", "s3:cr:et")),
        ({"auth": _auth("alice:s3cret\0\0")}, Credentials("alice", "s3cret")),
        ({"auth": _auth("alice:s3cret\n") + "\n"}, Credentials("alice", "s3cret")),
        ({"auth": _auth("alice:s3cret").rstrip("=")}, Credentials("alice", "s3cret")),
        ({"auth": _auth("älice:pässword")}, Credentials("älice", "pässword")),
        ({"username": "alice", "password": "s3cret"}, Credentials("alice", "s3cret")),
        ({"auth": _auth("alice:s3cret"), "username": "bob", "password": "x"}, Credentials("alice", "s3cret")),
        ({"auth": "", "identitytoken": "refresh\n"}, Credentials(identity_token="refresh")),
        ({"auth": _auth("0000:"), "identitytoken": "refresh"}, Credentials("0000", "", "refresh")),
        ({"registrytoken": "ready"}, Credentials(registry_token="ready")),
        ({"auth": None, "email": "a@b", "username": "alice", "password": "s3cret"}, Credentials("alice", "s3cret")),
    ],
)
def test_entries_are_read_in_every_form(entry: dict[str, str], expected: Credentials) -> None:
    """As docker, podman, kubectl and the clouds write them."""
    found = matching({"registry.example.com": entry}, Reference.parse("registry.example.com/m/x"), "anonymous")

    assert (expected,) == found


@pytest.mark.parametrize(
    ("key", "reference", "expected"),
    [
        ("registry.example.com", "registry.example.com/m/x", True),
        ("https://registry.example.com", "registry.example.com/m/x", True),
        ("https://registry.example.com/", "registry.example.com/m/x", True),
        ("http://registry.example.com/v1/", "registry.example.com/m/x", True),
        ("https://registry.example.com/v2/", "registry.example.com/m/x", True),
        ("Registry.Example.com", "registry.example.com/m/x", True),
        ("registry.example.com:5000", "registry.example.com:5000/m/x", True),
        ("registry.example.com:5000", "registry.example.com/m/x", False),
        ("registry.example.com", "registry.example.com:5000/m/x", False),
        ("registry.example.com/m", "registry.example.com/m/x", True),
        ("registry.example.com/v2/m", "registry.example.com/m/x", True),
        ("registry.example.com/other", "registry.example.com/m/x", False),
        ("*.example.com", "registry.example.com/m/x", True),
        ("*.example.com", "a.registry.example.com/m/x", False),
        ("*.*.example.com", "a.registry.example.com/m/x", True),
        ("reg*.example.com:5000", "registry.example.com:5000/m/x", True),
        ("example.com", "registry.example.com/m/x", False),
        ("127.0.0.1:5000", "127.0.0.1:5000/m/x", True),
        ("[::1]:5000", "[::1]:5000/m/x", True),
        ("https://index.docker.io/v1/", "gpt2", True),
        ("docker.io", "gpt2", True),
        ("registry-1.docker.io", "docker.io/org/gpt2", True),
        ("docker.io/org", "docker.io/org/gpt2", True),
        ("docker.io/org", "gpt2", False),
    ],
)
def test_keys_match_as_the_kubelet_matches_them(key: str, reference: str, expected: bool) -> None:
    """Scheme and API version do not matter, each label is a glob, the path is a prefix, the port must be equal."""
    assert ["u"] * expected == _users({key: {"username": "u", "password": "p"}}, reference)


@pytest.mark.parametrize("host", ["*" + "a*" * 7 + "b", "a*" * 30 + "b", "*" + "[^b]" * 20_000 + "*c", "?*" * 20_000])
def test_no_key_takes_long(host: str) -> None:
    """A key is a pod's text, and the reference too: together they must not stop the driver (the seven stars took 19 s)."""
    began = time.process_time()
    found = _users({f"{host}.example.com": {"username": "u", "password": "p"}}, f"{'a' * 63}.example.com/m/x")

    assert ([], True) == (found, time.process_time() - began < 5)


def test_several_matches_are_tried_with_the_longest_first() -> None:
    """More specific entries win, and the others are still there to try."""
    auths = {
        "*.example.com": {"username": "glob", "password": "p"},
        "registry.example.com": {"username": "host", "password": "p"},
        "registry.example.com/m": {"username": "path", "password": "p"},
        "elsewhere.example.org": {"username": "no", "password": "p"},
    }

    assert ["path", "host", "glob"] == _users(auths, "registry.example.com/m/x")


@pytest.mark.parametrize(
    "entry",
    [
        {"username": "u", "password": "hunter2\ud800"},
        {"username": "\udfffhunter2"},
        {"auth": "hunter2!"},
        {"auth": _auth("hunter2")},
        {"auth": _auth(b"\xffhunter2:x")},
        "hunter2",
        {"password": 7},
    ],
)
def test_a_malformed_entry_is_refused_without_its_content(entry: object) -> None:
    """Neither the message nor the traceback shows what stood there."""
    with pytest.raises(InvalidRequest, match="of the secret") as caught:
        matching({"registry.example.com": entry}, Reference.parse("registry.example.com/m/x"), "the secret")
    shown = "".join(traceback.format_exception(caught.value))

    assert "hunter2" not in shown.replace('"hunter2', "")
    assert caught.value.__context__ is None


def test_a_malformed_entry_of_another_registry_is_not_looked_at() -> None:
    """One broken line of a big file breaks nothing else."""
    auths = {"broken.example.com": {"auth": "!"}, "registry.example.com": {"username": "u", "password": "p"}}

    assert ["u"] == _users(auths, "registry.example.com/m/x")


def test_a_token_that_would_break_a_header_is_refused() -> None:
    """A line feed inside a token would be a header of its own."""
    with pytest.raises(InvalidRequest, match="a token of a test has characters") as caught:
        Credentials(registry_token="hunter2\r\nX-Evil: 1", source="a test")

    assert "hunter2" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    """An error or a log line may show credentials as an object."""
    credentials = Credentials("alice", "s3cret", "refresh", "ready", "the volume's secret")

    assert 'Credentials(source="the volume\'s secret")' == repr(credentials)


def test_a_fingerprint_tells_credentials_apart_and_needs_the_salt() -> None:
    """It stands in the state database instead of them."""
    one = Credentials("alice", "s3cret")

    assert one.fingerprint(b"salt") == Credentials("alice", "s3cret", source="elsewhere").fingerprint(b"salt")
    assert one.fingerprint(b"salt") != one.fingerprint(b"pepper")
    assert one.fingerprint(b"salt") != Credentials("alices", "3cret").fingerprint(b"salt")
    assert "anonymous" == ANONYMOUS.fingerprint(b"salt")


def test_the_fingerprint_of_an_identity_is_not_that_of_its_secrets() -> None:
    """Somebody vouches for whom they are of, whatever they are now; no secret can be chosen that looks like it."""
    one, two = (Credentials("sa", token, identity="team-a/trainer") for token in ("one", "two"))

    assert one.fingerprint(b"salt") == two.fingerprint(b"salt")
    assert one.fingerprint(b"salt") != Credentials("identity", "team-a/trainer").fingerprint(b"salt")
    assert one.fingerprint(b"salt") != Credentials("sa", "one").fingerprint(b"salt")
    assert "anonymous" == Credentials(identity="team-a/trainer").fingerprint(b"salt")


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_auth_is_read_or_refused(auth: str, key: str) -> None:
    """Nothing but InvalidRequest is raised for a file that somebody else wrote."""
    with contextlib.suppress(InvalidRequest):
        matching({key: {"auth": auth}, "a.b": {"auth": auth}}, Reference.parse("a.b/c"), "a test")
