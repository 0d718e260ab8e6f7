from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcsi.kube.client import KubeClient
from modelcsi.kube.event import Reporter
from modelcsi.kube.events import EventRecorder
from modelcsi.registry.caller import Pod
from modelcsi.volume.announcements import Announcement
from tests.fakes.api_server import FakeApiServer, Fault
from tests.unit.kube.conftest import QUICK, TRAIN, Clock

_REPORTER = Reporter("model.csi.modelpack.org", "n1")
_PULLING = Announcement("Pulling", "Pulling registry/model:v1")


@contextmanager
def _recording(client: KubeClient, clock: Clock, *, has_pod_info: bool | None = True) -> Iterator[EventRecorder]:
    recorder = EventRecorder(client, _REPORTER, lambda: has_pod_info, clock=clock)
    recorder.start()
    yield recorder
    recorder.stop(5.0)


def _messages(server: FakeApiServer) -> list[str]:
    return [event["message"] for event in server.all("events")]


def test_an_announcement_becomes_an_event(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """What waits when the driver ends is written first."""
    with _recording(client, clock) as recorder:
        recorder.announce(TRAIN, _PULLING)
    (event,) = server.all("events")

    assert ("Pulling", "Pulling registry/model:v1", "uid-1") == (
        event["reason"],
        event["message"],
        event["involvedObject"]["uid"],
    )


def test_the_same_again_is_counted_up(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """A repeated sentence is no new event for ten minutes."""
    with _recording(client, clock) as recorder:
        recorder.announce(TRAIN, _PULLING)
        recorder.announce(TRAIN, _PULLING)
        server.wait_for(lambda: 1 == server.count("PATCH", "events"))
        clock.advance(601.0)
        recorder.announce(TRAIN, _PULLING)

    assert [2, 1] == [event["count"] for event in server.all("events")]


def test_an_event_that_expired_is_written_anew(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """Events live for an hour, or until somebody deletes them."""
    with _recording(client, clock) as recorder:
        recorder.announce(TRAIN, _PULLING)
        server.wait_for(lambda: server.all("events"))
        server.remove("events", "team", server.all("events")[0]["metadata"]["name"])
        recorder.announce(TRAIN, _PULLING)

    assert [1] == [event["count"] for event in server.all("events")]


def test_an_outage_is_waited_out(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """A request that fails is repeated, and nothing is lost."""
    server.faults["POST", "events"] = 503
    with _recording(client, clock) as recorder:
        recorder.announce(TRAIN, _PULLING)
        server.wait_for(lambda: server.count("POST", "events"))
        server.faults.clear()
        server.wait_for(lambda: 2 == server.count("POST", "events"))

    assert ["Pulling registry/model:v1"] == _messages(server)
    assert 0 == recorder.dropped


def test_a_lost_answer_makes_no_second_event(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """The name is chosen before the first request: the repeated one finds it taken and is content."""
    server.faults["POST", "events"] = Fault.LOST
    with _recording(client, clock) as recorder:
        recorder.announce(TRAIN, _PULLING)
        server.wait_for(lambda: server.count("POST", "events"))
        server.faults.clear()
        server.wait_for(lambda: 2 == server.count("POST", "events"))

    assert ["Pulling registry/model:v1"] == _messages(server)
    assert 0 == recorder.dropped


def test_nothing_is_repeated_for_ever(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """What fails when it is older than two minutes is dropped; what comes later is written."""
    server.faults["POST", "events"] = 503
    recorder = EventRecorder(client, _REPORTER, lambda: True, clock=clock)
    recorder.announce(TRAIN, _PULLING)
    clock.advance(121.0)
    recorder.start()
    server.wait_for(lambda: server.count("POST", "events"))
    server.faults.clear()
    recorder.announce(TRAIN, Announcement("Pulled", "later"))
    server.wait_for(lambda: 2 == server.count("POST", "events"))
    recorder.stop(5.0)

    assert (1, ["later"]) == (recorder.dropped, _messages(server))


def test_missing_rights_are_logged_once(
    server: FakeApiServer, client: KubeClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the right that is missing; nothing is repeated."""
    server.faults["POST", "events"] = 403
    with caplog.at_level(logging.WARNING), _recording(client, clock) as recorder:
        recorder.announce(TRAIN, _PULLING)
        recorder.announce(TRAIN, Announcement("Pulled", "done"))

    assert (2, 2) == (server.count("POST", "events"), recorder.dropped)
    assert 1 == caplog.text.count("needs the right to create and patch events")


@pytest.mark.parametrize("is_terminating", [False, True])
def test_a_namespace_that_goes_is_no_trouble(
    server: FakeApiServer, client: KubeClient, clock: Clock, caplog: pytest.LogCaptureFixture, is_terminating: bool
) -> None:
    """Its events are dropped without a word, and others are written."""
    gone = Pod("gone", "train", "uid-2", "default")
    if is_terminating:
        server.namespaces.add("gone")
        server.terminating.add("gone")
    with caplog.at_level(logging.INFO), _recording(client, clock) as recorder:
        recorder.announce(gone, _PULLING)
        recorder.announce(TRAIN, Announcement("Pulled", "done"))

    assert ["done"] == _messages(server)
    assert [] == caplog.messages


def test_one_pod_cannot_flood(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """A burst of 25, then one in twelve seconds; other pods are not held back."""
    with _recording(client, clock) as recorder:
        for number in range(30):
            recorder.announce(TRAIN, Announcement("Failed", f"attempt {number}"))
        clock.advance(12.0)
        recorder.announce(TRAIN, Announcement("Failed", "after a pause"))
        recorder.announce(Pod("team", "other", "uid-2", "default"), _PULLING)

    assert [*(f"attempt {number}" for number in range(25)), "after a pause", _PULLING.message] == _messages(server)
    assert 5 == recorder.dropped


def test_progress_goes_first_when_too_much_waits(
    server: FakeApiServer, client: KubeClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue that is full loses its oldest progress, and without any its oldest announcement; one line says so."""
    recorder = EventRecorder(client, _REPORTER, lambda: True, clock=clock)
    for number in range(511):
        recorder.announce(Pod("team", f"p{number}", f"u{number}", "default"), _PULLING)
    recorder.announce(TRAIN, Announcement("PullProgress", "10 %"))
    recorder.announce(TRAIN, Announcement("Pulled", "first"))
    recorder.announce(TRAIN, Announcement("Pulled", "second"))
    clock.advance(600.0)  # the pace of all: 100 at once
    recorder.start()
    server.wait_for(lambda: 100 == server.count("POST", "events"))

    assert 2 == recorder.dropped
    assert "p1" == server.all("events")[0]["involvedObject"]["name"]
    assert 1 == caplog.text.count("events are dropped")


def test_the_pace_of_all_pods_is_bounded(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """After a burst of 100, twenty a second."""
    recorder = EventRecorder(client, _REPORTER, lambda: True, clock=clock)
    for number in range(130):
        recorder.announce(Pod("team", f"p{number}", f"u{number}", "default"), _PULLING)
    recorder.start()
    server.wait_for(lambda: 100 == server.count("POST", "events"))
    clock.advance(0.5)
    server.wait_for(lambda: 110 == server.count("POST", "events"))
    recorder.stop(0.2)

    assert 110 == server.count("POST", "events")


def test_announcing_never_waits(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """While the server is silent announcements are taken, and the end is not held up by it for long."""
    server.faults["POST", "events"] = Fault.HANG
    recorder = EventRecorder(client, _REPORTER, lambda: True, clock=clock)
    recorder.start()
    recorder.announce(TRAIN, _PULLING)
    server.wait_for(lambda: server.count("POST", "events"))
    caller = threading.Thread(target=recorder.announce, args=(TRAIN, _PULLING))
    caller.start()
    caller.join(0.2)
    recorder.stop(0.1)

    assert not caller.is_alive()
    assert 1 == server.count("POST", "events")


def test_a_pod_that_nobody_vouches_for_gets_no_event(server: FakeApiServer, client: KubeClient, clock: Clock) -> None:
    """Without podInfoOnMount a pod's author could have events written for other people's pods."""
    with _recording(client, clock, has_pod_info=False) as recorder:
        recorder.announce(TRAIN, _PULLING)

    assert [] == server.seen


def test_a_server_that_was_away_at_the_start(tmp_path: Path, clock: Clock) -> None:
    """A recorder for which nobody listens neither raises nor hangs."""
    with FakeApiServer() as server:
        client = KubeClient(server.kubeconfig(tmp_path / "kubeconfig"), QUICK)
    with _recording(client, clock) as recorder:
        recorder.announce(TRAIN, _PULLING)

    assert not recorder._thread.is_alive()
