"""What is recognised in order to be refused by name: things that are no models.

Other things that nobody here has heard of are generic artifacts, and their files are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelcsi.artifact.kinds.kind import Contents, Kind, config_type, described_type, layer_types
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.manifest import Manifest

_OF_WHAT_IT_BELONGS_TO = "name the artifact that it belongs to"
_CHECK = "check the reference"


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that is no model; `prefixes` begin the types, of artifact, config or layers, that tell it."""

    name: str
    prefixes: tuple[str, ...]
    hint: str = _CHECK


SIGNATURE = Thing(
    "a signature",
    (
        "application/vnd.dev.cosign.",
        "application/vnd.dev.sigstore.bundle",
        "application/vnd.cncf.notary.",
        "application/jose+json",
        "application/cose",
    ),
    _OF_WHAT_IT_BELONGS_TO,
)
ATTESTATION = Thing(
    "an attestation",
    ("application/vnd.in-toto", "application/vnd.dsse.", "application/vnd.docker.attestation."),
    _OF_WHAT_IT_BELONGS_TO,
)
THINGS = (
    SIGNATURE,
    ATTESTATION,
    Thing(
        "a bill of materials (SBOM)",
        (
            "application/spdx",
            "text/spdx",
            "application/vnd.cyclonedx",
            "application/vnd.syft",
        ),
        _OF_WHAT_IT_BELONGS_TO,
    ),
    Thing(
        "a report of vulnerabilities",
        ("application/sarif", "application/vnd.security.vulnerability."),
        _OF_WHAT_IT_BELONGS_TO,
    ),
    Thing("a Helm chart", ("application/vnd.cncf.helm.",)),
    Thing(
        "a WebAssembly module",
        (
            "application/vnd.wasm.",
            "application/wasm",
            "application/vnd.module.wasm.",
            "application/vnd.bytecodealliance.wasm",
        ),
    ),
    Thing("a Flux source", ("application/vnd.cncf.flux.",)),
    Thing("a policy of Open Policy Agent", ("application/vnd.cncf.openpolicyagent.",)),
    Thing("a Docker plugin", ("application/vnd.docker.plugin.",)),
    Thing("a Compose project", ("application/vnd.docker.compose.",)),
    Thing("a build cache of BuildKit", ("application/vnd.buildkit.cacheconfig.",)),
    Thing("a CNAB bundle", ("application/vnd.cnab.",)),
    Thing("a Singularity image", ("application/vnd.sylabs.sif.",)),
    Thing("a development container's feature or template", ("application/vnd.devcontainers",)),
)
"""The first that fits is named."""


def thing_of_type(name: str) -> Thing | None:
    """What a canonical type is the type of, if that is no model."""
    return next((thing for thing in THINGS if name.startswith(thing.prefixes)), None)


def thing_of(manifest: Manifest) -> Thing | None:
    """What a manifest is, by the type of the artifact or the config, or by its layers.

    One layer tells a signature or an attestation; of other things all layers must be, since a model may bring its SBOM.
    """
    layers = layer_types(manifest)
    found = thing_of_type(described_type(manifest)) or thing_of_type(config_type(manifest))
    evidence = next((thing for thing in map(thing_of_type, layers) if thing in (SIGNATURE, ATTESTATION)), None)
    things = set(map(thing_of_type, layers))
    return found or evidence or (things.pop() if len(things) == 1 else None)


def _refusal(name: str, matches: Callable[[Manifest], bool], refuse: Callable[[Manifest], UnsupportedArtifact]) -> Kind:
    def read(manifest: Manifest) -> Contents:
        raise refuse(manifest)

    return Kind(name, matches, read)


def _is_evidence(manifest: Manifest) -> bool:
    return thing_of(manifest) in (SIGNATURE, ATTESTATION)


def _no_model(manifest: Manifest) -> UnsupportedArtifact:
    thing = thing_of(manifest)
    assert thing is not None, "it matched"
    return UnsupportedArtifact(f"the artifact is {thing.name}, not a model", hint=thing.hint)


EVIDENCE = _refusal("signature", _is_evidence, _no_model)
NO_MODEL = _refusal("no model", lambda manifest: thing_of(manifest) is not None, _no_model)
