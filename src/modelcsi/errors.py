"""Every way this driver can fail, as kinds a caller can act on.

    ModelCsiError
    ├── FinalError: asking again without a change gives the same answer; nothing of the call is left on the node
    │   ├── InvalidRequest          reference, attribute, capability, configuration
    │   ├── UnsupportedArtifact     unsafe path, unknown codec, not a model
    │   ├── PolicyDenied            an admin's rule says no
    │   ├── NotFound                artifact, volume
    │   ├── Unauthenticated         no or wrong credentials
    │   ├── Forbidden               right credentials, no permission
    │   ├── AlreadyPublished        same target, other arguments
    │   └── CorruptContent          digest or size differ
    └── TransientError: may succeed when asked again; a pull or a mount may still be under way
        ├── OperationPending        another call works on the same volume
        ├── PullPending             the pull goes on; the next call joins it
        ├── RegistryUnavailable     network, 408, 429, 5xx
        ├── ClusterUnavailable      the Kubernetes API, where nothing works without its answer
        ├── Busy                    every publish slot is taken by work that cannot be put off
        ├── ShuttingDown
        ├── MountFailed             the kernel refuses a mount; nothing of it is left
        ├── RollbackFailed          something of a failed call is still on the node
        └── StoreFull

Anything else that is raised is a bug. kubelet forgets a volume after a final answer and never unpublishes it (kubelet,
`isFinalError`), hence the split in two: raise a final kind only when nothing of the call is left. `csi/status.py` maps the
classes to gRPC codes, `cli` to exit codes.
"""

from __future__ import annotations


class ModelCsiError(Exception):
    """An expected failure: `message` says what and which, `hint` what a person can do next (empty: nothing useful to say)."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class FinalError(ModelCsiError):
    """Asking again without a change gives the same answer."""


class TransientError(ModelCsiError):
    """Asking again later may succeed."""


class InvalidRequest(FinalError):
    """The request, or the configuration, cannot be understood or contradicts itself."""


class UnsupportedArtifact(FinalError):
    """The artifact exists, and cannot be mounted safely or at all."""


class PolicyDenied(FinalError):
    """A rule of the cluster's administrator refuses the request."""


class NotFound(FinalError):
    """The artifact or the volume does not exist."""


class Unauthenticated(FinalError):
    """The registry knows no such credentials, or asks for some and none were given."""


class Forbidden(FinalError):
    """The registry knows the credentials and refuses them this repository."""


class AlreadyPublished(FinalError):
    """The target is published with other arguments."""


class CorruptContent(FinalError):
    """Bytes that are not what their digest or size promised, after the retries."""


class OperationPending(TransientError):
    """Another call works on the same volume."""


class PullPending(TransientError):
    """The pull is under way and outlives this call."""


class RegistryUnavailable(TransientError):
    """The registry, or the way to it, does not answer as it should; it may have said when to come back (`Retry-After`)."""

    def __init__(self, message: str, *, hint: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class ClusterUnavailable(TransientError):
    """The Kubernetes API does not answer, and what it knows may make the difference."""


class Busy(TransientError):
    """Too many calls at once."""


class ShuttingDown(TransientError):
    """The driver is about to end; its successor will answer."""


class MountFailed(TransientError):
    """The kernel refuses a mount, and nothing of it is left; the cause is the node or its limits, not the request."""


class RollbackFailed(TransientError):
    """Something of a failed or finished call could not be removed from the node."""


class StoreFull(TransientError):
    """No space for the content, after everything that nobody needs was evicted."""
