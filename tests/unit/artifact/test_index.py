from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from modelcsi.artifact.index import Platform, walk
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import OCI_INDEX, OCI_MANIFEST, Index, Manifest, parse_manifest
from tests.unit.artifact.builders import IMAGE_LAYER, MODELPACK, layer

AMD64 = Platform("linux", "amd64")
IMAGE = {"config": {"mediaType": "application/vnd.oci.image.config.v1+json"}, "layers": [layer(IMAGE_LAYER)]}
MODEL = {"artifactType": MODELPACK, "layers": [layer(filepath="x")]}
KIT = "application/vnd.kitops.modelkit.manifest.v1+json"
UNKNOWN = {"os": "unknown", "architecture": "unknown"}


class Shelf:
    """Manifests by their digests, and which of them were read."""

    def __init__(self) -> None:
        self.documents: dict[Digest, bytes] = {}
        self.read_digests: list[Digest] = []

    def put(self, document: Mapping[str, Any], number: int = 0) -> dict[str, Any]:
        """Keep a manifest or index; its descriptor. Equal documents differ by `number`."""
        config = document.get("config")
        if config is not None:
            document = {**document, "config": {**config, "digest": str(Digest.of(b"{}")), "size": 2}}
        content = json.dumps({"schemaVersion": 2, **document, "number": number}).encode()
        digest = Digest.of(content)
        self.documents[digest] = content
        media_type = OCI_INDEX if "manifests" in document else OCI_MANIFEST
        return {"mediaType": media_type, "digest": str(digest), "size": len(content)}

    def read(self, descriptor: Descriptor) -> Manifest | Index:
        """What `walk` asks for."""
        self.read_digests.append(descriptor.digest)
        return parse_manifest(self.documents[descriptor.digest])

    def choose(self, *entries: dict[str, Any], node: Platform = AMD64) -> str:
        """The digest that an index of these entries leads to."""
        found = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
        assert isinstance(found, Index)
        *_, last = walk(found, node, self.read)
        return str(last.digest)


@pytest.fixture
def shelf() -> Shelf:
    """An empty one."""
    return Shelf()


def on(os: str, architecture: str, variant: str = "") -> dict[str, Any]:
    """The field of an entry for this platform."""
    platform = {"os": os, "architecture": architecture}
    return {"platform": platform | ({"variant": variant} if variant else {})}


def test_only_model_is_meant(shelf: Shelf) -> None:
    """By artifactType, whatever its platform and the others'; nothing is read for that."""
    model = shelf.put(MODEL) | {"artifactType": KIT} | on("linux", "arm64")
    chosen = shelf.choose(shelf.put(IMAGE) | on("linux", "amd64"), model)

    assert (model["digest"], []) == (chosen, [item for item in shelf.read_digests if str(item) != chosen])


@pytest.mark.parametrize("platform", [{}, {"platform": UNKNOWN}, {"platform": {}}, {"platform": None}])
def test_model_is_found_by_its_manifest(shelf: Shelf, platform: dict[str, Any]) -> None:
    """Where neither type nor platform tell (olot: unknown/unknown)."""
    model = shelf.put(MODEL) | platform

    assert model["digest"] == shelf.choose(shelf.put(IMAGE) | on("linux", "amd64"), model)


def test_mark_of_olot(shelf: Shelf) -> None:
    """Its annotation suffices."""
    model = shelf.put(MODEL) | {"annotations": {"io.opendatahub.modelcar.manifest.type": "modelpack"}}
    shelf.choose(shelf.put(IMAGE) | on("linux", "amd64"), shelf.put(IMAGE, 1) | on("linux", "arm64"), model)

    assert [Digest.parse(model["digest"])] == shelf.read_digests


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (AMD64, 0),
        (Platform("linux", "arm64"), 1),
        (Platform("linux", "arm", "v7"), 3),
        (Platform("linux", "arm", "v6"), 2),
        (Platform("linux", "s390x"), 4),
    ],
)
def test_platform_of_the_node(shelf: Shelf, node: Platform, expected: int) -> None:
    """The entry for it; the one without a platform where there is none."""
    platforms = [
        on("linux", "x86_64"),
        on("linux", "arm64", "v8"),
        on("linux", "arm", "v6"),
        on("linux", "arm", "v7"),
        {},
    ]
    entries = [shelf.put(IMAGE, number) | platform for number, platform in enumerate(platforms)]

    assert entries[expected]["digest"] == shelf.choose(*entries, node=node)


def test_models_by_platform(shelf: Shelf) -> None:
    """Several models, one for each platform (AIKit)."""
    entries = [
        shelf.put(MODEL, number) | {"artifactType": MODELPACK} | on("linux", architecture)
        for number, architecture in enumerate(("amd64", "arm64"))
    ]

    assert entries[1]["digest"] == shelf.choose(*entries, node=Platform("linux", "arm64"))


@pytest.mark.parametrize(
    "dropped",
    [
        {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}, "platform": UNKNOWN},
        {"artifactType": "application/vnd.in-toto+json"},
        {"artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json"},
        {"artifactType": "application/vnd.cncf.notary.signature"},
        {"artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json"},
    ],
)
def test_attestations_do_not_count(shelf: Shelf, dropped: dict[str, Any]) -> None:
    """What is left is the only candidate, for whatever platform it was built."""
    image = shelf.put(IMAGE) | on("linux", "s390x")

    assert image["digest"] == shelf.choose(shelf.put(IMAGE, 1) | dropped, image)


