"""Which entry of an index is meant: the only model, else the node's platform.

What an entry is, its descriptor says, or its manifest has to: `unread` names those whose manifests decide. Fetching and
checking them is the caller's work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from modelcsi.artifact.artifact import is_model
from modelcsi.artifact.kinds.refused import thing_of, thing_of_type
from modelcsi.artifact.mediatypes import DOCKER_PREFIX, MODELKIT_PREFIX, MODELPACK_PREFIXES, canonical
from modelcsi.artifact.paths import shown
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import ACCEPTED_TYPES, Index, Manifest

MAX_DEPTH = 3
"""Of an index in an index in an index."""
_MODEL_PREFIXES = (*MODELPACK_PREFIXES, MODELKIT_PREFIX, f"{DOCKER_PREFIX}model.config.")
_ATTESTATION_KEY = "vnd.docker.reference.type"
_MODELCAR_KEY = "io.opendatahub.modelcar.manifest.type"
_UNKNOWN = frozenset({"", "unknown"})
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_USUAL_VARIANTS = {"amd64": "v1", "arm64": "v8"}
"""What is meant where no variant is named (containerd, `platforms`)."""
_MAX_READ = 64
"""Entries of one index: of the largest that was met, three."""
_MAX_SHOWN = 8
_MAX_METADATA_CHARACTERS = 200

Known = Mapping[Digest, Manifest | Index]
"""Entries whose manifests were read."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A node's, in the words of Go: `linux`, `amd64`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def unread(index: Index, known: Known) -> tuple[Descriptor, ...]:
    """The entries whose manifests must be read before `choose` can decide; none when it can."""
    return _unread(index, known, 1)


def choose(index: Index, platform: Platform, known: Known) -> Descriptor:
    """The entry that is meant, which may be an index itself.

    Cases, in this order: the only entry that is a model; the only one that is not a signature or the like; the one for the
    platform; the only one without a platform. Raises UnsupportedArtifact, with the candidates, when the choice is not clear.
    """
    entries = _unique(index)
    candidates = {key: found for key, found in entries.items() if not _is_no_model(found, known)}
    models = [found for found in candidates.values() if _is_model_entry(found, known, 1)]
    if len(models) == 1:
        return models[0]
    if not candidates:
        raise _no_candidate(index)
    best = _best(index, platform, candidates) if len(candidates) > 1 else list(candidates)
    if len(best) == 1:
        return candidates[best[0]]
    listed = "; ".join(map(_shown_entry, list(candidates.values())[:_MAX_SHOWN]))
    more = f"; and {len(candidates) - _MAX_SHOWN} more" if len(candidates) > _MAX_SHOWN else ""
    reason = "none is" if not best else "several are"
    raise UnsupportedArtifact(
        f"it is an index of several artifacts, and {reason} for this node ({platform}): {listed}{more}",
        hint="name one of them by its digest",
    )


def _unread(index: Index, known: Known, depth: int) -> tuple[Descriptor, ...]:
    candidates = [entry for entry in _unique(index).values() if not _is_told_no_model(entry)]
    found: list[Descriptor] = []
    for entry in candidates if len(candidates) > 1 or depth > 1 else ():
        if not _must_be_read(entry):
            continue
        inner = known.get(entry.digest)
        if inner is None:
            found.append(entry)
        elif isinstance(inner, Index) and depth <= MAX_DEPTH:
            found += _unread(inner, known, depth + 1)
    return tuple(found)


def _unique(index: Index) -> dict[Digest, Descriptor]:
    """A digest may be there repeatedly, for several platforms."""
    entries: dict[Digest, Descriptor] = {}
    for entry in index.manifests:
        entries.setdefault(entry.digest, entry)
    return entries


def _must_be_read(entry: Descriptor) -> bool:
    return not entry.artifact_type and not _is_told_model(entry) and not _has_platform(entry)


def _has_platform(entry: Descriptor) -> bool:
    return (entry.platform or {}).get("architecture", "") not in _UNKNOWN


def _is_told_no_model(entry: Descriptor) -> bool:
    """An index may name anything; what is no manifest at all is to be passed over (image-spec, image-index.md)."""
    media_type = canonical(entry.media_type)
    is_no_manifest = bool(media_type) and media_type not in ACCEPTED_TYPES
    is_attestation = entry.annotations.get(_ATTESTATION_KEY) == "attestation-manifest"
    return is_no_manifest or is_attestation or thing_of_type(canonical(entry.artifact_type or "")) is not None


