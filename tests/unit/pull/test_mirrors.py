"""Mirrors: whatever one of them does, a pull gets the right bytes, and nobody gets what the registry would refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import CorruptContent, NotFound, RegistryUnavailable, Unauthenticated
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.puller import Puller, PullLimits
from modelcsi.registry.caller import Caller
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.hosts_files import HostsFiles
from modelcsi.registry.mirrors import MirrorRules
from modelcsi.registry.transport import HttpTransport, Request, Response, Timeouts, Transport
from modelcsi.store.store import Store
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.unit.pull.conftest import FILES, Pod, secret, tree_of
from tests.unit.pull.test_deliveries import LyingContent, foreign_manifest
from tests.unit.registry.conftest import refused_port

WEIGHTS = FILES["model.safetensors"]
WEIGHTS_DIGEST = str(Digest.of(WEIGHTS))
CHECKS = "x-modelcsi-checks-rights = true"
RULES = MirrorRules(Timeouts(1.0, 0.3), answer_seconds=2.0, slow_seconds=0.2, least_bytes_per_second=20 << 20)


class Counting:
    """A transport that keeps the URLs it was asked for."""

    def __init__(self, transport: Transport) -> None:
        self.urls: list[str] = []
        self._transport = transport

    def request(self, request: Request) -> Response:
        """As the transport does."""
        self.urls.append(request.url)
        return self._transport.request(request)


class Node:
    """A puller and the node's own files; the registry `origin` has models/tiny:v1, and `mirror` the same."""

    def __init__(self, directory: Path, store: Store, transport: Transport) -> None:
        self.directory = directory
        self.store = store
        self.transport = transport
        self.origin = FakeRegistry()
        self.mirror = FakeRegistry()
        self.pullers: list[Puller] = []
        self._puller: Puller | None = None
        for registry in (self.origin, self.mirror):
            registry.content.push("models/tiny", "v1", FILES)

    @property
    def puller(self) -> Puller:
        """Made when the first pod comes."""
        return self._puller or self.restart()

    def restart(self, rules: MirrorRules = RULES) -> Puller:
        """A new puller on the same store."""
        keychain = Keychain(self.directory)
        client = Registry(
            self.transport, Hosts(keychain.scheme, HostsFiles(self.directory)), keychain, mirror_rules=rules
        )
        self._puller = Puller(self.store, client, keychain, PullLimits())
        self.pullers.append(self._puller)
        return self._puller

    def write_hosts(self, *mirrors: str, host: str = "", settings: str = "") -> None:
        """A hosts.toml for the origin, or another host; `settings` are each mirror's."""
        directory = self.directory / (host or self.origin.host)
        directory.mkdir(exist_ok=True)
        tables = [f'[host."{url}"]\n{settings}\n' for url in mirrors or [self.mirror.url]]
        (directory / "hosts.toml").write_text("".join(tables))

    def write_docker_config(self, registry: FakeRegistry, user: str, password: str) -> None:
        """The node's own credentials."""
        document = json.loads(secret(registry, user, password)[".dockerconfigjson"])
        (self.directory / "config.json").write_text(json.dumps(document))

    def pod(self, owner: str = "pod", reference: str = "models/tiny:v1", **secrets: str) -> Pod:
        """Somebody who wants a model of the origin."""
        return Pod(self.puller, f"{self.origin.host}/{reference}", owner, secrets=secrets)


@pytest.fixture
def node(tmp_path: Path, store: Store, transport: HttpTransport) -> Iterator[Node]:
    """With a hosts.toml that names the mirror."""
    directory = tmp_path / "hosts"
    directory.mkdir()
    node = Node(directory, store, transport)
    with node.origin, node.mirror:
        node.write_hosts()
        yield node
        for puller in node.pullers:
            puller.stop(Deadline.after(10))


def test_bytes_come_from_the_mirror_and_rights_from_the_registry(node: Node) -> None:
    """A mirror that is not marked as checking rights sends bytes and decides nothing: what a tag means, and who may have a blob, the
    registry says.
    """
    view = node.pod().pull()
    questions = {(seen.method, seen.path.rpartition("/")[0]) for seen in node.origin.seen}

    assert FILES == tree_of(view.path)
    assert {("HEAD", "/v2/models/tiny/manifests"), ("HEAD", "/v2/models/tiny/blobs")} == questions
    assert (0, len(WEIGHTS)) == (node.origin.bytes_served.total(), node.mirror.bytes_served[WEIGHTS_DIGEST])
    assert [True] == list(
        {seen.path.endswith(f"?ns={node.origin.host.replace(':', '%3A')}") for seen in node.mirror.seen}
    )


