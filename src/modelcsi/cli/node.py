"""`modelcsi node`: builds the driver of one node, runs it until it is told to end, and ends it without touching a mount."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from modelcsi.api.control import ControlServer
from modelcsi.api.dynamic import DynamicServers
from modelcsi.api.metrics_server import MetricsServer
from modelcsi.cli.build import RegistrySettings, registry_of
from modelcsi.cli.cluster import Cluster
from modelcsi.cli.lazy import Lazy
from modelcsi.cli.signals import EndSignal
from modelcsi.config.environment import node_name
from modelcsi.config.model import Config, RegistryConfig
from modelcsi.config.providers import load_providers, plugin_environment
from modelcsi.config.source import ConfigSource
from modelcsi.deadline import Deadline
from modelcsi.errors import ModelCsiError
from modelcsi.logs import setup_logging
from modelcsi.metrics import Gauge, Metrics, MountItem, MountType
from modelcsi.mount.mounter import Mounter
from modelcsi.pull.job import PullJob
from modelcsi.pull.puller import Puller, PullLimits
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain, Sources
from modelcsi.registry.node_access import NodeAccess
from modelcsi.registry.providers import Providers
from modelcsi.registry.transport import Request, Response, Transport
from modelcsi.store.store import Store
from modelcsi.volume.dynamic import DynamicVolumes
from modelcsi.volume.inventory import DriverState, Inventory
from modelcsi.volume.slots import PublishSlots
from modelcsi.volume.volumes import Volumes

os.environ.setdefault(
    "GRPC_ENABLE_FORK_SUPPORT", "0"
)  # read when grpc is imported; helpers are spawned, never forked into
from modelcsi.csi.controller import Controller
from modelcsi.csi.identity import Identity
from modelcsi.csi.node import Node
from modelcsi.csi.registration import Registration
from modelcsi.csi.server import CsiServer, Services

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 15.0
"""How long to wait for the store that the last process may still hold."""
_GRACE_SECONDS = 4.0
_STOP_SECONDS = 3.0
_HOUSEKEEPING_SECONDS = 30.0


def run_node(config_file: Path, log_level: str | None) -> int:
    """Run until SIGTERM or SIGINT."""
    source = ConfigSource(config_file)
    setup_logging(log_level or source.current.log_level, json=not sys.stderr.isatty())
    end = EndSignal()
    driver = NodeDriver(source, config_file, log_level)
    driver.start()
    end.wait()
    driver.stop()
    # Threads that wait for a network or a disk would keep the interpreter; nothing that they do needs an orderly end.
    logging.shutdown()
    os._exit(0)


class NodeDriver:
    """Every object of the driver, built once."""

    def __init__(self, source: ConfigSource, config_file: Path, log_level: str | None) -> None:
        config = source.current
        self._source = source
        self._log_level = log_level
        self._is_ready = threading.Event()
        self._ended = threading.Event()
        self._metrics = Metrics()
        self._store = Store(
            config.root_dir, lambda: source.current.features.disk_usage_limit, Deadline.after(_LOCK_SECONDS)
        )
        limits = PullLimits(
            jobs=config.pull_config.parallel_pulls,
            layers_at_once=lambda: source.current.pull_config.layers_at_once,
            memory_bytes=config.pull_config.memory_budget,
        )
        self._store.collector.swept = lambda sweep: self._metrics.evicted(
            artifacts=len(sweep.artifacts), size_bytes=sweep.freed_bytes
        )
        self._cluster = Cluster(config)
        self._providers: Providers | None = None
        self._puller = Puller(self._store, *self._registry_of(config), limits)
        self._puller.observer = _MeasuredPulls(self._metrics)
        mounter = Mounter()
        self._dynamic = DynamicVolumes(
            *(self._store, self._puller, mounter, DynamicServers(self._metrics).serve),
            is_enabled=lambda: source.current.features.dynamic_mounts,
        )
        self._volumes = Volumes(
            *(self._store, self._puller, mounter, PublishSlots(config.publish_slots)),
            pods=self._cluster.pods,
            dynamic=self._dynamic,
        )
        self._lazy = Lazy(config, config_file, lambda: source.current.fuse.read_ahead_kb, mounter)
        self._volumes.lazy = self._lazy.volumes_of(
            self._store, self._puller, self._volumes.announcements, self._metrics
        )
        self._registration = _registration_of(config)
        self._inventory = Inventory(
            *(self._store, self._puller, self._volumes.failures, self._dynamic.rows), driver=self._state
        )
        services = Services(
            identity=Identity(config.service_name, self._is_ready.is_set),
            node=Node(
                self._volumes,
                service_name=config.service_name,
                node_id=node_name(config.environment),
                has_context_tokens=self._cluster.has_context_tokens,
            ),
            controller=Controller(config.service_name),
        )
        self._csi = CsiServer(
            f"unix://{config.csi_socket}", services, self._metrics, publish_slots=config.publish_slots
        )
        self._api = MetricsServer(
            *(config.metrics_addresses, self._metrics, self._why_not_ready),
            shows_detail=lambda: source.current.metrics_detail,
        )
        self._control = ControlServer(config.root_dir, self._inventory)

    def start(self) -> None:
        """Repair what the last process left, then serve. Returns when the driver is ready."""
        self._lazy.connect()
        self._volumes.restore()
        self._lazy.start()
        self._watch_gauges()
        self._cluster.start()
        self._source.subscribe(self._reconfigure)
        self._source.start()
        self._api.start()
        self._control.start()
        threading.Thread(target=self._keep_house, name="housekeeping", daemon=True).start()
        self._is_ready.set()
        self._csi.start()
        if self._registration is not None:  # after the socket that it leads kubelet to
            self._registration.start()
        logger.info("ready: %s serves %s", self._csi.path, self._store.layout.root)

    def stop(self) -> None:
        """End: callers are sent away, downloads are kept for a resume, volumes stay mounted."""
        logger.info("ending; volumes stay mounted")
        if self._registration is not None:
            self._registration.stop()  # first, so that kubelet sends no new call to one who ends
        self._ended.set()
        self._is_ready.clear()
        self._source.stop()
        self._volumes.shut_down()
        self._csi.stop(_GRACE_SECONDS)
        self._lazy.stop()
        self._puller.stop(Deadline.after(_STOP_SECONDS))
        self._cluster.stop()
        self._control.stop()
        self._api.stop()
        self._store.close()

    def _why_not_ready(self) -> str | None:
        if not self._is_ready.is_set():
            return "starting or ending"
        if self._csi.trouble:
            return self._csi.trouble
        return self._registration.why_not_registered if self._registration is not None else None

    def _state(self) -> DriverState:
        registration = None if self._registration is None else str(self._registration.state)
        return DriverState(registration, self._source.rejection, self._lazy.status())

    def _keep_house(self) -> None:
        while not self._ended.wait(_HOUSEKEEPING_SECONDS):
            try:
                self._volumes.expire()
                if self._cluster.label_node is not None:
                    complete = self._store.views.manifests()
                    used = (record.manifest for record in reversed(self._store.records.artifacts()))
                    self._cluster.label_node(manifest for manifest in used if str(manifest) in complete)
            except Exception:  # a thread's main: a full disk today must not end the housekeeping of tomorrow
                logger.exception("housekeeping failed; it is done again in %g s", _HOUSEKEEPING_SECONDS)

    def _reconfigure(self, config: Config) -> None:
        """Raises InvalidRequest if it cannot be used, and then nothing of it is."""
        self._cluster.use(config)
        registry, keychain = self._registry_of(config)
        self._puller.use(registry, keychain)
        setup_logging(self._log_level or config.log_level, json=not sys.stderr.isatty())

    def _registry_of(self, config: Config) -> tuple[Registry, Keychain]:
        settings = replace(_registry_settings(config), sources=self._sources_of(config))
        return registry_of(settings, lambda transport: _MeasuredTransport(transport, self._metrics))

    def _sources_of(self, config: Config) -> Sources:
        wanted = config.registry
        self._providers = self._providers_of(wanted)
        return Sources(
            pull_secrets=self._cluster.pull_secrets,
            tokens=wanted.service_account_tokens,
            providers=self._providers,
            node_access=NodeAccess(wanted.node_credentials),
            has_pod_info=self._cluster.has_pod_info,
        )

    def _providers_of(self, config: RegistryConfig) -> Providers | None:
        """The plugins; while they are the same, with the answers they gave: another key of the file may have changed."""
        if not (config.credential_provider_config and config.credential_provider_bin_dir):
            return None
        plugins, bin_dir = load_providers(config.credential_provider_config), config.credential_provider_bin_dir
        if self._providers is not None and self._providers.is_made_of(plugins, bin_dir):
            return self._providers
        return Providers(plugins, bin_dir, plugin_environment(os.environ))

    def _watch_gauges(self) -> None:
        self._metrics.watch_gauge(Gauge.NOT_READY, lambda: float(self._why_not_ready() is not None))
        self._metrics.watch_gauge(Gauge.CONFIG_REJECTED, lambda: float(self._source.rejection is not None))
        self._metrics.watch_gauge(Gauge.CACHE_BYTES, lambda: float(self._store.content.size_bytes()))
        self._metrics.watch_gauge(Gauge.CACHE_ARTIFACTS, lambda: float(len(self._store.records.artifacts())))
        self._metrics.watch_gauge(Gauge.PULLS_IN_FLIGHT, lambda: float(len(self._puller.running())))
        self._metrics.watch_mounts(self._mount_items)

    def _mount_items(self) -> Iterable[MountItem]:
        for record in self._store.records.publications():
            mount_type = MountType.PVC if record.volume_id.startswith("pvc-") else MountType.INLINE
            yield MountItem(record.reference, mount_type, record.volume_id, record.state)
        for row in self._dynamic.rows():
            if mount_id := row.get("mount_id"):
                yield MountItem(row["reference"], MountType.DYNAMIC, row["volume_id"], row["state"], mount_id)


class _MeasuredPulls:
    """Counts what jobs do."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def pull_started(self, job: PullJob) -> None:
        """Counted when it ends."""

    def pull_finished(self, job: PullJob, error: Exception | None) -> None:
        progress = job.progress.report()
        seconds = time.time() - job.began_at
        downloaded = job.progress.downloaded_bytes
        self._metrics.pull_ended(seconds=seconds, size_bytes=progress.total_bytes, error=error)
        mirrored = sum(size for host, size in job.received.items() if host != job.reference.host)
        self._metrics.downloaded(downloaded, mirrored_bytes=mirrored)
        self._metrics.reused(max(0, progress.done_bytes - downloaded))

    def layer_finished(self, size_bytes: int, seconds: float, error: Exception | None) -> None:
        self._metrics.layer_ended(seconds=seconds, size_bytes=size_bytes, error=error)


class _MeasuredTransport:
    """Counts requests by what came of them."""

    def __init__(self, transport: Transport, metrics: Metrics) -> None:
        self._transport = transport
        self._metrics = metrics

    def request(self, request: Request) -> Response:
        try:
            response = self._transport.request(request)
        except ModelCsiError:
            self._metrics.registry_request(None)
            raise
        self._metrics.registry_request(response.status)
        return response


def _registration_of(config: Config) -> Registration | None:
    if config.registration_dir is None:
        return None
    return Registration(config.registration_dir, config.service_name, config.kubelet_registration_path)


def _registry_settings(config: Config) -> RegistrySettings:
    return RegistrySettings(
        docker_config_dir=config.docker_config_dir,
        hosts_dir=config.registry.config_path,
        proxy_url=config.pull_config.proxy_url,
        environment=config.environment,
    )
