"""Checks of single request fields that several services share; each raises InvalidRequest."""

from __future__ import annotations

from collections.abc import Iterable

from modelcsi.csi.pb import csi_pb2
from modelcsi.errors import InvalidRequest

MAX_ID_BYTES = 128
"""CSI, "Size Limits": of a volume id and of a name."""


def check_text(name: str, text: str, max_bytes: int) -> None:
    """Check that the field is there, within its limit, and free of NUL bytes."""
    if not text:
        raise InvalidRequest(f"{name} is missing")
    if len(text.encode()) > max_bytes:
        raise InvalidRequest(f"{name} has over {max_bytes} bytes")
    if "\0" in text:
        raise InvalidRequest(f"{name} has a NUL byte")


def check_capabilities(capabilities: Iterable[csi_pb2.VolumeCapability]) -> None:
    """Check that only file system access is asked for, at least once.

    Every access mode is accepted, also the writing ones: inline volumes and csi-sanity always ask for SINGLE_NODE_WRITER.
    The mount is read-only all the same (D7).
    """
    capabilities = tuple(capabilities)
    if not capabilities:
        raise InvalidRequest("volume_capabilities are missing")
    if any(capability.HasField("block") for capability in capabilities):
        raise InvalidRequest("a model cannot be a block device", hint="use volumeMode: Filesystem")
