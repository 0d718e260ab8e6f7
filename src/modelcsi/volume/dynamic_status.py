"""The words of the dynamic-mount API, which are upstream's (model-csi-driver, `pkg/status/status.go`, `pkg/service/request.go`).

Values and their JSON only. Of upstream's states only two are ever answered: a mount that failed, ran out of time or was
cancelled is gone with its answer, there and here.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NewType

from modelcsi.artifact.selection import Selection
from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.pull.progress import LayerMoment
from modelcsi.volume.values import parse_patterns

MountId = NewType("MountId", str)

_IDENTIFIER = re.compile(r"[a-zA-Z0-9_-]{1,200}")
"""Upstream's characters; a mount id is a directory's name, so it has an end."""
_NO_PROGRESS = {"total": 0, "items": None}


class MountState(enum.Enum):
    """How far a mount is; the value is upstream's."""

    PULLING = "PULLING"
    MOUNTED = "PULL_SUCCEEDED"


@dataclass(frozen=True, slots=True)
class MountRequest:
    """Which model a pod wants to see under which id."""

    mount_id: MountId
    written: str
    """The reference as the pod wrote it, and will find it again."""
    reference: Reference
    selection: Selection


@dataclass(frozen=True, slots=True)
class DynamicMount:
    """A model in a dynamic volume, complete or on its way."""

    mount_id: MountId
    reference: str
    """As it was written."""
    state: MountState
    progress: Mapping[str, Any]
    """As the API shows it."""
    selection: str = ""
    """`Selection.key`; empty while it is pulled, as everything below."""
    manifest: str = ""
    size_bytes: int = 0
    files: int = 0


def is_identifier(text: str) -> bool:
    """Whether upstream accepts the text as a volume's name or a mount's id."""
    return _IDENTIFIER.fullmatch(text) is not None


def parse_mount_id(text: str) -> MountId:
    """Raises InvalidRequest."""
    if not is_identifier(text):
        raise InvalidRequest("mount_id is invalid", hint="1 to 200 of the characters a-z A-Z 0-9 _ -")
    return MountId(text)


def parse_mount_request(body: bytes) -> MountRequest:
    """The body of a POST. Raises InvalidRequest; fields that nobody knows are ignored, as upstream ignores them."""
    try:
        fields = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("invalid JSON body") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("invalid JSON body: it is no object")
    mount_id = parse_mount_id(_text(fields, "mount_id"))
    reference = _text(fields, "reference")
    if not reference:
        raise InvalidRequest("reference is invalid: it is empty")
    _flag(fields, "check_disk_quota")  # both values mean the same: space is always checked
    patterns = fields.get("exclude_file_patterns")
    selection = Selection(
        exclude_weights=_flag(fields, "exclude_model_weights"),
        exclude_patterns=_patterns(json.dumps([] if patterns is None else patterns)),
    )
    return MountRequest(mount_id, reference, Reference.parse(reference), selection)


def progress_document(layers: Sequence[LayerMoment], total: int) -> dict[str, Any]:
    """Layers in the order in which they began.

    Without the `error` of a layer, which upstream sends: its own client cannot read it, and fails (`error` is an interface).
    """
    items = [
        {
            "digest": layer.digest,
            "path": f"/{layer.path}" if layer.path else "",
            "size": layer.size_bytes,
            "started_at": _time(layer.began_at),
            **({} if layer.ended_at is None else {"finished_at": _time(layer.ended_at)}),
        }
        for layer in sorted(layers, key=lambda layer: (layer.began_at, layer.digest))
    ]
    return {"total": total, "items": items}


def status_document(volume_id: str, mount: DynamicMount | None = None) -> dict[str, Any]:
    """What the API answers, and what a pod finds in a status.json; without a mount that of the volume itself.

    Go's `omitempty`: what is empty or false is left out, `progress` never is.
    """
    if mount is None:
        return {"volume_name": volume_id, "progress": _NO_PROGRESS}
    return {
        "volume_name": volume_id,
        "mount_id": mount.mount_id,
        "reference": mount.reference,
        "state": mount.state.value,
        "progress": mount.progress,
    }


def record_document(volume_id: str, mount: DynamicMount) -> dict[str, Any]:
    """The status and what a start must know of a mount: `parse_record` reads it."""
    return status_document(volume_id, mount) | {
        "digest": mount.manifest,
        "selection": mount.selection,
        "size_bytes": mount.size_bytes,
        "files": mount.files,
    }


def parse_record(document: Mapping[str, Any]) -> DynamicMount:
    """What `record_document` wrote. Raises KeyError, ValueError or TypeError for anything else."""
    return DynamicMount(
        MountId(str(document["mount_id"])),
        str(document["reference"]),
        MountState(document["state"]),
        document["progress"],
        selection=str(document["selection"]),
        manifest=str(document["digest"]),
        size_bytes=int(document["size_bytes"]),
        files=int(document["files"]),
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"invalid JSON body: {name} is not text")
    return value.strip()


def _patterns(text: str) -> tuple[str, ...]:
    try:
        return parse_patterns(text)
    except ValueError as error:
        raise InvalidRequest(f"the value of exclude_file_patterns, {text[:200]!r}, {error}") from error


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"invalid JSON body: {name} is neither true nor false")
    return bool(value)


def _time(seconds: float) -> str:
    """RFC 3339, as Go writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
