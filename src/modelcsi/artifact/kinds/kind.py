"""What every kind of artifact is: a name, a test, and a way to read the layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelcsi.artifact.layer import Layer
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


def config_type(manifest: Manifest) -> str:
    """The media type of the config; empty without one."""
    return manifest.config.media_type if manifest.config else ""


def described_type(manifest: Manifest) -> str:
    """The artifactType, else the config's type, which stands for it (image-spec, manifest.md)."""
    return manifest.artifact_type or config_type(manifest)
