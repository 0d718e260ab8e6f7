"""Who may see cached content: blobs of private models under foreign manifests, other repositories and other hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelcsi.errors import CorruptContent, ModelCsiError, NotFound
from modelcsi.oci.digest import Digest
from modelcsi.pull.puller import Puller
from modelcsi.store.ingest import BlobIngest
from modelcsi.store.store import Store
from tests.fakes.content import FILE_PATH, MODEL_ARTIFACT, RAW_WEIGHT, Content
from tests.fakes.registry import FakeRegistry
from tests.unit.pull.conftest import FILES, Pod, secret, tree_of

SECRET = FILES["model.safetensors"]
SECRET_DIGEST = str(Digest.of(SECRET))


@pytest.fixture
def cached(puller: Puller, private: FakeRegistry, store: Store) -> FakeRegistry:
    """Alice's private model is on the node."""
    private.content.push("models/secret", "v1", FILES)
    Pod(puller, f"{private.host}/models/secret:v1", "alice", secrets=secret(private, "alice", "s3cret")).pull()
    return private


class LyingContent(dict[str, bytes]):
    """Every blob is there, as far as a HEAD can tell: with bytes that are not it."""

    def get(self, digest: str, default: object = None) -> bytes:
        return bytes(len(SECRET))


@pytest.fixture
def liar() -> Iterator[FakeRegistry]:
    """A registry of an attacker, that says yes to every question for a blob."""
    content = Content()
    content.blobs["evil/model"] = LyingContent()
    with FakeRegistry(content=content) as registry:
        yield registry


def foreign_manifest(size: int = len(SECRET), **fields: object) -> dict[str, object]:
    """Names the private digest."""
    layer = {
        "mediaType": RAW_WEIGHT,
        "digest": SECRET_DIGEST,
        "size": size,
        "annotations": {FILE_PATH: "stolen"},
        **fields,
    }
    return {"schemaVersion": 2, "artifactType": MODEL_ARTIFACT, "layers": [layer]}


def gets(registry: FakeRegistry) -> int:
    """How often the private blob was fetched there."""
    return registry.blob_gets[SECRET_DIGEST]


def test_another_repository_of_the_same_host(puller: Puller, cached: FakeRegistry) -> None:
    """It shows by a HEAD that it holds the blobs, for the caller's credentials: no byte is moved."""
    cached.content.push("models/copy", "v1", FILES)
    before, heads = cached.bytes_served.total(), cached.blob_heads
    pod = Pod(puller, f"{cached.host}/models/copy:v1", secrets=secret(cached, "alice", "s3cret"))
    view = pod.pull()

    assert (FILES, 0, True) == (tree_of(view.path), cached.bytes_served.total() - before, cached.blob_heads > heads)


def test_a_repository_of_the_same_host_that_does_not_hold_it(puller: Puller, cached: FakeRegistry) -> None:
    """A manifest alone is not enough: the blob is not found there."""
    cached.public.add("models/public")
    cached.content.add_manifest("models/public", foreign_manifest(), "v1")
    with pytest.raises(NotFound):
        Pod(puller, f"{cached.host}/models/public:v1").pull()


def test_a_complete_ingest_is_no_proof(puller: Puller, private: FakeRegistry, store: Store) -> None:
    """A process died before it committed what another repository of the host had delivered."""
    ingest = BlobIngest(store.layout, Digest.parse(SECRET_DIGEST), len(SECRET), private.host)
    ingest.write(0, SECRET)
    ingest.flush()
    ingest.close()
    private.public.add("models/public")
    private.content.add_manifest("models/public", foreign_manifest(), "v1")
    with pytest.raises(NotFound):
        Pod(puller, f"{private.host}/models/public:v1").pull()

    assert store.content.has_blob(Digest.parse(SECRET_DIGEST))
    assert not store.records.came_from(Digest.parse(SECRET_DIGEST), private.host)


def test_another_host_delivers_in_full(puller: Puller, cached: FakeRegistry, store: Store) -> None:
    """Once, and the bytes are stored once."""
    with FakeRegistry() as other:
        other.content.push("mirror/model", "v1", FILES)
        first = Pod(puller, f"{other.host}/mirror/model:v1", "first").pull()
        second = Pod(puller, f"{other.host}/mirror/model:v1", "second").pull()

        assert (1, len(SECRET)) == (gets(other), other.bytes_served[SECRET_DIGEST])
    assert (FILES, first) == (tree_of(first.path), second)
    assert 1 == len([path for path in store.layout.blobs.glob("sha256/*") if path.stat().st_size == len(SECRET)])


def test_a_host_that_delivered_it_may_show_it(puller: Puller, cached: FakeRegistry) -> None:
    """From then on a HEAD is enough for its other repositories."""
    with FakeRegistry() as other:
        for name in ("one", "two"):
            other.content.push(f"mirror/{name}", "v1", FILES)
            Pod(puller, f"{other.host}/mirror/{name}:v1", name).pull()

        assert 1 == gets(other)


@pytest.mark.parametrize("size", [len(SECRET), 0, 1])
def test_a_lying_registry_gets_nothing(
    puller: Puller, cached: FakeRegistry, liar: FakeRegistry, store: Store, size: int
) -> None:
    """It names the private digest, with any size, and says yes to everything: only the bytes would do."""
    liar.content.add_manifest("evil/model", foreign_manifest(size), "v1")
    views = len(list(store.layout.views.iterdir()))
    with pytest.raises(CorruptContent):
        Pod(puller, f"{liar.host}/evil/model:v1", "mallory").pull()

    assert views == len(list(store.layout.views.iterdir()))
    assert [] == store.content.verify(Digest.parse(SECRET_DIGEST))


def test_a_lying_registry_names_the_private_manifest(puller: Puller, cached: FakeRegistry, liar: FakeRegistry) -> None:
    """It says that its tag is the private manifest, which is here: the layers must be delivered all the same."""
    private = cached.content.manifests["models/secret"]["v1"]
    liar.content.manifests["evil/model"]["v1"] = private
    with pytest.raises(ModelCsiError):
        Pod(puller, f"{liar.host}/evil/model:v1", "mallory").pull()

    assert liar.blob_gets.total() >= 1


def test_embedded_data_is_its_own_proof(puller: Puller, cached: FakeRegistry) -> None:
    """Whoever sends the bytes has them; data that is not the digest's is refused before."""
    with FakeRegistry() as other:
        other.content.add_manifest("evil/model", foreign_manifest(data="AAAA"), "v1")
        with pytest.raises(ModelCsiError, match="does not match its digest"):
            Pod(puller, f"{other.host}/evil/model:v1", "mallory").pull()


def test_a_proof_survives_the_job(puller: Puller, cached: FakeRegistry, store: Store) -> None:
    """The same repository needs no network afterwards."""
    heads, served = cached.blob_heads, cached.bytes_served.total()
    pod = Pod(puller, f"{cached.host}/models/secret:v1", "again", secrets=secret(cached, "alice", "s3cret"))
    pod.pull()

    assert (heads, served) == (cached.blob_heads, cached.bytes_served.total())
