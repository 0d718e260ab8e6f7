from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from modelcsi.kube.event import Reporter, event_name, event_object, message_text, timestamp
from modelcsi.registry.caller import Pod
from modelcsi.volume.announcements import Announcement
from tests.unit.kube.conftest import TRAIN


def test_an_event_says_who_of_whom_and_what() -> None:
    """All fields that `kubectl describe` and those who filter events look at."""
    reporter = Reporter("model.csi.modelpack.org", "n1")
    event = event_object(
        "train.1",
        TRAIN,
        Announcement("Failed", "no such model", is_warning=True),
        reporter,
        datetime(2026, 1, 2, tzinfo=UTC),
    )

    assert {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "train.1", "namespace": "team"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "team", "name": "train", "uid": "uid-1"},
        "reason": "Failed",
        "message": "no such model",
        "type": "Warning",
        "source": {"component": "model.csi.modelpack.org", "host": "n1"},
        "reportingComponent": "model.csi.modelpack.org",
        "reportingInstance": "n1",
        "firstTimestamp": "2026-01-02T00:00:00Z",
        "lastTimestamp": "2026-01-02T00:00:00Z",
        "count": 1,
    } == event


def test_times_are_utc() -> None:
    """Whatever the zone of the node."""
    assert "2026-01-01T22:00:00Z" == timestamp(datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))))


def test_names_are_unique_and_valid() -> None:
    """A pod's name may be as long as an event's, and end where a cut leaves a dot or a dash."""
    longest = Pod("team", "p" * 235 + "-." + "q" * 16, "u", "default")
    name = event_name(longest)

    assert "p" * 235 == name.rpartition(".")[0]
    assert len(name) <= 253
    assert name != event_name(longest)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("x" * 1024, "x" * 1024),
        ("x" * 1025, "x" * 1021 + "…"),
        ("é" * 600, "é" * 510 + "…"),
        ("a\x1b[31m\nb\udc80", "a [31m b "),
        ("GET https://host/v2/blob?sig=abc123 failed", "GET https://host/v2/blob?*** failed"),
    ],
)
def test_messages_fit(text: str, expected: str) -> None:
    """One line of at most 1024 bytes of UTF-8, no control characters, no signed URLs."""
    assert expected == message_text(text)
