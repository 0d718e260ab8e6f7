"""When the registry is asked."""

from __future__ import annotations

import enum

from modelcsi.oci.reference import Reference


class PullPolicy(enum.Enum):
    """Kubernetes' image pull policies, for models."""

    ALWAYS = "Always"
    """Each publish asks what the reference means now."""
    IF_NOT_PRESENT = "IfNotPresent"
    """What is on the node, and proven for the caller's credentials, is used without asking."""
    NEVER = "Never"
    """Only what is on the node."""

    @classmethod
    def default(cls, reference: Reference) -> PullPolicy:
        """Kubernetes' rule: Always for `:latest`, else IfNotPresent."""
        is_latest = reference.tag == "latest" and reference.digest is None
        return cls.ALWAYS if is_latest else cls.IF_NOT_PRESENT
