"""Indexes and configs: what they lead to, who may have it, and that it is here afterwards."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from modelcsi.errors import CorruptContent, Forbidden, NotFound, Unauthenticated, UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import OCI_INDEX
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import Puller
from modelcsi.store.store import Store
from tests.examples import serve
from tests.fakes.content import Content
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, Pod, secret, tree_of
from tests.unit.pull.test_mirrors import Node, node

__all__ = ["node"]

KIT_CONFIG = "application/vnd.kitops.modelkit.config.v1+json"
S390X = {"os": "linux", "architecture": "s390x"}


def entry(content: Content, repository: str, digest: Digest, **fields: Any) -> dict[str, Any]:
    """An index's entry for a manifest that is in the registry."""
    media_type, document = content.manifests[repository][str(digest)]
    return {"mediaType": media_type, "digest": str(digest), "size": len(document), **fields}


def push_index(content: Content, repository: str, tag: str, *entries: dict[str, Any]) -> Digest:
    """An index of these entries."""
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    return content.add_manifest(repository, document, tag, OCI_INDEX)


def push_model_index(content: Content, repository: str = "models/tiny", tag: str = "index") -> tuple[Digest, Digest]:
    """An index of a model without type and platform, beside something for another platform; and the model."""
    model = content.push(repository, "", FILES)
    other = content.push(repository, "", {"other": b"1"})
    entries = (entry(content, repository, other, platform=S390X), entry(content, repository, model))
    return push_index(content, repository, tag, *entries), model


def push_kit(content: Content, repository: str = "models/kit", *, inline: bool = False) -> tuple[Digest, Digest]:
    """A ModelKit of KitOps before 0.5 with one tar; its manifest and its config."""
    manifest = json.loads(content.manifests[repository][str(_kit_example(content, repository))][1])
    kitfile = json.dumps({"model": {"path": "weights/model.bin"}}).encode()
    config = content.add_blob(repository, kitfile, KIT_CONFIG)
    manifest["config"] = {"mediaType": KIT_CONFIG, "digest": str(config.digest), "size": config.size}
    if inline:
        del content.blobs[repository][str(config.digest)]
        manifest["config"]["data"] = base64.b64encode(kitfile).decode()
    del manifest["artifactType"]
    manifest["layers"] = [manifest["layers"][0] | {"annotations": {}}]
    return content.add_manifest(repository, manifest, "v1"), config.digest


def _kit_example(content: Content, repository: str) -> Digest:
    serve(content, repository, "kitops-modelkit-tar")
    return Digest.of(content.manifests[repository]["kitops-modelkit-tar"][1])


def test_index_leads_to_its_model(puller: Puller, fake: FakeRegistry, store: Store) -> None:
    """The artifact is the entry; tag and proof are of the index as well."""
    index, model = push_model_index(fake.content)
    pod = Pod(puller, f"{fake.host}/models/tiny:index")
    resolved = pod.resolve()
    records = store.records

    assert (model, index) == (resolved.artifact.digest, records.tag(fake.host, "models/tiny", "index"))
    assert [True, True] == [records.has_proof(fake.host, "models/tiny", item, "anonymous") for item in (index, model)]
    assert FILES == tree_of(pod.pull().path)


@pytest.mark.parametrize("tag", ["models/tiny:index", "models/kit:v1"])
def test_what_is_here_asks_nobody(
    puller: Puller, make_puller: Callable[..., Puller], fake: FakeRegistry, tag: str
) -> None:
    """A model that is here needs no request, also when an index or a config led to it. Nor in the next process."""
    push_model_index(fake.content)
    push_kit(fake.content)
    pod = Pod(puller, f"{fake.host}/{tag}")
    pod.pull()
    asked = len(fake.seen)
    pod.pull()
    Pod(make_puller(), pod.reference, "other", PullPolicy.NEVER).pull()

    assert asked == len(fake.seen)


