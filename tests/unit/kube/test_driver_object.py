from __future__ import annotations

import logging
from typing import Any

import pytest

from modelcsi.kube.client import KubeClient
from modelcsi.kube.driver_object import DriverObject, DriverSettings
from tests.fakes.api_server import FakeApiServer
from tests.unit.kube.conftest import Clock

_NAME = "model.csi.modelpack.org"


@pytest.fixture
def driver(client: KubeClient, clock: Clock) -> DriverObject:
    """The object as this driver sees it."""
    return DriverObject(client, _NAME, clock=clock)


def _install(server: FakeApiServer, **spec: Any) -> None:
    server.add("csidrivers", "", _NAME, spec={"podInfoOnMount": True, **spec})


def test_what_kubelet_was_told_is_read(server: FakeApiServer, driver: DriverObject) -> None:
    """Pod information, tokens and where they come."""
    _install(server, tokenRequests=[{"audience": "registry"}, {"audience": ""}], serviceAccountTokenInSecrets=True)

    assert (
        DriverSettings(is_installed=True, pod_info=True, audiences=("registry", ""), tokens_in_secrets=True)
        == driver.settings()
    )


def test_an_answer_serves_for_a_minute(server: FakeApiServer, driver: DriverObject, clock: Clock) -> None:
    """Then it is fetched beside the caller, who gets what was known."""
    _install(server)
    known = [driver.has_pod_info(), driver.has_pod_info()]
    requests = server.count("GET", "csidrivers")
    _install(server, podInfoOnMount=False)
    clock.advance(60.0)
    known.append(driver.has_pod_info())
    server.wait_for(lambda: 2 == server.count("GET", "csidrivers"))

    assert [True, True, True] == known
    assert 1 == requests


def test_an_object_that_is_installed_later_is_seen(server: FakeApiServer, driver: DriverObject) -> None:
    """A driver may be started before its object is made."""
    before = driver.has_pod_info()
    _install(server)
    driver.refresh()

    assert (False, True) == (before, driver.has_pod_info())


@pytest.mark.parametrize(
    ("spec", "warning"),
    [(None, "there is no CSIDriver object"), ({"podInfoOnMount": False}, "has no podInfoOnMount")],
    ids=["missing", "without pod information"],
)
def test_what_an_admin_should_mend_is_a_warning(
    server: FakeApiServer,
    driver: DriverObject,
    caplog: pytest.LogCaptureFixture,
    spec: dict[str, Any] | None,
    warning: str,
) -> None:
    """Said when it is first seen, not each time."""
    if spec is not None:
        _install(server, **spec)
    with caplog.at_level(logging.WARNING):
        answers = [driver.has_pod_info(), (driver.refresh() or DriverSettings()).pod_info]

    assert [False, False] == answers
    assert 1 == caplog.text.count(warning)
    assert 1 == len(caplog.messages)


def test_nobody_knows_while_the_server_is_silent(server: FakeApiServer, driver: DriverObject, clock: Clock) -> None:
    """Unknown is neither yes nor no, and asked for again after ten seconds, not by each caller."""
    server.faults["GET", "csidrivers"] = 500
    answers = [driver.has_pod_info(), driver.has_pod_info()]
    requests = server.count("GET", "csidrivers")
    server.faults.clear()
    _install(server)
    clock.advance(10.0)

    assert [None, None, True] == [*answers, driver.has_pod_info()]
    assert 1 == requests


def test_what_was_known_outlives_an_outage(server: FakeApiServer, driver: DriverObject) -> None:
    """Nobody can change the object while the API server is away."""
    _install(server)
    driver.refresh()
    server.faults["GET", "csidrivers"] = 503
    driver.refresh()

    assert driver.has_pod_info()
