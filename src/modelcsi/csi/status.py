"""The one place where an error becomes a gRPC status: its code, and the text a person reads in `kubectl describe pod`.

kubelet takes CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE, RESOURCE_EXHAUSTED and ABORTED for "may still be under way" and will
unpublish; after any other code it forgets the volume (kubelet, `isFinalError`). So FinalError and TransientError must stay
on their sides of that line.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc

from modelcsi import errors

CODES: Mapping[type[errors.ModelCsiError], grpc.StatusCode] = MappingProxyType(
    {
        errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
        errors.UnsupportedArtifact: grpc.StatusCode.FAILED_PRECONDITION,
        errors.PolicyDenied: grpc.StatusCode.FAILED_PRECONDITION,
        errors.NotFound: grpc.StatusCode.NOT_FOUND,
        errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
        errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
        errors.AlreadyPublished: grpc.StatusCode.ALREADY_EXISTS,
        errors.CorruptContent: grpc.StatusCode.DATA_LOSS,
        errors.OperationPending: grpc.StatusCode.ABORTED,
        errors.PullPending: grpc.StatusCode.ABORTED,
        errors.RegistryUnavailable: grpc.StatusCode.UNAVAILABLE,
        errors.ClusterUnavailable: grpc.StatusCode.UNAVAILABLE,
        errors.Busy: grpc.StatusCode.UNAVAILABLE,
        errors.ShuttingDown: grpc.StatusCode.UNAVAILABLE,
        errors.MountFailed: grpc.StatusCode.UNAVAILABLE,
        errors.RollbackFailed: grpc.StatusCode.UNAVAILABLE,
        errors.StoreFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""design.md, D3, class by class. A class that is not here has the code of its nearest ancestor that is."""

# gRPC sends the text as a percent-encoded header; under 1 KiB it fits every proxy's and kubelet's limits.
_MAX_MESSAGE = 760
_MAX_HINT = 240


def code_of(error: BaseException) -> grpc.StatusCode:
    """The code for `error`; INTERNAL for what nobody expected."""
    for ancestor in type(error).__mro__:
        if (code := CODES.get(ancestor)) is not None:
            return code
    return grpc.StatusCode.INTERNAL


def text_of(error: errors.ModelCsiError) -> str:
    """What the caller reads: the message, then the hint, in printable ASCII and under 1 KiB."""
    message = printable(error.message, _MAX_MESSAGE)
    return f"{message} ({printable(error.hint, _MAX_HINT)})" if error.hint else message


def printable(text: str, limit: int) -> str:
    """`text` in printable ASCII, cut to `limit` characters; other characters are shown as escapes."""
    shown = "".join(char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text[:limit])
    return shown if len(shown) <= limit and len(text) <= limit else f"{shown[: limit - 3]}..."
