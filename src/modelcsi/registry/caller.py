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


@dataclass(frozen=True, slots=True)
class PodSecrets:
    """What there is of a pod's imagePullSecrets."""

    found: tuple[Mapping[str, str], ...] = field(default=(), repr=False)
    """Their decoded data, in kubelet's order."""
    lacks: tuple[str, ...] = ()
    """Which could not be read or used, and why, for the pod's author."""
    is_passing: bool = False
    """Whether some of these may well be read later: the API server does not answer."""


class PullSecrets(Protocol):
    """The imagePullSecrets of pods: of the Kubernetes API, which this package does not know."""

    def secrets_of(self, pod: Pod) -> PodSecrets:
        """The pod's secrets, or when it has none its service account's. Raises nothing."""
        ...
