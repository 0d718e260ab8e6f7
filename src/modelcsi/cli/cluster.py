"""What the driver has of the Kubernetes API: everything, some of it, or nothing, as the configuration and the cluster allow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from modelcsi.config.environment import node_name
from modelcsi.config.model import Config
from modelcsi.oci.digest import Digest
from modelcsi.registry.caller import PullSecrets
from modelcsi.volume.volumes import Pods

logger = logging.getLogger(__name__)

_STOP_SECONDS = 1.0


class Cluster:
    """`kube`'s objects, as far as they are wanted and there is an API server; `start` and `stop` are called once each."""

    def __init__(self, config: Config) -> None:
        """Asks nothing yet; one warning says what is lacking where there is no API server."""
        self.pods = Pods()
        self.pull_secrets: PullSecrets | None = None
        self.has_pod_info: Callable[[], bool | None] = lambda: None
        self.has_context_tokens: Callable[[], bool] = lambda: False
        self.label_node: Callable[[Iterable[Digest]], None] | None = None
        """Shows what the node has; None where that is not wanted, which saves asking the database."""
        self._starts: list[Callable[[], None]] = []
        self._stops: list[Callable[[float], None]] = []
        wanted = config.registry
        # Tokens outside of secrets count only where the CSIDriver object is known to ask for them.
        if config.kubernetes.is_used or wanted.node_credentials is not None or wanted.service_account_tokens:
            self._connect(config)

    def start(self) -> None:
        """Begin to report."""
        for start in self._starts:
            start()

    def stop(self) -> None:
        """Say what is left to say, for a second at most."""
        for stop in self._stops:
            stop(_STOP_SECONDS)

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
        driver = DriverObject(client, config.service_name)
        # Its warnings should come at start, and nothing waits for them.
        self._starts.append(threading.Thread(target=driver.refresh, name="csidriver-object", daemon=True).start)
        self.has_pod_info = driver.has_pod_info
        self.has_context_tokens = lambda: bool(
            (known := driver.settings()) and known.audiences and not known.tokens_in_secrets
        )
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