def test_the_path_of_a_mirror_may_be_its_own(node: Node) -> None:
    """override_path: Harbor and others serve a registry below a path; what answers there is asked without /v2."""
    node.write_hosts(f"{node.mirror.url}/v2/cache", settings="override_path = true")
    node.mirror.content.blobs["cache/models/tiny"] = node.mirror.content.blobs["models/tiny"]
    node.pod().pull()

    assert 0 == node.origin.bytes_served.total()


def test_each_blob_is_proved_once(node: Node) -> None:
    """However many connections and repetitions bring it."""
    node.mirror.faults.cut_every_bytes = 1 << 20
    node.restart(MirrorRules(worth_bytes=1))
    node.pod().pull()

    assert [1] * len(FILES) == [
        sum(str(Digest.of(content)) in seen.path for seen in node.origin.seen) for content in FILES.values()
    ]


def test_a_mirror_that_ignores_ranges_is_not_begun_again(node: Node) -> None:
    """It would send what is here already, as slowly as it likes; blobs from their beginning still come from it."""
    node.mirror.faults.ignores_ranges = True
    client = Registry(node.transport, Hosts(files=HostsFiles(node.directory)))
    reference = Reference.parse(f"{node.origin.host}/models/tiny:v1")
    (mirror,) = client.mirrors(reference, Caller())
    descriptor = Descriptor("application/octet-stream", Digest.of(WEIGHTS), len(WEIGHTS))
    with pytest.raises(RegistryUnavailable, match=f"the mirror {node.mirror.host} ignores Range, and byte 5 is wanted"):
        mirror.open_blob(descriptor, 5)
    with mirror.open_blob(descriptor) as stream:
        assert stream.read(4) == WEIGHTS[:4]


def test_a_manifest_of_an_attacker_names_a_private_digest(node: Node) -> None:
    """The mirror would serve it to everybody; the registry does not have it in the attacker's repository."""
    node.origin.content.add_manifest("evil/model", foreign_manifest(), "v1")
    node.mirror.content.blobs["evil/model"] = node.mirror.content.blobs["models/tiny"]
    with pytest.raises(NotFound):
        node.pod("mallory", "evil/model:v1").pull()

    assert 0 == node.mirror.blob_gets[WEIGHTS_DIGEST]


def test_what_came_by_a_mirror_is_not_another_repositorys(node: Node) -> None:
    """The bytes are on the node, and credited to the repository that showed to hold them."""
    node.pod().pull()
    node.origin.content.add_manifest("evil/model", foreign_manifest(), "v1")
    with pytest.raises(NotFound):
        node.pod("mallory", "evil/model:v1").pull()

    assert 1 == node.mirror.blob_gets[WEIGHTS_DIGEST]


def test_a_registry_that_nobody_named_opens_no_mirror(node: Node) -> None:
    """The attacker's own registry says yes to everything; the open mirror of `_default` is not asked for it."""
    node.write_hosts(host="_default")
    (node.directory / node.origin.host / "hosts.toml").unlink()
    (node.directory / node.origin.host).rmdir()
    node.mirror.content.blobs["evil/model"] = node.mirror.content.blobs["models/tiny"]
    node.origin.content.blobs["evil/model"] = LyingContent()
    node.origin.content.add_manifest("evil/model", foreign_manifest(), "v1")
    with pytest.raises(CorruptContent):
        node.pod("mallory", "evil/model:v1").pull()

    assert [] == node.mirror.seen


@pytest.mark.parametrize("fault", ["bits", "length", "unknown", "refused", "error", "manifest"])
def test_a_mirror_that_answers_anything_costs_nothing_but_time(node: Node, fault: str) -> None:
    """Garbage, other people's manifests, refusals: the registry alone decides what a pod gets."""
    faults = node.mirror.faults
    if fault == "bits":
        faults.flip_bit_of = {str(Digest.of(content)) for content in FILES.values()}
    elif fault == "length":
        faults.resize = {WEIGHTS_DIGEST: -1}
    elif fault == "unknown":
        node.mirror.content.blobs.clear()
    elif fault == "refused":
        node.mirror.auth = Auth.BASIC
    elif fault == "error":
        faults.fail_next(503, times=1000)
    else:
        faults.manifest_bytes = b'{"schemaVersion":2}'
    view = node.pod().pull()

    assert FILES == tree_of(view.path)
    assert node.mirror.blob_gets[WEIGHTS_DIGEST] <= 1


