"""What the annotations of a layer say about its file: the path, and the metadata of ModelPack.

Both vendor prefixes have equal rights for ever, in one manifest too: `modctl attach` adds cncf layers to a cnai artifact.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from modelcsi.artifact.paths import normalise_path
from modelcsi.oci.descriptor import Descriptor

_FILEPATH_KEYS = ("org.cncf.model.filepath", "org.cnai.model.filepath")
TITLE_KEY = "org.opencontainers.image.title"
_METADATA_KEYS = (
    "org.cncf.model.file.metadata+json",
    "org.cnai.model.file.metadata+json",
    "org.cnai.model.file.metadata",  # model-spec v0.0.4 only
)
PRODUCER_KEY = "org.modelpack.csi.model.producer"
PRODUCER = "modelcsi"
"""What `modelcsi pack` calls itself in the manifest. Without a version, which would change the digest with every release."""
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END_OF_TIME_NS = 1 << 63
"""April 2262: what fits into the usual integers."""
_REGULAR_TYPE_FLAGS = frozenset({0, ord("0")})  # modctl and AIKit write 0, RamaLama the character's code


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """The metadata annotation, as far as it could be understood; what it does not say is None or False."""

    name: str | None = None
    """A base name (modctl) or the full path (AIKit); not yet normalised."""
    mode: int | None = None
    mtime_ns: int | None = None
    size: int | None = None
    """Of the file, not of the blob; not verified."""
    is_regular_file: bool = False
    """It describes one regular file."""
    has_files: bool = False
    """It describes a tar of many files (AIKit's `files` key)."""


def parse_file_metadata(descriptor: Descriptor) -> FileMetadata:
    """The metadata annotation of a layer. It informs, no more: nothing in it, however malformed, is an error."""
    text = _first(descriptor, _METADATA_KEYS)
    if text is None:
        return FileMetadata()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return FileMetadata()
    if not isinstance(value, dict):
        return FileMetadata()
    name, mode, type_flag, size = (value.get(key) for key in ("name", "mode", "typeflag", "size"))
    has_files = "files" in value
    is_number = isinstance(type_flag, int) and not isinstance(type_flag, bool)
    return FileMetadata(
        name=name if isinstance(name, str) and name else None,
        mode=mode & 0o777 if isinstance(mode, int) and not isinstance(mode, bool) and mode > 0 else None,
        mtime_ns=_parse_time(value.get("mtime")),
        size=size if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < _END_OF_TIME_NS else None,
        is_regular_file=not has_files and is_number and type_flag in _REGULAR_TYPE_FLAGS,
        has_files=has_files,
    )


def filepath_annotation(descriptor: Descriptor) -> str | None:
    """The normalised path of the ModelPack filepath annotation; None without one, and for the root itself (KitOps).

    Raises UnsupportedArtifact for an unsafe one, also where it would not be used.
    """
    text = _first(descriptor, _FILEPATH_KEYS)
    if text is None or text in {".", "./"}:
        return None
    return normalise_path(text, f"layer {descriptor.digest}")


def has_filepath(descriptor: Descriptor) -> bool:
    """Whether there is a ModelPack filepath annotation, be it the root's."""
    return bool(_first(descriptor, _FILEPATH_KEYS))


def annotated_path(descriptor: Descriptor) -> str:
    """The path that an annotation gives a layer that is one file, as it is written; empty without one.

    The filepath goes before the title, because RamaLama's title is the name of the blob.
    """
    return _first(descriptor, _FILEPATH_KEYS) or descriptor.annotations.get(TITLE_KEY) or ""


def told_path(descriptor: Descriptor, known: str = "") -> str | None:
    """The normalised path of a layer that is one file; None when nothing names it. Raises UnsupportedArtifact.

    In this order: annotations, `known` (what the media type tells), the name in the metadata.
    """
    text = annotated_path(descriptor) or known or parse_file_metadata(descriptor).name
    return normalise_path(text, f"layer {descriptor.digest}") if text else None


def _first(descriptor: Descriptor, keys: tuple[str, ...]) -> str | None:
    return next((descriptor.annotations[key] for key in keys if descriptor.annotations.get(key)), None)


def _parse_time(value: object) -> int | None:
    """RFC 3339 to nanoseconds since 1970; None for anything else, Go's zero time, and others outside 1970 to 2262."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    fraction, sign, hours, minutes = match.group(7, 8, 9, 10)
    year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
    try:
        offset = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta()
        zone = timezone(-offset if sign == "-" else offset)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError:
        return None
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    nanoseconds = seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
    return nanoseconds if 0 <= nanoseconds < _END_OF_TIME_NS else None
