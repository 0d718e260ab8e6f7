"""What a node needs for lazy volumes: the daemons, the demand socket, and who goes on filling what was interrupted."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelcsi.cli.fuse import settled_by
from modelcsi.config.model import Config
from modelcsi.metrics import Gauge, Metrics
from modelcsi.mount.daemons import Daemons
from modelcsi.mount.lazymounter import LazyMounter
from modelcsi.mount.mounter import Mounter
from modelcsi.mount.servers import program
from modelcsi.pull.puller import Puller
from modelcsi.store.store import Store
from modelcsi.view.exchange import Exchange
from modelcsi.volume.announcements import Announcements
from modelcsi.volume.lazy import LazyVolumes

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
"""How often views whose filling was interrupted are looked for; when one is tried again is `LazyVolumes`' business."""


class Lazy:
    """Built once; `start` after the store was repaired, `stop` before the pulls are stopped."""

    def __init__(self, config: Config, config_file: Path, read_ahead_kb: Callable[[], int], mounter: Mounter) -> None:
        is_managed = config.fuse.holder == "managed"
        self._daemons = Daemons(
            config.root_dir, self._lost, _holder_command(config, config_file) if is_managed else None
        )
        self._mounts = LazyMounter(mounter, self._daemons, config.fuse.adapter, read_ahead_kb)
        self._root_dir = config.root_dir
        self._ended = threading.Event()
        self.volumes: LazyVolumes | None = None
        self._exchange: Exchange | None = None

    def volumes_of(self, store: Store, puller: Puller, announcements: Announcements, metrics: Metrics) -> LazyVolumes:
        """The lazy volumes, connected with everything here."""
        volumes = LazyVolumes(store, puller, self._mounts, announcements)
        exchange = Exchange(self._root_dir, volumes)
        volumes.tell, volumes.observer = exchange.tell, metrics
        self.volumes, self._exchange = volumes, exchange
        metrics.watch_gauge(Gauge.LAZY_VIEWS, lambda: len(volumes.views()))
        metrics.watch_gauge(Gauge.LAZY_VIEWS_FILLING, lambda: sum(not view.is_complete for view in volumes.views()))
        metrics.watch_gauge(
            Gauge.LAZY_VIEWS_TROUBLED, lambda: sum(view.trouble is not None for view in volumes.views())
        )
        metrics.watch_gauge(Gauge.FUSE_SERVERS, lambda: len(exchange.servers()))
        return volumes

    def connect(self) -> None:
        """Take over what the holder holds: before the store is repaired, since that asks which mounts are alive."""
        self._daemons.start()

    def start(self) -> None:
        """Answer demands, and go on filling."""
        assert self._exchange is not None, "volumes_of comes first"
        self._exchange.start()
        threading.Thread(target=self._keep_filling, name="lazy-fill", daemon=True).start()

    def stop(self) -> None:
        """Servers keep what they want for the next process."""
        self._ended.set()
        if self._exchange is not None:
            self._exchange.stop()
        self._daemons.stop()

    def status(self) -> dict[str, Any]:
        """For `modelcsi status`."""
        return {
            "unavailable": self._mounts.why_not() or None,
            "holder_pid": self._daemons.holder_pid,
            "servers": [
                {"pid": server.pid, "adapter": server.adapter, "role": server.role, "views": server.views}
                for server in self._daemons.servers()
            ],
            "views": [] if self.volumes is None else self.volumes.rows(),
        }

    def _lost(self, view: str, why: str) -> None:
        if self.volumes is not None:
            self.volumes.lost(view, why)

    def _keep_filling(self) -> None:
        while True:
            try:
                if self.volumes is not None:
                    self.volumes.resume()
            except Exception:  # a thread's main: what is wrong with one view must not end the filling of others
                logger.exception("views could not be filled; it is tried again in %g s", _LOOK_SECONDS)
            if self._ended.wait(_LOOK_SECONDS):
                return


def _holder_command(config: Config, config_file: Path) -> list[str]:
    """It begins with what is settled already: reading it again would take half of its start, for which a publish waits."""
    settled = json.dumps(settled_by(config))
    return [*program(), "fuse", "--config", str(config_file.absolute()), "--settled", settled, "--until-idle"]
