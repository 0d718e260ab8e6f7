"""Labels of the Node that say which artifacts are here, so that a pod can be scheduled where its model is.

`<service_name>/<first 32 hex digits of the manifest's digest>: "true"`. Only keys of exactly this form are ever removed. One
thread compares and writes; what it did not manage is done at the next change, or after a pause.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable
from itertools import islice

from modelcsi.kube.client import Answer, KubeClient
from modelcsi.kube.thrift import Once
from modelcsi.oci.digest import Digest

logger = logging.getLogger(__name__)

_NODE = "/api/v1/nodes/{}"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""A Node's status is many times its metadata."""
_DIGITS = 32
"""A label's name has at most 63 characters; a sha256 in hex has 64."""
_FIRST_PAUSE_SECONDS = 5.0
_MAX_PAUSE_SECONDS = 300.0


class NodeLabels:
    """The labels of one node; `start` and `stop` are called once each, `sync` by any thread."""

    def __init__(self, client: KubeClient, node: str, service_name: str, limit: int) -> None:
        self._client = client
        self._node = node
        self._prefix = f"{service_name.lower()}/"
        self._ours = re.compile(re.escape(self._prefix) + f"[0-9a-f]{{{_DIGITS}}}")
        self._limit = limit
        self._once = Once()
        self._changed = threading.Condition()
        # Under the condition's lock: the keys there should be (None: never told), those last written, whether to end.
        self._wanted: frozenset[str] | None = None
        self._shown: frozenset[str] | None = None
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="node-labels", daemon=True)

    def start(self) -> None:
        """Begin to write what `sync` tells."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """End; the labels stay, as the artifacts do."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        self._thread.join(timeout_seconds)

    def sync(self, digests: Iterable[Digest]) -> None:
        """Show the first `limit` of these, and no others; returns at once. Give the most recently used ones first."""
        wanted = frozenset(self._prefix + digest.hex[:_DIGITS] for digest in islice(digests, self._limit))
        with self._changed:
            if wanted != self._wanted:
                self._wanted = wanted
                self._changed.notify_all()

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while (wanted := self._next()) is not None:
            try:
                is_done = self._show(wanted)
            except Exception:  # a thread's main: a node that cannot be understood now may be later
                logger.exception("the labels of the node %s were not written", self._node)
                is_done = False
            with self._changed:
                if is_done:
                    self._shown, pause = wanted, _FIRST_PAUSE_SECONDS
                else:
                    self._changed.wait_for(lambda: self._is_ending, pause)
                    pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    def _next(self) -> frozenset[str] | None:
        """What differs from what was last written; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_ending or self._wanted != self._shown)
            return None if self._is_ending else self._wanted

    def _show(self, wanted: frozenset[str]) -> bool:
        answer = self._client.read(_NODE, self._node, accept=_METADATA_ONLY)
        if not answer.is_ok:
            return self._complain(answer)
        labels = (answer.document.get("metadata") or {}).get("labels") or {}
        there = {key for key, value in labels.items() if self._ours.fullmatch(key) and value == "true"}
        stale = {key for key in labels if self._ours.fullmatch(key)} - wanted
        if not stale and wanted <= there:
            return True
        changes = dict.fromkeys(sorted(stale)) | dict.fromkeys(sorted(wanted - there), "true")
        answer = self._client.patch(_NODE, self._node, body={"metadata": {"labels": changes}})
        return answer.is_ok or self._complain(answer)

    def _complain(self, answer: Answer) -> bool:
        if self._once.is_due(answer.status):
            hint = "; the driver needs the right to get and patch nodes" if answer.status == 403 else ""
            logger.warning("the node %s cannot be labelled: %s%s", self._node, answer.trouble, hint)
        return False
