"""What is asked about the pods that wait: whether they are being deleted, and which secrets their images are pulled with.

By GET, one pod at a time, and only while one waits: a watch would need the right to list all pods and hold a copy of them.
Nothing of a secret is kept after the call or logged.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from modelcsi.kube.client import Answer, KubeClient
from modelcsi.kube.thrift import Once, Recent
from modelcsi.registry.caller import Pod, PodSecrets

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
            self._warn(answer, "pods", "", f"the pod {pod}")
            return False
        metadata = answer.document.get("metadata") or {}
        uids = {metadata.get("uid"), (metadata.get("annotations") or {}).get(_MIRRORED)}
        return bool(metadata.get("deletionTimestamp")) or pod.uid not in uids

    def secrets_of(self, pod: Pod) -> PodSecrets:
        """The data of the pod's imagePullSecrets, or when it has none of its service account's, in their order.

        Nothing for a pod that is not this one any more, and when nobody vouches for who it is. What cannot be read is logged
        once.
        """
        if self._has_pod_info() is not True:
            if self._once.is_due("pod information"):
                logger.warning("imagePullSecrets are not used: no CSIDriver object with podInfoOnMount was seen")
            return PodSecrets()
        try:
            names = self._names(pod)
        except _Unusable as error:
            return PodSecrets((), (str(error),), error.is_passing)
        found: list[Mapping[str, str]] = []
        lacks: list[_Unusable] = []
        for name in names:
            try:
                found.append(self._secret(pod.namespace, name))
            except _Unusable as error:
                lacks.append(error)
        return PodSecrets(tuple(found), tuple(map(str, lacks)), any(error.is_passing for error in lacks))

    def _read(self, pod: Pod) -> Answer:
        key = (pod.namespace, pod.name)
        return self._recent.answer(key, lambda: self._client.read(_POD, *key))

    def _names(self, pod: Pod) -> Sequence[str]:
        """kubelet knows the pod's own only; the ServiceAccount admission has copied the account's into a pod without any.

        The account is read for those that were added to it since. Raises _Unusable.
        """
        answer = self._read(pod)
        if not answer.is_ok:
            self._complain(answer, "pods", "", f"the pod {pod}")
        if (answer.document.get("metadata") or {}).get("uid") != pod.uid:
            return ()
        spec = answer.document.get("spec") or {}
        own = _names_in(spec)
        if own:
            return own
        account = str(spec.get("serviceAccountName") or pod.service_account or "default")
        answer = self._client.read(_SERVICE_ACCOUNT, pod.namespace, account)
        if not answer.is_ok:
            self._complain(answer, "serviceaccounts", account, f"the service account {pod.namespace}/{account}")
        return _names_in(answer.document)

    def _secret(self, namespace: str, name: str) -> Mapping[str, str]:
        """Raises _Unusable."""
        answer = self._client.read(_SECRET, namespace, name)
        what = f"the imagePullSecret {namespace}/{name}"
        if not answer.is_ok:
            self._complain(answer, "secrets", name, what)
        key = _KEYS.get(str(answer.document.get("type")), "")
        text = _decoded((answer.document.get("data") or {}).get(key))
        if text is None:
            problem = f"is no secret of type {' or '.join(_KEYS)}"
            if self._once.is_due(namespace, name):
                logger.warning("%s is left out: it %s", what, problem)
            raise _Unusable(f"{what} {problem}")
        return {key: text}

    def _complain(self, answer: Answer, resource: str, name: str, what: str) -> NoReturn:
        """Log why `what` cannot be read, and raise it in words for the pod's author."""
        self._warn(answer, resource, name, what)
        if answer.is_passing:
            said = f"answers {answer.status}" if answer.status else "does not answer"
            raise _Unusable(f"{what} cannot be read now: the API server {said}", is_passing=True)
        reasons = {403: "cannot be read: the driver has no right to", 404: "does not exist"}
        raise _Unusable(f"{what} {reasons.get(answer.status, 'cannot be read')}")

    def _warn(self, answer: Answer, resource: str, name: str, what: str) -> None:
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


class _Unusable(Exception):
    """Something on the way to a secret that cannot be used; the text is for the pod's author."""

    def __init__(self, text: str, *, is_passing: bool = False) -> None:
        super().__init__(text)
        self.is_passing = is_passing


def _names_in(holder: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(entry["name"]) for entry in holder.get("imagePullSecrets") or () if entry.get("name"))


def _decoded(text: object) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode() if isinstance(text, str) else None
    except ValueError:  # neither base64 nor UTF-8
        return None
