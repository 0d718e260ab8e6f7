"""What is asked about the pods that wait: whether they are being deleted, and which secrets their images are pulled with.

By GET, one pod at a time, and only while one waits: a watch would need the right to list all pods and hold a copy of them.
Nothing of a secret is kept after the call or logged.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelcsi.kube.client import Answer, KubeClient
from modelcsi.kube.thrift import Once, Recent
from modelcsi.registry.caller import Pod

logger = logging.getLogger(__name__)

_POD = "/api/v1/namespaces/{}/pods/{}"
_SERVICE_ACCOUNT = "/api/v1/namespaces/{}/serviceaccounts/{}"
_SECRET = "/api/v1/namespaces/{}/secrets/{}"  # noqa: S105 - a path
_RECENT_SECONDS = 1.0
_MIRRORED = "kubernetes.io/config.mirror"
"""kubelet shows a static pod as another object, with another uid; its own uid for it is in this annotation."""
_KEYS = {"kubernetes.io/dockerconfigjson": ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}
"""The types of secrets that hold credentials of registries, and under which key."""


class PodReader:
    """Implements `PodWatch` and `PullSecrets`. Any thread may call; each call makes at most a few bounded requests."""

    def __init__(self, client: KubeClient, has_pod_info: Callable[[], bool | None]) -> None:
        """`has_pod_info` is `DriverObject.has_pod_info`: without a yes, who a pod says to be is not believed."""
        self._client = client
        self._has_pod_info = has_pod_info
        self._once = Once()
        self._recent = Recent(_RECENT_SECONDS)

    def is_gone(self, pod: Pod) -> bool:
        """Whether the pod is being deleted, or is not there any more; False when the API server does not tell."""
        answer = self._read(pod)
        if answer.status == 404:
            return True
        if not answer.is_ok:
            self._complain(answer, "pods", "", f"the pod {pod}")
            return False
        metadata = answer.document.get("metadata") or {}
        uids = {metadata.get("uid"), (metadata.get("annotations") or {}).get(_MIRRORED)}
        return bool(metadata.get("deletionTimestamp")) or pod.uid not in uids

    def secrets_of(self, pod: Pod) -> tuple[Mapping[str, str], ...]:
        """The data of the pod's imagePullSecrets, or when it has none of its service account's, in their order.

        () for a pod that is not this one any more, and when nobody vouches for who it is.
        """
        if self._has_pod_info() is not True:
            if self._once.is_due("pod information"):
                logger.warning("imagePullSecrets are not used: no CSIDriver object with podInfoOnMount was seen")
            return ()
        answer = self._read(pod)
        if not answer.is_ok:
            self._complain(answer, "pods", "", f"the pod {pod}")
            return ()
        if (answer.document.get("metadata") or {}).get("uid") != pod.uid:
            return ()
        found = (self._secret(pod.namespace, name) for name in self._names(pod, answer.document.get("spec") or {}))
        return tuple(secret for secret in found if secret is not None)

    def _read(self, pod: Pod) -> Answer:
        key = (pod.namespace, pod.name)
        return self._recent.answer(key, lambda: self._client.read(_POD, *key))

    def _names(self, pod: Pod, spec: Mapping[str, Any]) -> Sequence[str]:
        """kubelet knows the pod's own only; the ServiceAccount admission has copied the account's into a pod without any.

        The account is read for those that were added to it since.
        """
        own = _names_in(spec)
        if own:
            return own
        account = str(spec.get("serviceAccountName") or pod.service_account or "default")
        answer = self._client.read(_SERVICE_ACCOUNT, pod.namespace, account)
        if not answer.is_ok:
            self._complain(answer, "serviceaccounts", account, f"the service account {pod.namespace}/{account}")
        return _names_in(answer.document) if answer.is_ok else ()

    def _secret(self, namespace: str, name: str) -> Mapping[str, str] | None:
        answer = self._client.read(_SECRET, namespace, name)
        what = f"the imagePullSecret {namespace}/{name}"
        if not answer.is_ok:
            self._complain(answer, "secrets", name, what)
            return None
        key = _KEYS.get(str(answer.document.get("type")), "")
        text = _decoded((answer.document.get("data") or {}).get(key))
        if text is None:
            if self._once.is_due(namespace, name):
                logger.warning("%s is left out: it is no secret of type %s", what, " or ".join(_KEYS))
            return None
        return {key: text}

    def _complain(self, answer: Answer, resource: str, name: str, what: str) -> None:
        """One line about each kind of refusal, one for each object that is missing."""
        about = (resource, answer.status) if answer.status != 404 else (resource, what, name)
        if not self._once.is_due(*about):
            return
        if answer.status == 403:
            logger.warning(
                "%s cannot be read: the driver needs the right to get %s (%s)", what, resource, answer.trouble
            )
        else:
            logger.warning("%s cannot be read: %s", what, answer.trouble)


def _names_in(holder: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(entry["name"]) for entry in holder.get("imagePullSecrets") or () if entry.get("name"))


def _decoded(text: object) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode() if isinstance(text, str) else None
    except ValueError:  # neither base64 nor UTF-8
        return None
