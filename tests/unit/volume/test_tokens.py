from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from modelcsi.volume.tokens import split_tokens, with_vouched_tokens

KEY = "csi.storage.k8s.io/serviceAccount.tokens"


def in_an_hour(hours: float = 1.0) -> str:
    """A time as the API server writes it."""
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def tokens(**entries: object) -> str:
    """What kubelet sends."""
    return json.dumps(entries)


def test_tokens_are_taken_out_of_the_secrets() -> None:
    """What remains is the request's own secret, which must be a docker config."""
    sent = tokens(registry={"token": "t0ken", "expirationTimestamp": in_an_hour()})

    assert ({"other": "x"}, {"registry": "t0ken"}) == split_tokens({KEY: sent, "other": "x"})
    assert ({"other": "x"}, {}) == split_tokens({"other": "x"})


@pytest.mark.parametrize(
    ("timestamp", "counts"),
    [
        (in_an_hour(), True),
        (in_an_hour(-1), False),
        ("2020-01-01T00:00:00", False),
        ("2020-01-01T00:00:00+02:00", False),
        ("soon", True),
        (None, True),
    ],
)
def test_expired_tokens_are_not_used(timestamp: object, *, counts: bool) -> None:
    """A time that nobody can read is the registry's to judge."""
    _, found = split_tokens({KEY: tokens(registry={"token": "t0ken", "expirationTimestamp": timestamp})})

    assert counts == bool(found)


@pytest.mark.parametrize(
    "text",
    [
        "{hunter2",
        '["hunter2"]',
        "[" * 100_000,
        tokens(registry="hunter2"),
        tokens(registry={"token": ["hunter2"]}),
        tokens(registry={"token": "hunter2\r\nX-Header: 1"}),
        tokens(registry={"token": "", "hunter2": 1}),
    ],
)
def test_tokens_that_cannot_be_understood_are_left_out(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning and without their content: other sources may do."""
    _, found = split_tokens({KEY: text})

    assert ({}, 1) == (found, len(caplog.records))
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("answer", [None, False])
def test_tokens_that_a_pods_author_may_have_written_do_not_count(
    caplog: pytest.LogCaptureFixture, *, answer: bool | None
) -> None:
    """An inline volume's attributes are its author's where kubelet overwrites nothing."""
    vouched = with_vouched_tokens({"a": "b"}, {KEY: "hunter2"}, lambda: answer)

    assert {"a": "b"} == vouched
    assert "the pod's author may have written them" in caplog.text
    assert "hunter2" not in caplog.text


def test_tokens_that_kubelet_writes_among_the_attributes_count() -> None:
    """A cluster without serviceAccountTokenInSecrets."""
    assert {"a": "b", KEY: "sent"} == with_vouched_tokens({"a": "b"}, {KEY: "sent"}, lambda: True)


def test_tokens_in_the_secrets_are_the_only_ones() -> None:
    """kubelet sends them at one place, so the other one's are forged, whatever is known of the CSIDriver object."""
    assert {KEY: "kubelet's"} == with_vouched_tokens({KEY: "kubelet's"}, {KEY: "forged"}, lambda: True)
