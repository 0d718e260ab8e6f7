"""Who may use the node's own credentials: every pod, as with kubelet's, or those of the namespaces that an admin names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.registry.caller import Pod
from modelcsi.registry.prefixes import EVERYTHING, canonical_prefix, covers

FORGEABLE = "the CSIDriver object is not known to have podInfoOnMount, so a pod could name any namespace"
"""Why what a request says of its pod does not count."""


class NodeAccess:
    """The map of prefixes to namespaces; any thread."""

    def __init__(self, namespaces: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """None lets every pod. Raises InvalidRequest when two spellings of a prefix disagree."""
        self._namespaces: dict[str, tuple[str, ...]] | None = None if namespaces is None else {}
        for text, names in (namespaces or {}).items():
            assert self._namespaces is not None, "there is a map"
            prefix = canonical_prefix(text)
            if set(self._namespaces.setdefault(prefix, names)) != set(names):
                raise InvalidRequest(
                    f"registry.node_credentials has {prefix} twice, with different namespaces", hint="leave one out"
                )

    def refusal(self, reference: Reference, pod: Pod | None, has_pod_info: Callable[[], bool | None]) -> str:
        """Why this pod may not use the node's credentials for the reference; empty when it may.

        `has_pod_info` tells whether kubelet vouches for `pod`; it is asked only where there is a map.
        """
        if self._namespaces is None:
            return ""
        prefixes = [prefix for prefix in self._namespaces if covers(prefix, reference)]
        name = f"{reference.host}/{reference.repository}"
        # 1. nobody may; 2. the pod is unknown; 3. it may have been made up; 4. another namespace's.
        if not prefixes:
            return f"the node's credentials are not used: registry.node_credentials has no prefix of {name}"
        if pod is None:
            return "the node's credentials are not used: registry.node_credentials is set, and the request names no pod"
        if has_pod_info() is not True:
            return f"the node's credentials are not used: registry.node_credentials is set, and {FORGEABLE}"
        # "*" has no component in common with anything, so it is the shortest.
        longest = max(prefixes, key=lambda prefix: 0 if prefix == EVERYTHING else len(prefix))
        if {EVERYTHING, pod.namespace}.isdisjoint(self._namespaces[longest]):
            return (
                f"the node's credentials are not used: registry.node_credentials does not give those of {longest} "
                f"to the namespace {pod.namespace}"
            )
        return ""