def test_documents_live_as_long_as_the_artifact(puller: Puller, fake: FakeRegistry, store: Store) -> None:
    """No sooner do they go than the artifact, and no later."""
    index, model = push_model_index(fake.content)
    kit, config = push_kit(fake.content)
    for reference in ("models/tiny:index", "models/kit:v1"):
        Pod(puller, f"{fake.host}/{reference}", reference).pull()
    kept = [store.content.manifest(digest) is not None for digest in (index, model, kit, config)]
    store.collector.prune()
    still = [store.content.manifest(digest) is not None for digest in (index, model, kit, config)]
    for owner in ("models/tiny:index", "models/kit:v1"):
        store.records.end_lease(owner)
    store.collector.prune()

    assert ([True] * 4, [True] * 4, []) == (kept, still, list(store.content.digests()))


def test_a_volume_stays_with_its_entry(puller: Puller, fake: FakeRegistry) -> None:
    """A volume of an index stays with the entry that it was published with. The tag leads to another index meanwhile."""
    _, model = push_model_index(fake.content)
    reference = f"{fake.host}/models/tiny:index"
    pinned = Pod(puller, reference).resolve().artifact.digest
    other = fake.content.push("models/tiny", "", {"new": b"1"})
    push_index(fake.content, "models/tiny", "index", entry(fake.content, "models/tiny", other))
    policies = (PullPolicy.ALWAYS, PullPolicy.IF_NOT_PRESENT)
    pods = [Pod(puller, reference, policy=policy, pinned=pinned) for policy in policies]
    again = [pod.resolve().artifact.digest for pod in pods]
    moved = Pod(puller, reference, policy=PullPolicy.ALWAYS).resolve().artifact.digest

    assert ([model, model], other) == (again, moved)


def test_second_index_of_an_artifact_is_kept_too(puller: Puller, fake: FakeRegistry, store: Store) -> None:
    """Another tag leads to what is here by a document of its own."""
    _, model = push_model_index(fake.content)
    second = push_index(fake.content, "models/tiny", "second", entry(fake.content, "models/tiny", model))
    for tag in ("index", "second"):
        Pod(puller, f"{fake.host}/models/tiny:{tag}").pull()
    asked = len(fake.seen)
    Pod(puller, f"{fake.host}/models/tiny:second").pull()

    assert (asked, True) == (len(fake.seen), store.content.manifest(second) is not None)
    assert [model] == [record.manifest for record in store.records.artifacts()]


@pytest.mark.parametrize("change", [{"size": 7}, {"digest": str(Digest.of(b"other"))}])
def test_entry_that_is_not_what_the_index_says(puller: Puller, fake: FakeRegistry, change: dict[str, Any]) -> None:
    """Size and digest are those of the index, or nothing is mounted."""
    model = fake.content.push("models/tiny", "", FILES)
    told = entry(fake.content, "models/tiny", model) | change
    fake.content.manifests["models/tiny"][told["digest"]] = fake.content.manifests["models/tiny"][str(model)]
    push_index(fake.content, "models/tiny", "index", told)
    with pytest.raises(CorruptContent):
        Pod(puller, f"{fake.host}/models/tiny:index").resolve()


def test_entry_in_its_descriptor_is_not_asked_for(puller: Puller, fake: FakeRegistry) -> None:
    """`data` is the manifest."""
    model = fake.content.push("models/tiny", "", FILES)
    told = entry(fake.content, "models/tiny", model)
    document = fake.content.manifests["models/tiny"].pop(str(model))[1]
    told["data"] = base64.b64encode(document).decode()
    push_index(fake.content, "models/tiny", "index", told)
    pod = Pod(puller, f"{fake.host}/models/tiny:index")

    assert (FILES, FILES, 1) == (tree_of(pod.pull().path), tree_of(pod.pull().path), fake.manifest_requests)


def test_another_repository_cannot_name_a_private_entry(puller: Puller, private: FakeRegistry) -> None:
    """An index of one's own that names a manifest which is here gives nothing that the registry would not."""
    model = private.content.push("models/tiny", "v1", FILES)
    Pod(puller, f"{private.host}/models/tiny:v1", secrets=secret(private, "alice", "s3cret")).pull()
    told = entry(private.content, "models/tiny", model)
    push_index(private.content, "public/evil", "v1", told)
    private.public.add("public/evil")
    with pytest.raises(NotFound):
        Pod(puller, f"{private.host}/public/evil:v1", "evil").resolve()


