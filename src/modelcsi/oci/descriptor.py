"""Content descriptors (image-spec, descriptor.md), read from untrusted JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest

_MAX_SIZE = 1 << 63
_EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says about a piece of content: type, digest, exact size in bytes, and annotations."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=lambda: _EMPTY, hash=False)  # hashable only since 3.12
    artifact_type: str | None = None
    data: bytes | None = None
    """Content embedded in the descriptor, already checked against digest and size."""
    platform: Mapping[str, str] | None = field(default=None, hash=False)
    """`os`, `architecture`, `variant` … of an index entry; None when the entry has none."""
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), compare=False)
    """Fields that the specification does not define (Ollama's `name`)."""


_KNOWN = frozenset({"mediaType", "digest", "size", "annotations", "artifactType", "data", "platform", "urls"})


def parse_descriptor(value: object, where: str) -> Descriptor:
    """The descriptor in `value`, a decoded JSON object; `where` names it in errors ("layers[3]").

    `urls` are read over: content comes from the registry or not at all (SSRF). Raises UnsupportedArtifact.
    """
    if not isinstance(value, dict):
        raise UnsupportedArtifact(f"{where} is not a descriptor")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not isinstance(size, int) or isinstance(size, bool):
        raise UnsupportedArtifact(f"{where} has no digest and size")
    if not 0 <= size < _MAX_SIZE:
        raise UnsupportedArtifact(f"{where} has the impossible size {size}")
    parsed = Digest.parse(digest)
    return Descriptor(
        media_type=media_type if isinstance(media_type, str) else "",
        digest=parsed,
        size=size,
        annotations=parse_annotations(value.get("annotations"), where),
        artifact_type=_text_or_none(value.get("artifactType")),
        data=_parse_data(value.get("data"), parsed, size, where),
        platform=_parse_platform(value.get("platform")),
        extra=MappingProxyType({key: item for key, item in value.items() if key not in _KNOWN}),
    )


def parse_annotations(value: object, where: str) -> Mapping[str, str]:
    """String annotations; `null` and absence are none, of one as of all. Raises UnsupportedArtifact."""
    if value is None:
        return _EMPTY
    if not isinstance(value, dict) or not all(item is None or isinstance(item, str) for item in value.values()):
        raise UnsupportedArtifact(f"the annotations of {where} are not a map of strings")
    return MappingProxyType({key: item for key, item in value.items() if item is not None})


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _parse_platform(value: object) -> Mapping[str, str] | None:
    if not isinstance(value, dict):
        return None
    return MappingProxyType({key: item for key, item in value.items() if isinstance(item, str)})


def _parse_data(value: object, digest: Digest, size: int, where: str) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise UnsupportedArtifact(f"the data of {where} is not base64")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnsupportedArtifact(f"the data of {where} is not base64") from error
    if len(data) != size or not digest.matches(data):
        raise UnsupportedArtifact(f"the data of {where} does not match its digest {digest}")
    return data