def test_signature_is_found_by_its_manifest(shelf: Shelf) -> None:
    """Without a type in the descriptor it does not count either."""
    signature = shelf.put({"artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json", "layers": []})
    image = shelf.put(IMAGE)

    assert image["digest"] == shelf.choose(signature, image)


def test_a_digest_that_is_there_repeatedly(shelf: Shelf) -> None:
    """One artifact for several platforms is one candidate."""
    model = shelf.put(MODEL)

    assert model["digest"] == shelf.choose(model | on("linux", "arm64"), model | on("linux", "amd64"), model)


def test_several_models_are_listed(shelf: Shelf) -> None:
    """KitOps' indexes have no platforms: the user must choose, and sees by what."""
    entries = [
        shelf.put(MODEL, number) | {"artifactType": KIT, "modelMetadata": {"quantization": quantization}}
        for number, quantization in enumerate(("q4", "q8"))
    ]
    with pytest.raises(UnsupportedArtifact, match="several are for this node") as caught:
        shelf.choose(*entries)

    for expected in (*(entry["digest"] for entry in entries), "q4", "q8", KIT):
        assert expected in caught.value.message
    assert "digest" in caught.value.hint


def test_no_entry_for_the_node_is_an_error(shelf: Shelf) -> None:
    """The platforms are listed."""
    entries = [shelf.put(IMAGE, 1) | on("linux", "arm64"), shelf.put(IMAGE, 2) | on("windows", "amd64")]
    with pytest.raises(UnsupportedArtifact, match=r"none is for this node \(linux/amd64\).*linux/arm64.*windows/amd64"):
        shelf.choose(*entries)


def test_long_list_is_cut(shelf: Shelf) -> None:
    """An event has 1024 characters."""
    entries = [shelf.put(IMAGE, number) | on("linux", "arm64") for number in range(20)]
    with pytest.raises(UnsupportedArtifact, match="and 12 more"):
        shelf.choose(*entries)


@pytest.mark.parametrize("entries", [[], [{"artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json"}]])
def test_nothing_to_choose(shelf: Shelf, entries: list[dict[str, Any]]) -> None:
    """No entries, or none that could be a model: a list of referrers."""
    with pytest.raises(UnsupportedArtifact, match=r"without entries|not a model"):
        shelf.choose(*(shelf.put(IMAGE) | entry for entry in entries))


def nested(shelf: Shelf, depth: int) -> dict[str, Any]:
    """A model in so many indexes."""
    entry = shelf.put(MODEL)
    for number in range(depth):
        entry = shelf.put({"manifests": [entry, shelf.put(IMAGE, number) | on("linux", "s390x")]})
    return entry


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_index_in_an_index(shelf: Shelf, depth: int) -> None:
    """It is followed to its model; an index with a model is one, beside images."""
    model = shelf.put(MODEL)["digest"]

    assert model == shelf.choose(shelf.put(IMAGE) | on("linux", "amd64"), nested(shelf, depth))
    assert model == shelf.choose(nested(shelf, depth))


@pytest.mark.parametrize("depth", [4, 10])
def test_too_many_indexes_in_indexes(shelf: Shelf, depth: int) -> None:
    """Somewhere it ends."""
    with pytest.raises(UnsupportedArtifact, match="over 3 deep"):
        shelf.choose(nested(shelf, depth))


def test_too_many_entries_to_read(shelf: Shelf) -> None:
    """Nobody fetches ten thousand manifests."""
    with pytest.raises(UnsupportedArtifact, match="more than 64"):
        shelf.choose(*(shelf.put(IMAGE, number) for number in range(65)))

    assert [] == shelf.read_digests


def test_index_of_platforms_in_an_index(shelf: Shelf) -> None:
    """Only what may be meant is read: entries of other platforms need not be there at all."""
    image = shelf.put(IMAGE)
    inner = shelf.put({"manifests": [image | on("linux", "amd64"), shelf.put(IMAGE, 1) | on("linux", "arm64")]})
    absent = {"mediaType": OCI_INDEX, "digest": str(Digest.of(b"absent")), "size": 6} | on("linux", "arm64")

    assert image["digest"] == shelf.choose(inner | on("linux", "amd64"), absent)


def test_what_is_no_manifest_is_passed_over(shelf: Shelf) -> None:
    """An index may name anything; nobody asks for it."""
    other = {"mediaType": "application/vnd.acme.thing", "digest": str(Digest.of(b"thing")), "size": 5}
    model = shelf.put(MODEL)

    assert model["digest"] == shelf.choose(other, model)
    with pytest.raises(UnsupportedArtifact, match="not a model"):
        shelf.choose(other)


def test_a_model_of_docker_model_runner_is_told_by_its_config(shelf: Shelf) -> None:
    """Which stands for the artifactType where there is none (image-spec, manifest.md)."""
    model = shelf.put(MODEL) | {"artifactType": "application/vnd.docker.ai.model.config.v0.2+json"}

    assert model["digest"] == shelf.choose(*(shelf.put(IMAGE, n) | on("linux", "amd64") for n in range(2)), model)