def test_another_repository_cannot_name_a_private_config(puller: Puller, private: FakeRegistry) -> None:
    """The manifest is theirs to push; the config is not there."""
    kit, config = push_kit(private.content)
    Pod(puller, f"{private.host}/models/kit:v1", secrets=secret(private, "alice", "s3cret")).pull()
    private.content.manifests["public/evil"]["v1"] = private.content.manifests["models/kit"][str(kit)]
    private.public.add("public/evil")
    with pytest.raises(NotFound, match=str(config)):
        Pod(puller, f"{private.host}/public/evil:v1", "evil").resolve()


def test_index_of_a_private_repository(puller: Puller, private: FakeRegistry) -> None:
    """Whoever may not pull it, may not by an index either."""
    push_model_index(private.content)
    reference = f"{private.host}/models/tiny:index"
    Pod(puller, reference, secrets=secret(private, "alice", "s3cret")).pull()
    with pytest.raises(Forbidden):
        Pod(puller, reference, "bob", secrets=secret(private, "bob", "b0b")).resolve()


def test_credentials_that_are_refused_meanwhile(puller: Puller, private: FakeRegistry, store: Store) -> None:
    """A document that is gone is asked for with a proof of earlier, which then is worth nothing."""
    kit, config = push_kit(private.content)
    pod = Pod(puller, f"{private.host}/models/kit@{kit}", secrets=secret(private, "alice", "s3cret"))
    pod.pull()
    store.layout.manifest(config).unlink()
    private.users["alice"] = type(private.users["alice"])("rotated")
    with pytest.raises(Unauthenticated):
        pod.resolve()
    asked = len(private.seen)
    with pytest.raises(Unauthenticated):
        pod.resolve()

    assert asked < len(private.seen)
    assert not any("/blobs/" in seen.path for seen in private.seen[asked:])


def test_config_of_a_modelkit_places_its_members(puller: Puller, fake: FakeRegistry) -> None:
    """Fetched once, verified, and used."""
    _, config = push_kit(fake.content)
    pulled = Pod(puller, f"{fake.host}/models/kit:v1").pull()

    assert (["weights/model-00001-of-00002.safetensors"], 1) == (
        list(tree_of(pulled.path)),
        fake.blob_gets[str(config)],
    )


def test_config_in_its_descriptor_is_not_asked_for(puller: Puller, fake: FakeRegistry) -> None:
    """The registry need not even have it."""
    _, config = push_kit(fake.content, inline=True)
    pulled = Pod(puller, f"{fake.host}/models/kit:v1").pull()

    assert (["weights/model-00001-of-00002.safetensors"], 0) == (
        list(tree_of(pulled.path)),
        fake.blob_gets[str(config)],
    )


def push_annotated_kit(content: Content, repository: str = "models/kit") -> Digest:
    """A ModelKit of KitOps 1.10, all of whose layers are annotated; its config."""
    manifest = json.loads(content.manifests[repository][str(_kit_example(content, repository))][1])
    content.add_manifest(repository, manifest, "v1")
    return Digest.parse(manifest["config"]["digest"])


def test_config_that_is_not_there_and_need_not_be(
    puller: Puller, make_puller: Callable[..., Puller], fake: FakeRegistry
) -> None:
    """The annotations tell where the files are. It is asked for once: who comes later, or after a restart, asks nobody."""
    config = push_annotated_kit(fake.content)
    whole = Pod(puller, f"{fake.host}/models/kit:v1").pull()
    other = push_annotated_kit(fake.content, "models/other")
    del fake.content.blobs["models/other"][str(other)]
    pulled = Pod(puller, f"{fake.host}/models/other:v1").pull()
    asked = len(fake.seen)
    pods = [Pod(node, f"{fake.host}/models/other:v1") for node in (puller, make_puller())]
    resolved = [pod.resolve() for pod in pods]

    assert config == other
    assert tree_of(whole.path) == tree_of(pulled.path)
    assert asked == len(fake.seen)
    assert [["the config could not be read: whether a part of the artifact is elsewhere is not known"]] * 2 == [
        list(found.artifact.warnings) for found in resolved
    ]


def test_config_that_is_not_there_and_is_needed(puller: Puller, fake: FakeRegistry) -> None:
    """Nothing else tells where the files of an old ModelKit are, whoever had its config before."""
    push_kit(fake.content, "models/other")
    Pod(puller, f"{fake.host}/models/other:v1").pull()
    _, config = push_kit(fake.content)
    del fake.content.blobs["models/kit"][str(config)]
    with pytest.raises(NotFound, match=str(config)):
        Pod(puller, f"{fake.host}/models/kit:v1").resolve()


