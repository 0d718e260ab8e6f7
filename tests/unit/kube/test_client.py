from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from modelcsi.config.model import KubernetesConfig
from modelcsi.errors import InvalidRequest
from modelcsi.kube.client import Answer, KubeClient, connect
from tests.fakes.api_server import FakeApiServer, Fault
from tests.unit.kube.conftest import QUICK
from tests.unit.registry.conftest import Authority, make_authority

_POD = "/api/v1/namespaces/{}/pods/{}"
_NODE = "/api/v1/nodes/{}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA without a key identifier of the authority, and a server's certificate."""
    return make_authority(tmp_path_factory.mktemp("ca"))


def test_an_object_is_read(server: FakeApiServer, client: KubeClient) -> None:
    """What the server has is the answer's document."""
    stored = server.add("pods", "team", "train", uid="u1")

    assert Answer(200, stored) == client.read(_POD, "team", "train")


def test_a_status_is_an_answer(client: KubeClient) -> None:
    """What the server refuses is no exception; its own words say why."""
    answer = client.read(_POD, "team", "train")

    assert (404, '404 pods "train" not found') == (answer.status, answer.trouble)
    assert not answer.is_ok
    assert not answer.is_passing


def test_fields_are_patched(server: FakeApiServer, client: KubeClient) -> None:
    """A merge patch sets and removes."""
    server.add("nodes", "", "n1", metadata={"labels": {"a": "1", "b": "2"}})
    answer = client.patch(_NODE, "n1", body={"metadata": {"labels": {"b": None, "c": "3"}}})

    assert {"a": "1", "c": "3"} == answer.document["metadata"]["labels"]


@pytest.mark.parametrize("name", ["..", "a/b", "", "-", "a?b", "a%2fb", "x" * 254, "a\n"])
def test_what_is_no_name_is_not_asked_for(server: FakeApiServer, client: KubeClient, name: str) -> None:
    """Names come from requests: none may lead to another path."""
    answer = client.read(_POD, name, "train")

    assert 400 == answer.status
    assert [] == server.seen


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.LOST, Fault.GARBAGE, Fault.TRICKLE, 500, 503, 429])
def test_trouble_passes_in_bounded_time(server: FakeApiServer, client: KubeClient, fault: int | Fault) -> None:
    """A silent, broken or busy server is an answer, soon, and without a second request."""
    server.add("pods", "team", "train")
    server.faults["GET", "pods"] = fault
    began = time.monotonic()
    answer = client.read(_POD, "team", "train")

    assert answer.is_passing
    assert answer.trouble
    assert time.monotonic() - began < 2.0
    assert 1 == server.count("GET", "pods")


def test_a_refused_connection_is_an_answer(tmp_path: Path) -> None:
    """Nobody listens: the trouble names the server."""
    with FakeApiServer() as server:
        client = KubeClient(server.kubeconfig(tmp_path / "kubeconfig"), QUICK)
    answer = client.read(_NODE, "n1")

    assert answer.is_passing
    assert answer.trouble.startswith(f"{client.server} gives no answer: ")


def test_a_secret_is_in_no_text(server: FakeApiServer, client: KubeClient) -> None:
    """An answer that reaches a log or a traceback shows its status only."""
    server.add("secrets", "team", "pull", data={"key": "s3cret"})

    assert "s3cret" not in repr(client.read("/api/v1/namespaces/{}/secrets/{}", "team", "pull"))


def test_a_rotated_token_file_of_a_kubeconfig_is_read_again(server: FakeApiServer, tmp_path: Path) -> None:
    """The library reads `tokenFile` once; a refusal makes the client read it again."""
    token = tmp_path / "token"
    token.write_text("first")
    server.tokens = {"first"}
    server.add("nodes", "", "n1")
    client = KubeClient(server.kubeconfig(tmp_path / "kubeconfig", user={"tokenFile": str(token)}), QUICK)
    before = client.read(_NODE, "n1").status
    token.write_text("second")
    server.tokens = {"second"}

    assert (200, 200) == (before, client.read(_NODE, "n1").status)
    assert ["Bearer first", "Bearer first", "Bearer second"] == [seen.authorization for seen in server.seen]


def test_a_token_that_stays_wrong_is_asked_with_once(server: FakeApiServer, tmp_path: Path) -> None:
    """A refusal is not answered with a flood of requests."""
    server.tokens = {"right"}
    client = KubeClient(server.kubeconfig(tmp_path / "kubeconfig", user={"token": "wrong"}), QUICK)
    statuses = [client.read(_NODE, "n1").status for _ in range(3)]

    assert [401, 401, 401] == statuses
    assert 4 == len(server.seen)


def test_the_service_account_of_a_pod(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cluster the pod's own token and CA are used, and a token that was rotated."""
    token = tmp_path / "token"
    token.write_text("first")
    with FakeApiServer(tls=authority.server_context()) as server:
        server.add("nodes", "", "n1")
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.ca))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        client, server.tokens = KubeClient(timeouts=QUICK), {"first"}
        before = client.read(_NODE, "n1")
        token.write_text("second")
        server.tokens = {"second"}

        assert (200, 200) == (before.status, client.read(_NODE, "n1").status), before.trouble


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_no_proxy_is_between_a_pod_and_its_cluster(
    name: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy is the one to the registries; it knows no service address, and NO_PROXY often does not name that."""
    token = tmp_path / "token"
    token.write_text("t")
    with FakeApiServer(tls=authority.server_context()) as server:
        server.add("nodes", "", "n1")
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.ca))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        answer = KubeClient(timeouts=QUICK).read(_NODE, "n1")

    assert (200, "") == (answer.status, answer.trouble)


def test_a_server_of_another_ca_is_not_believed(authority: Authority, tmp_path: Path) -> None:
    """TLS is verified with the configured CA only."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    with FakeApiServer(tls=authority.server_context()) as server:
        config = server.kubeconfig(tmp_path / "kubeconfig", ca_file=make_authority(stranger).ca, user={"token": "t"})
        answer = KubeClient(config, QUICK).read(_NODE, "n1")

    assert 0 == answer.status
    assert "CERTIFICATE_VERIFY_FAILED" in answer.trouble
    assert [] == server.seen


@pytest.mark.parametrize("text", [None, "", "a: [", "[]", "clusters: 7\ncontexts: []", '{"current-context": "x"}'])
def test_an_unusable_kubeconfig_is_named(text: str | None, tmp_path: Path) -> None:
    """A file that is absent, empty or something else is an error with its path."""
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidRequest, match=str(path)):
        KubeClient(path)


def test_without_a_cluster_the_driver_says_what_it_lacks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, and no client."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with caplog.at_level(logging.WARNING):
        client = connect(KubernetesConfig(events=True, pull_secrets=True))

    assert client is None
    assert 1 == len(caplog.messages)
    assert "no events on pods, no imagePullSecrets: this is no pod with a service account" in caplog.text


def test_nothing_is_imported_before_it_is_needed() -> None:
    """A driver without an API server pays nothing for the library."""
    code = (
        "import sys, modelcsi.kube.events, modelcsi.kube.pods, modelcsi.kube.node_labels, modelcsi.kube.driver_object;"
        "sys.exit('kubernetes' in sys.modules)"
    )

    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
