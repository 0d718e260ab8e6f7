"""Which of a caller's many sources of credentials count for what is on the node, and what is said when none does."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelcsi.config.model import ServiceAccountToken
from modelcsi.deadline import Deadline
from modelcsi.errors import ClusterUnavailable, NotFound, Unauthenticated
from modelcsi.oci.reference import Reference
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.resolve import Resolved, Resolver, Wish
from modelcsi.registry import caller
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain, Sources
from modelcsi.registry.hosts_files import HostsFiles
from modelcsi.registry.node_access import NodeAccess
from modelcsi.store.store import Store
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.unit.pull.conftest import FILES, secret
from tests.unit.registry.plugins import jwt

POD = caller.Pod("team-a", "pod", "uid", "trainer")


class Api:
    """The API server's secrets."""

    def __init__(self, *secrets: Mapping[str, str]) -> None:
        self.secrets = secrets
        self.is_away = False
        self.asked = 0

    def secrets_of(self, pod: caller.Pod) -> caller.PodSecrets:
        """As `kube` does."""
        self.asked += 1
        if self.is_away:
            return caller.PodSecrets(
                (), ("the pod cannot be read now: the API server does not answer",), is_passing=True
            )
        return caller.PodSecrets(self.secrets)


class Node:
    """A resolver whose keychain changes, on one store."""

    def __init__(self, store: Store, client: Registry, registry: FakeRegistry) -> None:
        self._resolver = Resolver(store, client, Keychain(None))
        self._client = client
        self.registry = registry
        self.store = store

    def resolve(
        self,
        sources: Sources,
        config_dir: Path | None = None,
        who: caller.Caller | None = None,
        policy: str = "IfNotPresent",
    ) -> Resolved:
        """One publish with these sources; what it got stays on the node."""
        self._resolver.use(self._client, Keychain(config_dir, sources))
        reference = Reference.parse(f"{self.registry.host}/models/tiny:v1")
        resolved = self._resolver.resolve(
            Wish(reference, PullPolicy(policy), caller=who or caller.Caller(pod=POD)), Deadline.after(20)
        )
        self.store.content.keep_manifest(resolved.artifact.digest, resolved.manifest)
        return resolved

    @property
    def requests(self) -> int:
        """How often the registry was asked for a manifest."""
        return self.registry.manifest_requests + self.registry.manifest_heads


@pytest.fixture
def node(store: Store, client: Registry, private: FakeRegistry) -> Node:
    """One that has nothing yet; the registry has a private model."""
    private.content.push("models/tiny", "v1", FILES)
    return Node(store, client, private)


def config(directory: Path, registry: FakeRegistry, user: str, password: str) -> Path:
    """A node's docker config."""
    text = secret(registry, user, password)[".dockerconfigjson"]
    (directory / "config.json").write_text(text, encoding="utf-8")
    return directory


def test_a_renewed_service_account_token_needs_no_network(node: Node) -> None:
    """A service account that was accepted for a model needs no request for it when its token is renewed. Another one does."""
    sources = Sources(tokens=(ServiceAccountToken((node.registry.host,), "registry", "sa"),))
    first, second, other = jwt("trainer", "1"), jwt("trainer", "2"), jwt("trainer", "3", namespace="team-b")
    node.registry.users["sa"] = User(first)
    node.resolve(sources, who=caller.Caller({}, POD, {"registry": first}))
    before = node.requests
    node.resolve(sources, who=caller.Caller({}, POD, {"registry": second}))

    assert before == node.requests
    with pytest.raises(
        Unauthenticated, match="the credentials of the token of the service account team-b/trainer for the audience reg"
    ):
        node.resolve(sources, who=caller.Caller({}, POD, {"registry": other}))


def test_pull_secrets_prove_by_their_value(node: Node) -> None:
    """The same secret counts again without the registry; another one is asked for."""
    api = Api(secret(node.registry, "alice", "s3cret"))
    sources = Sources(api, has_pod_info=lambda: True)
    node.resolve(sources)
    before = node.requests
    node.resolve(sources)

    assert (before, 2) == (node.requests, api.asked)
    api.secrets = (secret(node.registry, "alice", "guessed"),)
    with pytest.raises(Unauthenticated, match="the credentials of the pod's imagePullSecrets"):
        node.resolve(sources)


