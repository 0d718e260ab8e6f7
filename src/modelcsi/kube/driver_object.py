"""The CSIDriver object of this driver: what kubelet was told to send with each request, and so what can be believed of one.

Without `podInfoOnMount` kubelet hands on whatever `csi.storage.k8s.io/pod.*` a pod's author wrote: a namespace could be forged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from modelcsi.kube.client import Answer, KubeClient
from modelcsi.kube.thrift import Once

logger = logging.getLogger(__name__)

_PATH = "/apis/storage.k8s.io/v1/csidrivers/{}"
_FRESH_SECONDS = 60.0
_RETRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """What kubelet does for this driver; all False without an object."""

    is_installed: bool = False
    pod_info: bool = False
    audiences: tuple[str, ...] = ()
    """Of `tokenRequests`: pods' tokens for these come with each publish; "" is the API server's own audience."""
    tokens_in_secrets: bool = False
    """They come as secrets, where a pod's author cannot write, instead of as attributes."""


class DriverObject:
    """The object as last read. Any thread may ask; a request is made when the last answer is a minute old."""

    def __init__(self, client: KubeClient, service_name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._service_name = service_name
        self._clock = clock
        self._once = Once(clock=clock)
        self._lock = threading.Lock()
        # Under the lock: what was last read, and when it is to be asked for again.
        self._settings: DriverSettings | None = None
        self._due_at = -1.0

    def has_pod_info(self) -> bool | None:
        """Whether kubelet vouches for the pod that a request names; None when the API server was never heard about it."""
        settings = self.settings()
        return None if settings is None else settings.pod_info

    def settings(self) -> DriverSettings | None:
        """What was last read, although the server may be gone since; None when nothing was.

        Only the first answer is waited for. Later ones are fetched by a thread, so that a silent API server costs a
        publish nothing.
        """
        with self._lock:
            now, known = self._clock(), self._settings
            is_due = now >= self._due_at
            if is_due:
                self._due_at = now + (_RETRY_SECONDS if known is None else _FRESH_SECONDS)
        if not is_due:
            return known
        if known is None:
            return self.refresh()
        threading.Thread(target=self.refresh, name="csidriver-object", daemon=True).start()
        return known

    def refresh(self) -> DriverSettings | None:
        """Ask now; warns when the object is missing or lacks `podInfoOnMount`."""
        answer = self._client.read(_PATH, self._service_name)
        if answer.is_ok:
            self._learn(_settings_of(answer))
        elif answer.status == 404:
            self._learn(DriverSettings())
        elif self._once.is_due(answer.status):
            hint = f'; it needs the right to get csidrivers "{self._service_name}"' if answer.status == 403 else ""
            logger.warning("the CSIDriver object %s cannot be read: %s%s", self._service_name, answer.trouble, hint)
        with self._lock:
            return self._settings

    def _learn(self, settings: DriverSettings) -> None:
        with self._lock:
            before, self._settings = self._settings, settings
        if settings == before:
            return
        if not settings.is_installed:
            logger.warning(
                "there is no CSIDriver object %s: inline volumes will not work, and pods are not known",
                self._service_name,
            )
        elif not settings.pod_info:
            logger.warning(
                "the CSIDriver object %s has no podInfoOnMount: pods are not known (no events, no imagePullSecrets), and "
                "could claim to be others; set it to true",
                self._service_name,
            )
        else:
            logger.info("the CSIDriver object %s is as it should be: %s", self._service_name, settings)


def _settings_of(answer: Answer) -> DriverSettings:
    spec = answer.document.get("spec") or {}
    requests = spec.get("tokenRequests") or ()
    return DriverSettings(
        is_installed=True,
        pod_info=spec.get("podInfoOnMount") is True,
        audiences=tuple(str(request.get("audience", "")) for request in requests),
        tokens_in_secrets=spec.get("serviceAccountTokenInSecrets") is True,
    )