def _is_no_model(entry: Descriptor, known: Known) -> bool:
    inner = known.get(entry.digest)
    return _is_told_no_model(entry) or (isinstance(inner, Manifest) and thing_of(inner) is not None)


def _is_told_model(entry: Descriptor) -> bool:
    is_marked = entry.annotations.get(_MODELCAR_KEY) == "modelpack"
    return is_marked or canonical(entry.artifact_type or "").startswith(_MODEL_PREFIXES)


def _is_model_entry(entry: Descriptor, known: Known, depth: int) -> bool:
    if _is_told_model(entry) or not _must_be_read(entry):
        return _is_told_model(entry)
    inner = known.get(entry.digest)
    if isinstance(inner, Manifest):
        return is_model(inner)
    if inner is None or depth > MAX_DEPTH:
        return False
    return any(_is_model_entry(found, known, depth + 1) for found in inner.manifests if not _is_no_model(found, known))


def _best(index: Index, platform: Platform, candidates: Mapping[Digest, Descriptor]) -> list[Digest]:
    """The candidates that fit the platform best, or those without one; each digest once."""
    ranks: dict[Digest, int] = {}
    for entry in index.manifests:
        if entry.digest in candidates:
            ranks[entry.digest] = max(_rank(entry, platform), ranks.get(entry.digest, 0))
    best = max(ranks.values())
    return [digest for digest, rank in ranks.items() if rank == best] if best else []


def _rank(entry: Descriptor, platform: Platform) -> int:
    """4: the very variant, 3: any variant, 2: another variant (the files are data), 1: no platform, 0: another platform."""
    if not _has_platform(entry):
        return 1
    told = entry.platform or {}
    architecture = _ARCHITECTURES.get(told.get("architecture", ""), told.get("architecture", ""))
    if architecture != platform.architecture or told.get("os", "") not in _UNKNOWN | {platform.os}:
        return 0
    usual = _USUAL_VARIANTS.get(architecture, "")
    variant = told.get("variant", "")
    if not variant:
        return 3
    return 4 if variant == (platform.variant or usual) else 2


def _no_candidate(index: Index) -> UnsupportedArtifact:
    if not index.manifests:
        return UnsupportedArtifact(
            "it is an index without entries", hint="push the model again, or name it by its digest"
        )
    return UnsupportedArtifact(
        "it is a list of signatures, attestations or the like, not a model",
        hint="name the artifact that they belong to",
    )


def _shown_entry(entry: Descriptor) -> str:
    told = entry.platform or {}
    platform = "/".join(told[key] for key in ("os", "architecture", "variant") if told.get(key))
    metadata = entry.extra.get("modelMetadata")
    facts = [
        shown(platform)[1:-1],
        shown(entry.artifact_type or "")[1:-1],
        json.dumps(metadata, ensure_ascii=True)[:_MAX_METADATA_CHARACTERS] if metadata is not None else "",
    ]
    text = ", ".join(filter(None, facts))
    return f"{entry.digest} ({text})" if text else str(entry.digest)


def walk(index: Index, platform: Platform, read: Callable[[Descriptor], Manifest | Index]) -> Iterator[Descriptor]:
    """The entries that lead from an index to the manifest that is meant, the last of them; `read` is asked for manifests.

    Raises UnsupportedArtifact when the choice is not clear, or behind more than three indexes in an index.
    """
    known: dict[Digest, Manifest | Index] = {}
    here: Manifest | Index = index
    for _ in range(MAX_DEPTH + 1):
        if isinstance(here, Manifest):
            return
        while entries := unread(here, known):
            if len(known) + len(entries) > _MAX_READ:
                raise UnsupportedArtifact(
                    f"it is an index of more than {_MAX_READ} artifacts that only their manifests tell apart",
                    hint="name one of them by its digest",
                )
            known |= {entry.digest: read(entry) for entry in entries}
        entry = choose(here, platform, known)
        yield entry
        here = known.get(entry.digest) or read(entry)
    if isinstance(here, Index):
        raise UnsupportedArtifact(
            f"it has indexes in indexes, over {MAX_DEPTH} deep", hint="name the model by its digest"
        )