@pytest.mark.parametrize("policy", ["IfNotPresent", "Never"])
def test_without_the_api_server_a_refusal_is_not_final(node: Node, policy: str) -> None:
    """While the API server is away, a pod whose imagePullSecrets cannot be read is not refused for good: the answer is UNAVAILABLE.

    They may be all that is lacking.
    """
    api = Api(secret(node.registry, "alice", "s3cret"))
    sources = Sources(api, has_pod_info=lambda: True)
    node.resolve(sources)
    api.is_away = True
    with pytest.raises(ClusterUnavailable, match="the pod's imagePullSecrets cannot be read now, and") as caught:
        node.resolve(sources, policy=policy)
    api.is_away = False
    node.resolve(sources, policy=policy)

    assert "the API server does not answer" in caught.value.hint


@pytest.fixture
def hosts(node: Node, tmp_path: Path) -> HostsFiles:
    """An admin wrote alice's Authorization into the registry's hosts.toml."""
    basic = base64.b64encode(b"alice:s3cret").decode()
    directory = tmp_path / node.registry.host
    directory.mkdir()
    (directory / "hosts.toml").write_text(f'[header]\nauthorization = "Basic {basic}"\n', encoding="utf-8")
    return HostsFiles(tmp_path)


def test_an_authorization_of_hosts_toml_is_the_nodes(node: Node, hosts: HostsFiles, tmp_path: Path) -> None:
    """What a registry's hosts.toml shows for the node serves those who may use the node's credentials, and nobody else.

    It is sent unasked, and proves nothing once it is gone.
    """
    vault = caller.Caller(pod=caller.Pod("vault", "pod", "uid", "trainer"))
    access = NodeAccess({node.registry.host: ("vault",)})
    sources = Sources(hosts=hosts, node_access=access, has_pod_info=lambda: True)
    admitted = node.resolve(sources, who=vault)
    sent = ["authorization" in seen.headers for seen in node.registry.seen]
    with pytest.raises(Unauthenticated, match="without credentials") as caught:
        node.resolve(sources)
    (tmp_path / node.registry.host / "hosts.toml").unlink()
    with pytest.raises(Unauthenticated):
        node.resolve(sources, who=vault)

    assert ("the node's hosts.toml", {True}) == (admitted.repository.credentials.source, set(sent[-1:]))
    assert "does not give those of" in caught.value.hint


def test_a_broken_hosts_toml_leaves_what_is_proved(node: Node, tmp_path: Path) -> None:
    """Nobody can ask such a registry; a model that is on the node is mounted without."""
    config(tmp_path, node.registry, "alice", "s3cret")
    node.resolve(Sources(), tmp_path)
    (tmp_path / node.registry.host).mkdir()
    (tmp_path / node.registry.host / "hosts.toml").write_text("server = ", encoding="utf-8")
    before = node.requests
    node.resolve(Sources(hosts=HostsFiles(tmp_path)), tmp_path)

    assert before == node.requests


def test_an_authorization_of_hosts_toml_is_not_added_to_a_pods_secret(node: Node, hosts: HostsFiles) -> None:
    """The registry would say yes to the admin's, whatever the secret is."""
    with pytest.raises(Unauthenticated, match="the volume's secret"):
        node.resolve(Sources(hosts=hosts), who=caller.Caller(secret(node.registry, "alice", "wrong")))


def test_without_the_api_server_no_model_is_missing_for_good(node: Node) -> None:
    """Some registries say that there is no such repository to those who may not see it."""
    api = Api()
    api.is_away = True
    node.registry.faults.fail_next(404, path="/manifests/")
    with pytest.raises(ClusterUnavailable, match="does not exist"):
        node.resolve(Sources(api, has_pod_info=lambda: True))


