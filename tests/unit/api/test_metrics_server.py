from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from modelcsi.api.metrics_server import MetricsServer
from modelcsi.api.server import Request
from modelcsi.config.address import TcpAddress
from modelcsi.errors import InvalidRequest
from modelcsi.metrics import Metrics, MountItem, MountType

_ANY_PORT = TcpAddress("127.0.0.1", 0)


class _Readiness:
    reason: str | None = "repairing 3 volumes"

    def __call__(self) -> str | None:
        return self.reason


@pytest.fixture
def readiness() -> _Readiness:
    """Not ready to begin with."""
    return _Readiness()


@pytest.fixture
def metrics() -> Metrics:
    """One private model, mounted."""
    metrics = Metrics()
    metrics.watch_mounts(lambda: [MountItem("registry/private:v1", MountType.INLINE, "csi-1", "MOUNTED")])
    return metrics


@pytest.fixture
def server(metrics: Metrics, readiness: _Readiness) -> Iterator[MetricsServer]:
    """Serving on a free port."""
    server = MetricsServer([_ANY_PORT], metrics, readiness)
    server.start()
    yield server
    server.stop()


def _get(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    (address, *_) = server.addresses
    connection = http.client.HTTPConnection(address.host, address.port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    content = response.read().decode()
    connection.close()
    return response.status, response.headers["Content-Type"], content


def test_metrics_are_served_without_names_of_models(server: MetricsServer, metrics: Metrics) -> None:
    """`/metrics` is the text format, and counts models without naming them."""
    with metrics.operation("publish_volume"):
        pass
    status, content_type, text = _get(server, "/metrics")

    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (status, content_type)
    assert 'model_csi_node_op_succeed{op="publish_volume"} 1.0' in text
    assert "private" not in text


def test_the_detail_names_models(server: MetricsServer) -> None:
    """`/metrics/detail` has one series for each mounted volume."""
    assert 'model_csi_mount_item{mount_id="",reference="registry/private:v1"' in _get(server, "/metrics/detail")[2]


@pytest.mark.parametrize(
    ("reached_at", "is_shown", "status"),
    [
        ("127.0.0.1", False, 200),
        ("::1", False, 200),
        ("10.0.0.1", False, 403),
        ("fd00::1", False, 403),
        ("10.0.0.1", True, 200),
    ],
)
def test_names_of_models_leave_the_node_only_where_wanted(
    metrics: Metrics, readiness: _Readiness, reached_at: str, is_shown: bool, status: int
) -> None:
    """Every pod of the cluster reaches the pod's address; what it shall not read is told on loopback."""
    server = MetricsServer([], metrics, readiness, shows_detail=lambda: is_shown)
    detail, plain, health = (
        server.respond(Request("GET", path, b"", reached_at)) for path in ("/metrics/detail", "/metrics", "/healthz")
    )

    assert (status, 200, 200) == (detail.status, plain.status, health.status)
    assert (status == 200) == (b"private" in detail.body)


def test_alive_and_ready_are_two_questions(server: MetricsServer, readiness: _Readiness) -> None:
    """`/healthz` is fine while the process serves; `/readyz` says what it waits for until it is done."""
    before = [_get(server, path)[::2] for path in ("/healthz", "/readyz")]
    readiness.reason = None

    assert [(200, "ok\n"), (503, "not ready: repairing 3 volumes\n")] == before
    assert (200, "ok\n") == _get(server, "/readyz")[::2]


def test_other_paths_and_methods(server: MetricsServer) -> None:
    """A wrong path is 404 and says which there are, a POST is 405."""
    assert (404, "there are /metrics, /metrics/detail, /healthz and /readyz\n") == _get(server, "/")[::2]
    assert (405, "GET only\n") == _get(server, "/metrics", "POST")[::2]


def test_equal_addresses_are_bound_once(metrics: Metrics, readiness: _Readiness) -> None:
    """The pod's address may be 127.0.0.1 as well."""
    server = MetricsServer([_ANY_PORT, _ANY_PORT], metrics, readiness)
    server.start()
    count = len(server.addresses)
    server.stop()

    assert 1 == count


def test_ipv6(metrics: Metrics, readiness: _Readiness) -> None:
    """An IPv6 address is listened on as any other."""
    server = MetricsServer([TcpAddress("::1", 0)], metrics, readiness)
    try:
        server.start()
    except InvalidRequest:
        pytest.skip("no IPv6 here")
    answer = _get(server, "/healthz")[::2]
    server.stop()

    assert (200, "ok\n") == answer


def test_an_address_that_is_taken(metrics: Metrics, readiness: _Readiness) -> None:
    """An address in use is named, and those that were already bound are free again."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        first, second = (TcpAddress(*listener.getsockname()) for listener in (free, taken))
        free.close()
        server = MetricsServer([first, second], metrics, readiness)
        with pytest.raises(InvalidRequest, match=f"cannot listen on {second}: Address already in use"):
            server.start()
        again = MetricsServer([first], metrics, readiness)
        again.start()
        again.stop()

    assert () == server.addresses
