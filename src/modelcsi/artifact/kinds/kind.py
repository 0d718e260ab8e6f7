"""What every kind of artifact is: a name, a test, and a way to read the layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelcsi.artifact.kinds.names import known_names
from modelcsi.artifact.layer import Layer
from modelcsi.artifact.mediatypes import EMPTY, canonical
from modelcsi.artifact.paths import shown
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Contents:
    """The layers of a manifest that hold files, in order, and what a person should know about the others."""

    layers: tuple[Layer, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `read` raises UnsupportedArtifact; it may count on `matches`."""

    name: str
    matches: Callable[[Manifest], bool]
    read: Callable[[Manifest], Contents]
    reads_config: Callable[[Manifest], bool] = lambda _: False
    """Whether `read` looks into the config: as `manifest.config.data`, which is None where nobody fetched it."""
    needs_config: Callable[[Manifest], bool] = lambda _: False
    """Whether there is no telling without it where the files are."""
    is_overlay: bool = False
    """The layers are those of a container image: each is applied over the ones before it, with whiteouts."""


def config_type(manifest: Manifest) -> str:
    """The media type of the config, canonical; empty without one."""
    config = manifest.config or manifest.unreadable_config
    return canonical(config.media_type) if config else ""


def described_type(manifest: Manifest) -> str:
    """The artifactType, else the config's type, which stands for it (image-spec, manifest.md)."""
    return canonical(manifest.artifact_type or "") or config_type(manifest)


def layer_types(manifest: Manifest) -> tuple[str, ...]:
    """The media types of the layers, canonical."""
    return tuple(canonical(layer.media_type) for layer in manifest.layers)


def read_named(manifest: Manifest, read_layer: Callable[[Descriptor, str], Layer | None]) -> Contents:
    """The layers that `read_layer` makes something of; of the others, which have no name, a warning each.

    `read_layer` is told a layer and the name that its media type gives it, empty without one.
    """
    layers: list[Layer] = []
    warnings: list[str] = []
    for descriptor, name in zip(manifest.layers, known_names(manifest.layers), strict=True):
        layer = read_layer(descriptor, name)
        if layer is not None:
            layers.append(layer)
        elif canonical(descriptor.media_type) != EMPTY:
            warnings.append(f"layer {descriptor.digest} of type {shown(descriptor.media_type)} has no name: left out")
    return Contents(tuple(layers), tuple(warnings))
