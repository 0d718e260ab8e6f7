"""From a manifest to an artifact: which kind it is, and what its layers stand for.

Every path that the manifest tells is checked here, before a byte of content is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelcsi.artifact.kinds.generic import GENERIC
from modelcsi.artifact.kinds.kind import Kind
from modelcsi.artifact.kinds.modelpack import MODELPACK
from modelcsi.artifact.kinds.refused import DOCKER_MODEL, HELM_CHART, IMAGE, MODELKIT, OLLAMA, SIGNATURE
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.mediatypes import canonical, is_encrypted
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest

# The place where a kind is added. The first that matches is taken, and many manifests match several: Ollama's has the
# config of an image, a ModelPack manifest of November 2024 too. The last matches everything.
_KINDS: tuple[Kind, ...] = (
    OLLAMA,
    SIGNATURE,
    MODELKIT,
    MODELPACK,
    DOCKER_MODEL,
    IMAGE,
    HELM_CHART,
    GENERIC,
)

_MAX_BYTES = 1 << 62
"""Of all layers: sums of sizes are recorded, and compared with free space, as signed 64-bit numbers."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A resolved manifest that can be mounted: its kind and its layers, in the manifest's order."""

    digest: Digest
    """Of the manifest."""
    kind: str
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...] = ()
    """What is left out, for a person."""


def recognise(manifest: Manifest, digest: Digest) -> Artifact:
    """The artifact that `manifest`, whose digest is `digest`, describes.

    Raises UnsupportedArtifact when it is no model, is of a kind that cannot be mounted, names an unsafe path, has no
    content, or more than any disk holds.
    """
    kind = next(kind for kind in _KINDS if kind.matches(manifest))
    for descriptor in manifest.layers:
        if is_encrypted(canonical(descriptor.media_type)):
            raise UnsupportedArtifact(f"layer {descriptor.digest} is encrypted")
    contents = kind.read(manifest)
    if not contents.layers:
        raise UnsupportedArtifact("; ".join(("the artifact has no content", *contents.warnings[:3])))
    _refuse_two_forms(contents.layers)
    _refuse_impossible_size(contents.layers)
    return Artifact(digest, kind.name, contents.layers, contents.warnings)


def _refuse_two_forms(layers: tuple[Layer, ...]) -> None:
    """One digest is kept once, as a file or as members, never as both; no producer asks for both."""
    forms: dict[Digest, tuple[bool, bool]] = {}
    for layer in layers:
        form = (layer.codec.is_tar, layer.undecided)
        if forms.setdefault(layer.digest, form) != form:
            raise UnsupportedArtifact(f"the manifest names {layer.where} both as a file and as a tar")


def _refuse_impossible_size(layers: tuple[Layer, ...]) -> None:
    size = sum(size for _, size in {(layer.digest, layer.size) for layer in layers})
    if size > _MAX_BYTES:
        raise UnsupportedArtifact(f"the layers have the impossible size of {size} bytes in all")