def test_damaged_config(puller: Puller, fake: FakeRegistry) -> None:
    """Three attempts, then the answer is final; nothing of it is kept."""
    _, config = push_kit(fake.content)
    fake.faults.flip_bit_of.add(str(config))
    with pytest.raises(CorruptContent, match=str(config)):
        Pod(puller, f"{fake.host}/models/kit:v1").resolve()

    assert 3 == fake.blob_gets[str(config)]


def test_interrupted_config(puller: Puller, fake: FakeRegistry) -> None:
    """One dropped connection is nobody's business."""
    _, config = push_kit(fake.content)
    fake.faults.fail_next(503, path=str(config))

    assert 1 == len(Pod(puller, f"{fake.host}/models/kit:v1").resolve().artifact.layers)


@pytest.mark.parametrize("length", [7, -7])
def test_config_of_another_size(puller: Puller, fake: FakeRegistry, length: int) -> None:
    """Not one byte more is read than the manifest promises."""
    _, config = push_kit(fake.content)
    fake.faults.resize[str(config)] = length
    with pytest.raises(CorruptContent):
        Pod(puller, f"{fake.host}/models/kit:v1").resolve()


def test_never_asks_for_documents_either(puller: Puller, fake: FakeRegistry, store: Store) -> None:
    """A part that is gone is not found."""
    _, config = push_kit(fake.content)
    pod = Pod(puller, f"{fake.host}/models/kit:v1")
    pod.pull()
    store.layout.manifest(config).unlink()
    asked = len(fake.seen)
    with pytest.raises(NotFound, match="pullPolicy is Never"):
        Pod(puller, pod.reference, policy=PullPolicy.NEVER).resolve()
    assert asked == len(fake.seen)
    pod.pull()

    assert store.content.manifest(config) is not None


@pytest.mark.parametrize("entries", [[], [{"artifactType": "application/vnd.acme.readme"}]])
def test_list_of_referrers(puller: Puller, fake: FakeRegistry, entries: list[dict[str, Any]]) -> None:
    """Registries without the referrers API keep it under a tag that looks like a model's digest."""
    model = fake.content.push("models/tiny", "v1", FILES)
    listed = [entry(fake.content, "models/tiny", model, **fields) for fields in entries]
    push_index(fake.content, "models/tiny", f"sha256-{model.hex}", *listed)
    with pytest.raises(UnsupportedArtifact, match="list of what refers to an artifact"):
        Pod(puller, f"{fake.host}/models/tiny:sha256-{model.hex}").resolve()


def test_documents_together_are_bounded(puller: Puller, fake: FakeRegistry) -> None:
    """Each of five manifests is within the limit, all together are too much to read for one choice."""
    padding = "x" * (4_000_000)
    manifests = [
        fake.content.add_manifest("models/tiny", {"schemaVersion": 2, "layers": [], "x": f"{number}{padding}"})
        for number in range(5)
    ]
    push_index(fake.content, "models/tiny", "v1", *(entry(fake.content, "models/tiny", item) for item in manifests))
    with pytest.raises(UnsupportedArtifact, match="too many"):
        Pod(puller, f"{fake.host}/models/tiny:v1").resolve()


def test_documents_come_from_a_mirror(node: Node) -> None:
    """The registry is asked only whether these credentials may have them."""
    for registry in (node.origin, node.mirror):
        push_kit(registry.content)
        push_model_index(registry.content)
    node.write_hosts()
    for reference in ("models/kit:v1", "models/tiny:index"):
        node.pod(reference, reference).pull()

    assert (0, 0) == (node.origin.manifest_requests, node.origin.bytes_served.total())


def test_mirror_with_a_damaged_config(node: Node) -> None:
    """It is blamed, and the registry sends it."""
    for registry in (node.origin, node.mirror):
        _, config = push_kit(registry.content)
    node.mirror.faults.flip_bit_of.add(str(config))
    node.write_hosts()
    node.pod("kit", "models/kit:v1").pull()

    assert [1, 1] == [registry.blob_gets[str(config)] for registry in (node.mirror, node.origin)]
