"""Which manifest a wish means, and who may have it: policies, what is cached, proofs, credentials."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import (
    CorruptContent,
    Forbidden,
    InvalidRequest,
    NotFound,
    RegistryUnavailable,
    Unauthenticated,
    UnsupportedArtifact,
)
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import OCI_INDEX, OCI_MANIFEST
from modelcsi.oci.reference import Reference
from modelcsi.pull.documents import Recogniser, StoredDocuments
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import Puller
from modelcsi.pull.resolve import Wish
from modelcsi.registry.caller import Caller
from modelcsi.store.store import Store
from tests.fakes.content import FILE_PATH, MODEL_ARTIFACT, RAW_WEIGHT
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, Pod, secret


def requests(registry: FakeRegistry) -> int:
    """How often it was asked for a manifest."""
    return registry.manifest_requests + registry.manifest_heads


@pytest.fixture
def alice(puller: Puller, private: FakeRegistry) -> Pod:
    """A pod that may pull the private model."""
    private.content.push("models/tiny", "v1", FILES)
    return Pod(puller, f"{private.host}/models/tiny:v1", secrets=secret(private, "alice", "s3cret"))


def like(pod: Pod, **changes: Any) -> Pod:
    """Another pod."""
    return Pod(
        **{
            name: changes.get(name, getattr(pod, name))
            for name in ("puller", "reference", "owner", "policy", "secrets", "pinned")
        }
    )


def test_a_tag_is_asked_once(puller: Puller, fake: FakeRegistry) -> None:
    """IfNotPresent: what is here and proven needs no network."""
    digest = fake.content.push("models/tiny", "v1", FILES)
    pod = Pod(puller, f"{fake.host}/models/tiny:v1")
    pod.pull()
    before = requests(fake)
    resolved = pod.resolve()

    assert (digest, before) == (resolved.artifact.digest, requests(fake))


def test_a_moved_tag(puller: Puller, fake: FakeRegistry) -> None:
    """IfNotPresent stays with what the tag meant; Always follows it."""
    first = fake.content.push("models/tiny", "v1", FILES)
    pod = Pod(puller, f"{fake.host}/models/tiny:v1")
    pod.pull()
    second = fake.content.push("models/tiny", "v1", FILES | {"new": b"1"})
    stayed, followed = pod.resolve(), like(pod, policy=PullPolicy.ALWAYS).resolve()

    assert (first, second) == (stayed.artifact.digest, followed.artifact.digest)
    assert second == pod.resolve().artifact.digest


def test_always_asks_by_head(puller: Puller, fake: FakeRegistry) -> None:
    """A registry that counts pulls counts GETs: a manifest that is here is not fetched again."""
    fake.content.push("models/tiny", "v1", FILES)
    pod = Pod(puller, f"{fake.host}/models/tiny:v1", policy=PullPolicy.ALWAYS)
    pod.pull()
    pod.resolve()

    assert (1, 1) == (fake.manifest_requests, fake.manifest_heads)


def test_a_volume_keeps_its_digest(puller: Puller, fake: FakeRegistry) -> None:
    """A publication that was resolved once stays with it, whatever the policy and the tag."""
    first = fake.content.push("models/tiny", "latest", FILES)
    pod = Pod(puller, f"{fake.host}/models/tiny", policy=PullPolicy.ALWAYS)
    pod.pull()
    fake.content.push("models/tiny", "latest", FILES | {"new": b"1"})
    before = requests(fake)
    pinned = like(pod, pinned=first).resolve()

    assert (first, before) == (pinned.artifact.digest, requests(fake))


def test_a_pinned_digest_that_is_not_here(puller: Puller, fake: FakeRegistry) -> None:
    """It is asked for by digest; the tag is not read, nor written."""
    first = fake.content.push("models/tiny", "v1", FILES)
    second = fake.content.push("models/tiny", "v1", FILES | {"new": b"1"})
    pod = Pod(puller, f"{fake.host}/models/tiny:v1", pinned=first)

    assert (first, second) == (pod.resolve().artifact.digest, like(pod, pinned=None).resolve().artifact.digest)


def test_a_reference_by_digest(puller: Puller, fake: FakeRegistry) -> None:
    """The tag beside it is decoration."""
    digest = fake.content.push("models/tiny", "v1", FILES)
    fake.content.push("models/tiny", "v1", FILES | {"new": b"1"})

    assert digest == Pod(puller, f"{fake.host}/models/tiny:v1@{digest}").resolve().artifact.digest


def test_never_asks_nobody(puller: Puller, fake: FakeRegistry) -> None:
    """What is not here is not found; what is here, and proven, is."""
    digest = fake.content.push("models/tiny", "v1", FILES)
    never = Pod(puller, f"{fake.host}/models/tiny:v1", policy=PullPolicy.NEVER)
    with pytest.raises(NotFound, match="pullPolicy is Never"):
        never.resolve()
    asked = requests(fake)
    like(never, policy=PullPolicy.IF_NOT_PRESENT).pull()

    assert (0, digest) == (asked, never.resolve().artifact.digest)


def test_without_the_registry(puller: Puller, client: Any, store: Any) -> None:
    """IfNotPresent and Never go on with what is proven; Always is unavailable."""
    with FakeRegistry() as fake:
        digest = fake.content.push("models/tiny", "v1", FILES)
        pod = Pod(puller, f"{fake.host}/models/tiny:v1")
        pod.pull()
    found = [
        like(pod, policy=policy).resolve().artifact.digest for policy in (PullPolicy.IF_NOT_PRESENT, PullPolicy.NEVER)
    ]
    with pytest.raises(RegistryUnavailable):
        like(pod, policy=PullPolicy.ALWAYS).resolve()

    assert [digest, digest] == found


def test_no_such_tag(puller: Puller, fake: FakeRegistry) -> None:
    """The reference is named."""
    with pytest.raises(NotFound, match="models/tiny:v1"):
        Pod(puller, f"{fake.host}/models/tiny:v1").resolve()


@pytest.mark.parametrize(
    ("user", "password", "error"),
    [("alice", "wrong", Unauthenticated), ("bob", "b0b", Forbidden), ("", "", Unauthenticated)],
)
@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("policy", list(PullPolicy))
def test_whoever_the_registry_refuses(
    alice: Pod,
    private: FakeRegistry,
    user: str,
    password: str,
    error: type[Exception],
    is_cached: bool,
    policy: PullPolicy,
) -> None:
    """Gets no copy, not even one that is on the node; the message has no password."""
    if is_cached:
        alice.pull()
    secrets = secret(private, user, password) if user else {}
    expected = NotFound if policy is PullPolicy.NEVER else error
    with pytest.raises(expected) as caught:
        like(alice, secrets=secrets, policy=policy).resolve()

    assert not password or password not in str(caught.value)


def test_each_credential_proves_once(alice: Pod, private: FakeRegistry) -> None:
    """The first use asks, the next does not; another right password asks again."""
    alice.pull()
    asked = [requests(private)]
    alice.resolve()
    asked.append(requests(private))
    private.users["alice"] = type(private.users["alice"])("rotated")
    like(alice, secrets=secret(private, "alice", "rotated")).resolve()
    asked.append(requests(private))

    assert [2, 2, 4] == asked  # 401 comes before the first answer


def test_proofs_outlive_the_process(alice: Pod, make_puller: Callable[..., Puller], private: FakeRegistry) -> None:
    """A restart asks nothing again."""
    alice.pull()
    before = requests(private)
    like(alice, puller=make_puller()).resolve()

    assert before == requests(private)


def test_an_anonymous_proof_is_everybodys(puller: Puller, fake: FakeRegistry) -> None:
    """What needs no credentials is given to those who bring some, too."""
    fake.content.push("models/tiny", "v1", FILES)
    pod = Pod(puller, f"{fake.host}/models/tiny:v1")
    pod.pull()
    before = requests(fake)
    resolved = like(pod, secrets=secret(fake, "somebody", "anything")).resolve()

    assert (before, True) == (requests(fake), resolved.repository.credentials.is_anonymous)


def test_a_proof_is_for_one_repository(alice: Pod, private: FakeRegistry) -> None:
    """The same manifest elsewhere asks again."""
    alice.pull()
    private.content.push("models/copy", "v1", FILES)
    before = requests(private)
    like(alice, reference=f"{private.host}/models/copy:v1").resolve()

    assert before < requests(private)


def test_without_a_tag_in_the_database(alice: Pod, private: FakeRegistry, store: Any) -> None:
    """The database was lost: the manifest is fetched once more, and from then on a HEAD is enough."""
    digest = alice.resolve().artifact.digest
    alice.pull()
    for owner in store.records.owners(digest):
        store.records.end_lease(owner)
    store.records.forget_artifact(digest)
    gets = private.manifest_requests
    again = like(alice, reference=f"{private.host}/models/tiny@{digest}", policy=PullPolicy.ALWAYS)
    found = [again.resolve().artifact.digest for _ in range(2)]

    assert ([digest, digest], gets + 1) == (found, private.manifest_requests)


def test_a_head_of_another_host_is_no_proof(alice: Pod, fake: FakeRegistry) -> None:
    """It says yes to a private manifest that is here, and has not its bytes: it must send them."""
    digest = alice.resolve().artifact.digest
    alice.pull()
    fake.content.manifests["evil/x"][str(digest)] = (OCI_MANIFEST, alice.resolve().manifest)
    fake.faults.manifest_bytes = b"{}"
    for policy in (PullPolicy.IF_NOT_PRESENT, PullPolicy.ALWAYS):
        with pytest.raises(CorruptContent):
            like(alice, reference=f"{fake.host}/evil/x@{digest}", secrets={}, policy=policy).resolve()


def test_a_tag_of_another_host_is_no_proof(alice: Pod, fake: FakeRegistry) -> None:
    """The same by a tag, of a repository that is known here."""
    digest = alice.resolve().artifact.digest
    alice.pull()
    fake.content.push("evil/x", "v1", FILES | {"own": b"1"})
    evil = Pod(alice.puller, f"{fake.host}/evil/x:v1", policy=PullPolicy.ALWAYS)
    evil.pull()
    fake.content.manifests["evil/x"]["v1"] = (OCI_MANIFEST, alice.resolve().manifest)
    fake.faults.manifest_bytes = b"{}"
    with pytest.raises(CorruptContent, match=str(digest)):
        evil.resolve()


def test_a_digest_is_not_changed_by_what_a_head_tells(puller: Puller, fake: FakeRegistry) -> None:
    """Pinned to one, told another that is here too: the one is fetched, or nothing."""
    first = fake.content.push("models/tiny", "v1", FILES)
    second = fake.content.push("models/tiny", "v2", FILES | {"new": b"1"})
    for digest in (first, second):
        Pod(puller, f"{fake.host}/models/tiny@{digest}").pull()
    fake.content.manifests["models/tiny"][str(first)] = fake.content.manifests["models/tiny"]["v2"]
    with pytest.raises(CorruptContent):
        Pod(puller, f"{fake.host}/models/tiny@{first}", policy=PullPolicy.ALWAYS).resolve()


def test_what_is_not_recognised_leaves_nothing(puller: Puller, fake: FakeRegistry, store: Store) -> None:
    """No proof, no tag: a login page that answers 200 would have one."""
    digest = fake.content.add_manifest("models/tiny", b"<html>", "v1")
    with pytest.raises(UnsupportedArtifact):
        Pod(puller, f"{fake.host}/models/tiny:v1").resolve()
    records = store.records

    assert (None, False) == (records.tag(fake.host, "models/tiny", "v1"), records.came_from(digest, fake.host))
    assert not records.has_proof(fake.host, "models/tiny", digest, "anonymous")


S390X = {"os": "linux", "architecture": "s390x"}


def manifest_of(number: int, padding: int = 0) -> bytes:
    """A manifest of one layer; each number makes another one."""
    layer = {
        "mediaType": RAW_WEIGHT,
        "digest": str(Digest.of(b"%d" % number)),
        "size": 1,
        "annotations": {FILE_PATH: "model", "padding": "x" * padding},
    }
    return json.dumps({"schemaVersion": 2, "artifactType": MODEL_ARTIFACT, "layers": [layer]}).encode()


def test_artifacts_in_memory_are_bounded(store: Store) -> None:
    """By the sum of their manifests: what was used last stays, and a large one is not kept at all."""
    recogniser, documents = Recogniser(limit_bytes=16_000), StoredDocuments(store.content)
    small, large = manifest_of(0), manifest_of(1, 2000)
    kept = recogniser.recognise(Digest.of(small), small, documents).artifact
    for content in [large, *(manifest_of(number, 1000) for number in range(2, 22))]:
        recogniser.recognise(Digest.of(content), content, documents)
        assert kept is recogniser.recognise(Digest.of(small), small, documents).artifact
        assert recogniser.kept_bytes <= 16_000
    made = [recogniser.recognise(Digest.of(large), large, documents).artifact for _ in range(2)]

    assert made[0] is not made[1]


def test_a_kept_artifact_is_no_excuse_for_other_bytes(store: Store) -> None:
    """The digest is the key, and is compared each time."""
    recogniser, content, documents = Recogniser(), manifest_of(0), StoredDocuments(store.content)
    recogniser.recognise(Digest.of(content), content, documents)
    with pytest.raises(CorruptContent):
        recogniser.recognise(Digest.of(content), b"{}", documents)


def test_a_damaged_manifest_on_the_disk(puller: Puller, fake: FakeRegistry, store: Any) -> None:
    """It is not used, and mended by the next pull."""
    digest = fake.content.push("models/tiny", "v1", FILES)
    pod = Pod(puller, f"{fake.host}/models/tiny:v1")
    pod.pull()
    store.layout.manifest(digest).chmod(0o600)
    store.layout.manifest(digest).write_bytes(b"{}")
    pod.pull()

    assert digest == pod.resolve().artifact.digest


@pytest.mark.parametrize(
    ("manifest", "media_type", "message"),
    [
        (b"not JSON", "", "models/tiny:v1"),
        (json.dumps({"schemaVersion": 2, "layers": []}).encode(), "", "no content"),
        (
            json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_INDEX,
                    "manifests": [
                        {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"one")), "size": 3, "platform": S390X},
                        {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"two")), "size": 3, "platform": S390X},
                    ],
                }
            ).encode(),
            OCI_INDEX,
            str(Digest.of(b"one")),
        ),
    ],
)
def test_what_cannot_be_mounted(
    puller: Puller, fake: FakeRegistry, manifest: bytes, media_type: str, message: str
) -> None:
    """The reference and the reason are named."""
    arguments = {"media_type": media_type} if media_type else {}
    fake.content.add_manifest("models/tiny", manifest, "v1", **arguments)
    with pytest.raises(UnsupportedArtifact, match="models/tiny:v1: ") as caught:
        Pod(puller, f"{fake.host}/models/tiny:v1").resolve()

    assert message in str(caught.value)


def test_an_unusable_secret(puller: Puller, fake: FakeRegistry) -> None:
    """It is the request's fault, before anybody is asked."""
    wish = Wish(
        Reference.parse(f"{fake.host}/models/tiny:v1"), PullPolicy.ALWAYS, caller=Caller({"password": "s3cret"})
    )
    with pytest.raises(InvalidRequest) as caught:
        puller.resolve(wish, Patience(Deadline.after(5)))

    assert ("s3cret" in str(caught.value), 0) == (False, requests(fake))
