from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from modelcsi.kube.client import KubeClient
from modelcsi.kube.node_labels import NodeLabels
from modelcsi.oci.digest import Digest
from tests.fakes.api_server import FakeApiServer

_PREFIX = "model.csi.modelpack.org/"
_FIRST, _SECOND, _THIRD = (Digest.of(text) for text in (b"1", b"2", b"3"))


@pytest.fixture
def labels(client: KubeClient) -> Iterator[NodeLabels]:
    """Up to two labels of n1."""
    labels = NodeLabels(client, "n1", "model.csi.modelpack.org", 2)
    labels.start()
    yield labels
    labels.stop(5.0)


def _key(digest: Digest) -> str:
    return _PREFIX + digest.hex[:32]


def _shown(server: FakeApiServer) -> dict[str, str]:
    (node,) = server.all("nodes")
    return dict(node["metadata"].get("labels", {}))


def test_the_most_recent_artifacts_are_labels(server: FakeApiServer, labels: NodeLabels) -> None:
    """As many as are allowed, beside what others wrote."""
    server.add("nodes", "", "n1", metadata={"labels": {"zone": "a"}})
    labels.sync([_FIRST, _SECOND, _THIRD])
    server.wait_for(lambda: server.count("PATCH", "nodes"))

    assert {"zone": "a", _key(_FIRST): "true", _key(_SECOND): "true"} == _shown(server)


def test_stale_labels_of_ours_are_removed_and_no_others(server: FakeApiServer, labels: NodeLabels) -> None:
    """Another process may have left some; a key is ours only with the prefix and 32 hex digits."""
    foreign = {_PREFIX + "zone": "a", _PREFIX + "x" * 32: "true", "other.example/" + "0" * 32: "true"}
    server.add("nodes", "", "n1", metadata={"labels": {**foreign, _key(_THIRD): "true"}})
    labels.sync([_FIRST])
    server.wait_for(lambda: server.count("PATCH", "nodes"))

    assert {**foreign, _key(_FIRST): "true"} == _shown(server)


def test_nothing_is_written_without_a_change(server: FakeApiServer, labels: NodeLabels) -> None:
    """The same artifacts in another order are the same labels, also those a former process wrote."""
    server.add("nodes", "", "n1", metadata={"labels": {_key(_FIRST): "true", _key(_SECOND): "true"}})
    labels.sync([_FIRST, _SECOND])
    server.wait_for(lambda: 1 == server.count("GET", "nodes"))
    labels.sync([_SECOND, _FIRST])
    labels.sync([_THIRD])
    server.wait_for(lambda: 1 == server.count("PATCH", "nodes"))

    assert (2, 1) == (server.count("GET", "nodes"), server.count("PATCH", "nodes"))
    assert {_key(_THIRD): "true"} == _shown(server)


def test_no_artifacts_are_no_labels(server: FakeApiServer, labels: NodeLabels) -> None:
    """A pruned store takes the last label away."""
    server.add("nodes", "", "n1", metadata={"labels": {_key(_FIRST): "true"}})
    labels.sync([])
    server.wait_for(lambda: server.count("PATCH", "nodes"))

    assert {} == _shown(server)


def test_missing_rights_are_named(server: FakeApiServer, labels: NodeLabels, caplog: pytest.LogCaptureFixture) -> None:
    """One line, then a pause: nodes are asked for by every driver of the cluster."""
    server.faults["GET", "nodes"] = 403
    with caplog.at_level(logging.WARNING):
        labels.sync([_FIRST])
        server.wait_for(lambda: server.count("GET", "nodes"))
        labels.stop(5.0)

    assert 1 == caplog.text.count("needs the right to get and patch nodes")
    assert 1 == server.count("GET", "nodes")
