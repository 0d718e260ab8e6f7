"""`modelcsi controller`: the stateless Controller service beside an external-provisioner. It needs no store and no root."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from modelcsi.api.metrics_server import MetricsServer
from modelcsi.cli.signals import EndSignal
from modelcsi.config.source import ConfigSource
from modelcsi.logs import setup_logging
from modelcsi.metrics import Component, Gauge, Metrics

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # read when grpc is imported
from modelcsi.csi.controller import Controller
from modelcsi.csi.identity import Identity
from modelcsi.csi.server import CsiServer, Services

logger = logging.getLogger(__name__)

_SLOTS = 8
_GRACE_SECONDS = 4.0


def run_controller(config_file: Path, log_level: str | None) -> int:
    """Run until SIGTERM or SIGINT."""
    source = ConfigSource(config_file)
    config = source.current
    setup_logging(log_level or config.log_level, json=not sys.stderr.isatty())
    end = EndSignal()
    metrics = Metrics(Component.CONTROLLER)
    metrics.watch_gauge(Gauge.CONFIG_REJECTED, lambda: float(source.rejection is not None))
    services = Services(Identity(config.service_name, lambda: True), controller=Controller(config.service_name))
    server = CsiServer(f"unix://{config.csi_socket}", services, metrics, publish_slots=_SLOTS)
    api = MetricsServer(
        *(config.metrics_addresses, metrics, lambda: None), shows_detail=lambda: source.current.metrics_detail
    )
    source.subscribe(lambda read: setup_logging(log_level or read.log_level, json=not sys.stderr.isatty()))
    source.start()
    api.start()
    server.start()
    logger.info("ready: %s serves the controller", server.path)
    end.wait()
    source.stop()
    server.stop(_GRACE_SECONDS)
    api.stop()
    return 0
