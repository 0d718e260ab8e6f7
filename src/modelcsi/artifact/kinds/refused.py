"""What is recognised in order to be refused by name: things that are not models, and kinds that are not read yet."""

from __future__ import annotations

from collections.abc import Callable

from modelcsi.artifact.kinds.kind import Contents, Kind, config_type, described_type
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.manifest import Manifest

_SIGNATURE_TYPES = (
    "application/vnd.dev.cosign.",
    "application/vnd.dev.sigstore.bundle",
    "application/vnd.in-toto",
    "application/vnd.cncf.notary.signature",
)
_DOCKER_MODEL_CONFIG = "application/vnd.docker.ai.model.config."
_IMAGE_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"


def _refusal(name: str, matches: Callable[[Manifest], bool], message: str, hint: str) -> Kind:
    def refuse(_: Manifest) -> Contents:
        raise UnsupportedArtifact(message, hint=hint)

    return Kind(name, matches, refuse)


def _is_ollama(manifest: Manifest) -> bool:
    return any(layer.media_type.startswith("application/vnd.ollama.") for layer in manifest.layers)


def _is_signature(manifest: Manifest) -> bool:
    types = (described_type(manifest), config_type(manifest), *(layer.media_type for layer in manifest.layers))
    return any(name.startswith(_SIGNATURE_TYPES) for name in types)


def _is_modelkit(manifest: Manifest) -> bool:
    types = (manifest.artifact_type or "", config_type(manifest))
    return any(name.startswith("application/vnd.kitops.modelkit.") for name in types)


def _is_docker_model(manifest: Manifest) -> bool:
    return config_type(manifest).startswith(_DOCKER_MODEL_CONFIG)


def _is_image(manifest: Manifest) -> bool:
    return manifest.artifact_type is None and config_type(manifest) in _IMAGE_CONFIGS


def _is_helm_chart(manifest: Manifest) -> bool:
    return config_type(manifest) == _HELM_CONFIG


OLLAMA = _refusal(
    "ollama",
    _is_ollama,
    "the artifact is an Ollama model, a kind that cannot be mounted",
    "pack its files as a ModelPack artifact",
)
SIGNATURE = _refusal(
    "signature",
    _is_signature,
    "the artifact is a signature or an attestation, not a model",
    "name the artifact that it belongs to",
)
MODELKIT = _refusal(
    "modelkit",
    _is_modelkit,
    "the artifact is a KitOps ModelKit, a kind that cannot be mounted",
    "pack it with `kit pack --use-model-pack`",
)
DOCKER_MODEL = _refusal(
    "docker-model",
    _is_docker_model,
    "the artifact is a model of Docker Model Runner, a kind that cannot be mounted",
    "package it in the CNCF ModelPack format",
)
IMAGE = _refusal(
    "image",
    _is_image,
    "the artifact is a container image, not a model",
    "pack the model's files as a ModelPack artifact",
)
HELM_CHART = _refusal("helm-chart", _is_helm_chart, "the artifact is a Helm chart, not a model", "check the reference")