def test_wrong_bytes_of_a_mirror_are_fetched_once(node: Node) -> None:
    """The next pull of the blob does not ask the mirror again, and the registry serves it once."""
    node.mirror.faults.flip_bit_of = {WEIGHTS_DIGEST}
    node.pod().pull()

    assert (1, 1) == (node.mirror.blob_gets[WEIGHTS_DIGEST], node.origin.blob_gets[WEIGHTS_DIGEST])


def test_three_wrong_mirrors_do_not_use_up_the_attempts(node: Node) -> None:
    """The registry is good, so the pull succeeds."""
    mirrors = [FakeRegistry(content=node.mirror.content) for _ in range(4)]
    for mirror in mirrors:
        mirror.faults.flip_bit_of = {WEIGHTS_DIGEST}
    with mirrors[0], mirrors[1], mirrors[2], mirrors[3]:
        node.write_hosts(*(mirror.url for mirror in mirrors))
        view = node.pod().pull()

    assert FILES == tree_of(view.path)


def test_a_mirror_without_a_blob_is_followed_by_the_next(node: Node) -> None:
    """In the order of the file, then the registry."""
    with FakeRegistry() as empty:
        node.write_hosts(empty.url, node.mirror.url)
        node.pod().pull()

        assert (1, 0) == (empty.blob_gets[WEIGHTS_DIGEST], empty.bytes_served.total())
    assert (1, 0) == (node.mirror.blob_gets[WEIGHTS_DIGEST], node.origin.bytes_served.total())


def test_a_mirror_may_be_left_out_of_pulling(node: Node) -> None:
    """By its capabilities; and nobody but a mirror that checks rights resolves."""
    node.write_hosts(settings='capabilities = ["resolve"]')
    node.pod().pull()

    assert [] == node.mirror.seen


def test_a_dead_mirror_is_asked_once(node: Node) -> None:
    """Then it is left alone, for all blobs and pulls."""
    dead = f"http://127.0.0.1:{refused_port()}"
    node.write_hosts(dead)
    counted = Counting(node.transport)
    node.transport = counted
    node.pod().pull()
    node.origin.content.push("models/other", "v1", {"other": b"other"})
    node.pod("other", "models/other:v1").pull()

    assert 1 == len([url for url in counted.urls if url.startswith(dead)])


@pytest.mark.parametrize("fault", ["stalls", "slow", "breaks"])
def test_a_mirror_that_fails_in_the_middle_is_left_for_the_registry(node: Node, fault: str) -> None:
    """What it sent is kept: the registry is asked for the rest by Range."""
    if fault == "stalls":
        node.mirror.faults.stall_after_bytes = 1 << 20
    elif fault == "slow":
        node.mirror.faults.bytes_per_second = 1 << 20
    else:
        node.mirror.faults.cut_every_bytes = 1 << 20
    view = node.pod().pull()
    rest = [seen for seen in node.origin.seen if seen.method == "GET" and WEIGHTS_DIGEST in seen.path]

    assert FILES == tree_of(view.path)
    assert [True] == [seen.headers.get("range", "bytes=0-")[6] != "0" for seen in rest]
    assert 0 < node.origin.bytes_served[WEIGHTS_DIGEST] < len(WEIGHTS)


def test_a_tag_that_moved_is_the_registrys_word(node: Node) -> None:
    """The mirror still has the old one, and is not asked for tags."""
    new = {"new.safetensors": b"new"}
    node.origin.content.push("models/tiny", "v1", new)
    view = node.pod().pull()

    assert new == tree_of(view.path)


def test_credentials_of_the_registry_never_reach_a_mirror(node: Node) -> None:
    """It gets the node's own for its name, and the headers of the file; a token service of the mirror too."""
    node.origin.auth, node.origin.users = Auth.BEARER, {"alice": User("s3cret")}
    node.mirror.auth, node.mirror.users = Auth.BEARER, {"node": User("n0de")}
    node.write_docker_config(node.mirror, "node", "n0de")
    node.write_hosts(settings='header.X-Node = "h3ader"')
    view = node.pod(**secret(node.origin, "alice", "s3cret")).pull()

    assert FILES == tree_of(view.path)
    assert (0, True) == (node.origin.bytes_served.total(), node.mirror.bytes_served.total() > 0)
    assert ([], []) == (node.mirror.leaked("alice", "s3cret"), node.origin.leaked("n0de", "h3ader"))
    assert all(seen.headers.get("x-node") == "h3ader" for seen in node.mirror.seen if seen.path.startswith("/v2/"))


def test_headers_of_a_mirror_do_not_follow_its_redirects(node: Node) -> None:
    """They may be secret, and the object store behind it is another host."""
    with FakeRegistry(content=node.mirror.content) as storage:
        node.mirror.faults.redirect_blobs_to = storage.url
        node.write_hosts(settings='header.X-Node = "h3ader"')
        node.pod().pull()

        assert (1, []) == (storage.blob_gets[WEIGHTS_DIGEST], storage.leaked("h3ader"))


