"""What the driver has of the Kubernetes API: everything, some of it, or nothing, as the configuration and the cluster allow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from modelcsi.config.environment import node_name
from modelcsi.config.model import Config
from modelcsi.oci.digest import Digest
from modelcsi.registry.caller import PullSecrets
from modelcsi.volume.volumes import Pods

if TYPE_CHECKING:
    from modelcsi.kube.driver_object import DriverObject

logger = logging.getLogger(__name__)

_STOP_SECONDS = 1.0


class Cluster:
    """`kube`'s objects, as far as they are wanted and there is an API server; `start` and `stop` are called once each."""

    def __init__(self, config: Config) -> None:
        """Asks nothing yet; one warning says what is lacking where there is no API server."""
        self.pods = Pods()
        self.pull_secrets: PullSecrets | None = None
        self.label_node: Callable[[Iterable[Digest]], None] | None = None
        """Shows what the node has; None where that is not wanted, which saves asking the database."""
        self._driver: DriverObject | None = None
        self._starts: list[Callable[[], None]] = []
        self._stops: list[Callable[[float], None]] = []
        if config.kubernetes.is_used or _believes_requests(config):
            self._connect(config)

    def start(self) -> None:
        """Begin to report."""
        for start in self._starts:
            start()
        self._starts.clear()

    def use(self, config: Config) -> None:
        """Ask from now on what a changed configuration needs; `kubernetes` itself is read at start only."""
        if self._driver is None and _believes_requests(config):
            self._connect(config)
            self.start()

    def stop(self) -> None:
        """Say what is left to say, for a second at most."""
        for stop in self._stops:
            stop(_STOP_SECONDS)

    def has_pod_info(self) -> bool | None:
        """Whether kubelet vouches for the pod that a request names; None when nobody can tell."""
        return None if self._driver is None else self._driver.has_pod_info()

    def has_context_tokens(self) -> bool:
        """Whether kubelet itself writes the service-account tokens that are among a request's attributes."""
        known = None if self._driver is None else self._driver.settings()
        return known is not None and bool(known.audiences) and not known.tokens_in_secrets

    def _connect(self, config: Config) -> None:
        # The client takes 0.1 s to import: only where it is wanted.
        from modelcsi.kube.client import connect
        from modelcsi.kube.driver_object import DriverObject
        from modelcsi.kube.event import Reporter
        from modelcsi.kube.events import EventRecorder
        from modelcsi.kube.node_labels import NodeLabels
        from modelcsi.kube.pods import PodReader

        wanted, client = config.kubernetes, connect(config.kubernetes)
        if client is None:
            return
        logger.info("the Kubernetes API is %s", client.server)
        node = node_name(config.environment)
        driver = self._driver = DriverObject(client, config.service_name)
        # Its warnings should come at start, and nothing waits for them.
        self._starts.append(threading.Thread(target=driver.refresh, name="csidriver-object", daemon=True).start)
        pods = PodReader(client, driver.has_pod_info)
        self.pull_secrets = pods if wanted.pull_secrets else None
        recorder = None
        if wanted.events:
            recorder = EventRecorder(client, Reporter(config.service_name, node), driver.has_pod_info)
            self._starts.append(recorder.start)
            self._stops.append(recorder.stop)
        self.pods = Pods(recorder, pods if wanted.watch_pods else None)
        if wanted.node_labels:
            labels = NodeLabels(client, node, config.service_name, wanted.node_labels)
            self._starts.append(labels.start)
            self._stops.append(labels.stop)
            self.label_node = labels.sync


def _believes_requests(config: Config) -> bool:
    """Whether something depends on what kubelet says of pods, which counts only where the CSIDriver object makes it say so."""
    return config.registry.node_credentials is not None or bool(config.registry.service_account_tokens)
