"""From a manifest to an artifact: which kind it is, and what its layers stand for.

Every path that the manifest tells is checked here, before a byte of content is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from modelcsi.artifact.kinds.docker_model import DOCKER_MODEL
from modelcsi.artifact.kinds.generic import GENERIC
from modelcsi.artifact.kinds.image import IMAGE
from modelcsi.artifact.kinds.kind import Kind
from modelcsi.artifact.kinds.modelkit import MODELKIT
from modelcsi.artifact.kinds.modelpack import MODELPACK
from modelcsi.artifact.kinds.ollama import OLLAMA
from modelcsi.artifact.kinds.refused import EVIDENCE, NO_MODEL
from modelcsi.artifact.layer import RAW, Layer
from modelcsi.artifact.mediatypes import canonical, is_encrypted
from modelcsi.errors import CorruptContent, UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest

# The place where a kind is added. The first that matches is taken, and many manifests match several: Ollama's has the
# config of an image, a ModelPack manifest of November 2024 too. The last matches everything.
_KINDS: tuple[Kind, ...] = (
    OLLAMA,
    EVIDENCE,
    MODELKIT,
    MODELPACK,
    DOCKER_MODEL,
    NO_MODEL,
    IMAGE,
    GENERIC,
)

_MODEL_KINDS = frozenset({OLLAMA, MODELKIT, MODELPACK, DOCKER_MODEL})
MAX_CONFIG_BYTES = 4 << 20
"""Of a config that the driver reads: as for manifests, beside which it is kept."""
_NO_CONFIG = "the config could not be read: whether a part of the artifact is elsewhere is not known"
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
    overlay: bool = False
    """The layers are those of a container image: tars, each applied over the ones before it, with whiteouts."""


def wanted_config(manifest: Manifest) -> Descriptor | None:
    """The config that tells of the files (the Kitfile of a ModelKit); None where none does, or its data is here.

    Raises UnsupportedArtifact when it cannot be read, unless the manifest alone will do.
    """
    if not _kind_of(manifest).reads_config(manifest):
        return None
    problem = _config_problem(manifest)
    if problem is not None and needs_config(manifest):
        raise problem
    return (
        None if problem is not None or manifest.config is None or manifest.config.data is not None else manifest.config
    )


def needs_config(manifest: Manifest) -> bool:
    """Whether there is no telling without the `wanted_config` where the files are."""
    return _kind_of(manifest).needs_config(manifest)


def _config_problem(manifest: Manifest) -> UnsupportedArtifact | None:
    config = manifest.config
    if manifest.unreadable_config is not None:
        return manifest.unreadable_config.problem
    if config is not None and config.data is None and config.size > MAX_CONFIG_BYTES:
        return UnsupportedArtifact(
            f"the config {config.digest} has {config.size} bytes; {MAX_CONFIG_BYTES} are the limit"
        )
    return None


def is_model(manifest: Manifest) -> bool:
    """Whether a manifest is of a format made for models: what counts in an index of several things."""
    return _kind_of(manifest) in _MODEL_KINDS


def recognise(manifest: Manifest, digest: Digest, config: bytes | None = None) -> Artifact:
    """The artifact that `manifest`, whose digest is `digest`, describes; `config` is the `wanted_config`.

    Raises UnsupportedArtifact when it is no model, is of a kind that cannot be mounted, names an unsafe path, has no
    content, or more than any disk holds; CorruptContent when the config is another one.
    """
    kind = _kind_of(manifest)
    for descriptor in manifest.layers:
        if is_encrypted(canonical(descriptor.media_type)):
            raise UnsupportedArtifact(f"layer {descriptor.digest} is encrypted")
    if config is not None:
        manifest = _with_config(manifest, config)
    contents = kind.read(manifest)
    if not contents.layers:
        raise UnsupportedArtifact("; ".join(("the artifact has no content", *contents.warnings[:3])))
    layers = _decided(contents.layers)
    _refuse_two_forms(layers)
    _refuse_impossible_size(layers)
    warnings = contents.warnings
    if kind.reads_config(manifest) and (manifest.config is None or manifest.config.data is None):
        warnings = (_NO_CONFIG, *warnings)
    return Artifact(digest, kind.name, layers, warnings, kind.is_overlay)


def _kind_of(manifest: Manifest) -> Kind:
    return next(kind for kind in _KINDS if kind.matches(manifest))


def _with_config(manifest: Manifest, content: bytes) -> Manifest:
    config = manifest.config
    if config is None or len(content) != config.size or not config.digest.matches(content):
        raise CorruptContent(f"the config {config.digest if config else ''} has other bytes than its digest says")
    return replace(manifest, config=replace(config, data=content))


def _decided(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Undecided layers are files where the manifest itself has the same bytes as a file, or as another directory."""
    files = {layer.digest for layer in layers if layer.codec == RAW}
    roots: dict[Digest, set[str | None]] = {}
    for layer in layers:
        if layer.undecided:
            roots.setdefault(layer.digest, set()).add(layer.tar_root)
    files |= {digest for digest, found in roots.items() if len(found) > 1}
    return tuple(_as_file(layer) if layer.undecided and layer.digest in files else layer for layer in layers)


def _as_file(layer: Layer) -> Layer:
    return replace(layer, codec=RAW, undecided=False, tar_root=None, sole_member_path=None, is_one_file=False)


def _refuse_two_forms(layers: tuple[Layer, ...]) -> None:
    """One digest is kept once, as a file or as members, never as both; no producer asks for both."""
    forms: dict[Digest, tuple[object, ...]] = {}
    for layer in layers:
        form = (layer.codec.is_tar, layer.undecided, not layer.codec.is_tar and layer.codec.compression)
        if forms.setdefault(layer.digest, form) != form:
            raise UnsupportedArtifact(
                f"the manifest names {layer.where} in two forms: as a file, a tar or something compressed"
            )


def _refuse_impossible_size(layers: tuple[Layer, ...]) -> None:
    size = sum(size for _, size in {(layer.digest, layer.size) for layer in layers})
    if size > _MAX_BYTES:
        raise UnsupportedArtifact(f"the layers have the impossible size of {size} bytes in all")
