"""Who asks for an artifact, and what they brought: values only, any thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Pod:
    """Who asks, as kubelet says (podInfoOnMount)."""

    namespace: str
    name: str
    uid: str
    service_account: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an artifact, and what they brought.

    `secrets` is the request's own secret; `tokens` maps an audience to the pod's service-account token for it, as kubelet
    sends them where the CSIDriver object has `tokenRequests`.
    """

    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    pod: Pod | None = None
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)


class PullSecrets(Protocol):
    """The imagePullSecrets of pods: of the Kubernetes API, which this package does not know."""

    def secrets_of(self, pod: Pod) -> tuple[Mapping[str, str], ...]:
        """The decoded data of the pod's secrets and of its service account's, in kubelet's order; () without any.

        Raises nothing: what cannot be read is logged once and left out.
        """
        ...