def test_without_the_api_server_other_sources_count(node: Node, tmp_path: Path) -> None:
    """The node's docker config needs no API server."""
    api = Api()
    api.is_away = True
    resolved = node.resolve(Sources(api, has_pod_info=lambda: True), config(tmp_path, node.registry, "alice", "s3cret"))

    assert "alice" == resolved.repository.credentials.username


def test_a_driver_that_was_never_told_of_the_cluster_refuses_nobody_for_good(node: Node) -> None:
    """It does not know yet whether kubelet vouches for pods; once it knows that it does not, the registry's word is the answer."""
    api = Api(secret(node.registry, "alice", "s3cret"))
    with pytest.raises(ClusterUnavailable, match="the pod's imagePullSecrets cannot be read now"):
        node.resolve(Sources(api, has_pod_info=lambda: None))
    with pytest.raises(Unauthenticated, match="podInfoOnMount"):
        node.resolve(Sources(api, has_pod_info=lambda: False))


def test_a_proof_at_hand_asks_nobody(node: Node, tmp_path: Path) -> None:
    """The API server may be down, or slow, while the node's docker config was proved."""
    config(tmp_path, node.registry, "alice", "s3cret")
    api = Api()
    sources = Sources(api, has_pod_info=lambda: True)
    node.resolve(sources, tmp_path)
    before = (node.requests, api.asked)
    node.resolve(sources, tmp_path)

    assert before == (node.requests, api.asked)


def test_an_anonymous_proof_asks_nobody(node: Node) -> None:
    """A public model is everybody's: no API server, no plugin."""
    node.registry.public.add("models/tiny")
    node.resolve(Sources())
    before, api = node.requests, Api(secret(node.registry, "alice", "s3cret"))
    node.resolve(Sources(api, has_pod_info=lambda: True))

    assert (before, 0) == (node.requests, api.asked)


def test_stale_credentials_of_the_node_do_not_hide_a_public_model(node: Node, tmp_path: Path) -> None:
    """None is the last source; registries with a token service want to know who asks even for what is public."""
    node.registry.auth = Auth.BEARER
    node.registry.public.add("models/tiny")
    resolved = node.resolve(Sources(), config(tmp_path, node.registry, "alice", "expired"))

    assert resolved.repository.credentials.is_anonymous


def test_a_refused_secret_of_the_request_is_not_tried_without(node: Node) -> None:
    """A secret of the request that names the registry is used alone: if it is refused, nothing of the node's or of nobody's is tried."""
    node.registry.auth = Auth.BEARER
    node.registry.public.add("models/tiny")
    with pytest.raises(Unauthenticated, match="the credentials of the volume's secret"):
        node.resolve(Sources(), who=caller.Caller(secret(node.registry, "alice", "guessed"), POD))


def test_the_first_sources_error_is_the_answer(node: Node, tmp_path: Path) -> None:
    """Not that of being anonymous, which every refusal ends with."""
    sources = Sources(Api(secret(node.registry, "bob", "b0b")), has_pod_info=lambda: True)
    with pytest.raises(Exception, match="with the credentials of the pod's imagePullSecrets") as caught:
        node.resolve(sources, config(tmp_path, node.registry, "alice", "expired"))

    assert "is it private?" not in str(caught.value)


@pytest.mark.parametrize("policy", ["IfNotPresent", "Never"])
def test_the_map_stands_in_the_hint(node: Node, tmp_path: Path, policy: str) -> None:
    """Else an admin sees a 401 and a docker config that is right; the model is on the node."""
    config(tmp_path, node.registry, "alice", "s3cret")
    node.resolve(Sources(), tmp_path)
    access = NodeAccess({node.registry.host: ("team-b",)})
    with pytest.raises((Unauthenticated, NotFound)) as caught:
        node.resolve(Sources(node_access=access, has_pod_info=lambda: True), tmp_path, policy=policy)

    reason = f"does not give those of {node.registry.host} to the namespace team-a"
    assert (True, True) == (reason in caught.value.hint, "; " in caught.value.hint)
    assert "s3cret" not in json.dumps([caught.value.message, caught.value.hint])