def test_who_may_not_pull_gets_nothing_by_a_mirror(node: Node) -> None:
    """The mirror is open, the registry is not."""
    node.origin.auth = Auth.BASIC
    with pytest.raises(Unauthenticated):
        node.pod().pull()

    assert [] == node.mirror.seen


def test_with_the_registry_down_an_open_mirror_proves_nothing(node: Node) -> None:
    """The pod waits, and is told that it is the registry that is missed."""
    node.origin.faults.fail_next(503, times=1000)
    with pytest.raises(RegistryUnavailable, match="cannot serve") as caught:
        node.pod().pull()

    assert [] == node.mirror.seen
    assert "x-modelcsi-checks-rights" in caught.value.hint


def test_a_mirror_that_checks_rights_stands_for_the_registry(node: Node) -> None:
    """With the registry down: its tag, its proof and its bytes; the next pod of the same credentials needs no network."""
    node.write_hosts(settings=CHECKS)
    node.origin.faults.fail_next(503, times=1000)
    first = node.pod().pull()
    before = len(node.mirror.seen)
    second = node.pod("second").pull()

    assert (FILES, first) == (tree_of(first.path), second)
    assert (before, []) == (len(node.mirror.seen), node.origin.seen)


def test_a_mirror_that_checks_rights_gets_the_pods_credentials_for_it(node: Node) -> None:
    """And only those; a pod without any is refused by the mirror, and then by the registry."""
    node.write_hosts(settings=CHECKS)
    node.origin.auth, node.origin.users = Auth.BASIC, {"alice": User("s3cret")}
    node.mirror.auth, node.mirror.users = Auth.BASIC, {"bob": User("m1rror")}
    both = {
        registry.host: json.loads(secret(registry, user, password)[".dockerconfigjson"])["auths"][registry.host]
        for registry, user, password in ((node.origin, "alice", "s3cret"), (node.mirror, "bob", "m1rror"))
    }
    view = node.pod(**{".dockerconfigjson": json.dumps({"auths": both})}).pull()
    with pytest.raises(Unauthenticated):
        node.pod("nobody").pull()

    assert FILES == tree_of(view.path)
    assert [] == [*node.mirror.leaked("s3cret"), *node.origin.leaked("m1rror")]
    assert 0 == node.origin.bytes_served.total()


def test_a_wrong_secret_for_the_registry_gets_nothing_at_such_a_mirror(node: Node) -> None:
    """At a mirror that checks rights, too, a secret of the request that names the registry is used alone.

    The node may read there, and the pod is who its secret says; the registry refuses that one.
    """
    node.write_hosts(settings=CHECKS)
    for registry in (node.origin, node.mirror):
        registry.auth, registry.users = Auth.BASIC, {"alice": User("s3cret")}
    node.write_docker_config(node.mirror, "alice", "s3cret")
    with pytest.raises(Unauthenticated):
        node.pod(**secret(node.origin, "alice", "wrong")).pull()

    assert [] == node.mirror.seen


def test_what_such_a_mirror_refuses_the_registry_may_give(node: Node) -> None:
    """Its word counts where it says yes."""
    node.write_hosts(settings=CHECKS)
    node.mirror.auth = Auth.BASIC
    view = node.pod().pull()

    assert FILES == tree_of(view.path)


def test_the_job_says_who_sent_what(node: Node) -> None:
    """For status, events and metrics."""
    ended: list[dict[str, int]] = []
    over = threading.Event()

    class Observer:
        pull_started: Callable[..., None] = staticmethod(lambda *_: None)
        layer_finished: Callable[..., None] = staticmethod(lambda *_: None)

        def pull_finished(self, job: object, error: Exception | None) -> None:
            ended.append(dict(job.received))  # type: ignore[attr-defined]
            over.set()

    node.puller.observer = Observer()
    node.pod().pull()

    assert over.wait(10)
    assert [{node.mirror.host: sum(map(len, FILES.values()))}] == ended


def test_a_registry_that_cannot_be_asked_for_blobs_serves_them_itself(node: Node) -> None:
    """Neither HEAD nor Range: nothing is shown, and nothing taken from the mirror."""
    node.origin.faults.refuse_head = 405
    node.origin.faults.ignores_ranges = True
    node.origin.faults.chunked = True
    view = node.pod().pull()

    assert FILES == tree_of(view.path)
    assert 0 == node.mirror.blob_gets[WEIGHTS_DIGEST]
