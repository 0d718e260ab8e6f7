"""kubelet's plugin manager: sees registration sockets, asks who is there, asks the driver, and tells the outcome.

As kubelet 1.36 does (`pkg/kubelet/pluginmanager`, `pkg/volume/csi/csi_plugin.go`): sockets whose name does not start with a
dot; a new connection for each attempt; GetInfo within 1 s; a name that is registered is refused at an equal version;
NodeGetInfo at the endpoint; NotifyRegistrationStatus within 5 s; failures again after pauses that grow; a socket that is gone,
or is another one, is deregistered first. It polls where kubelet has inotify, and its pauses are shorter.
"""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from modelcsi.csi.pb import csi_pb2, csi_pb2_grpc, pluginregistration_pb2, pluginregistration_pb2_grpc

_POLL_SECONDS = 0.01
_INFO_SECONDS = 1.0
_NOTIFY_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.1
# The connection is really a new one: without this gRPC shares those of the process.
_OPTIONS = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]

Inode = tuple[int, int]


class Refused(Exception):
    """What kubelet tells the plugin instead of success."""


@dataclass
class _Known:
    inode: Inode
    name: str = ""
    pause: float = _FIRST_PAUSE_SECONDS
    next_attempt: float = 0.0


class PluginWatcher:
    """Watches `directory` from its making until `close`; `nodes` and `events` say what came of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._known: dict[Path, _Known] = {}
        self.refusal = ""
        """When set, what every registration is refused with, after NodeGetInfo."""
        self.endpoints: dict[str, str] = {}
        """The drivers that are registered, and where."""
        self.node_ids: dict[str, str] = {}
        """What they answered to NodeGetInfo."""
        self.events: list[str] = []
        """What happened, in order: `registered NAME`, `refused NAME`, `deregistered NAME`."""
        self._thread = threading.Thread(target=self._run, name="plugin-watcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """kubelet ends: nobody is told."""
        self._ended.set()
        self._thread.join()

    def wait_for(self, is_so: Callable[[PluginWatcher], object], what: str, seconds: float = 10.0) -> None:
        """Until `is_so`, looked at after each event."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self), seconds), f"not in {seconds} s: {what}; {self.events}"

    def wait_for_event(self, event: str, times: int = 1) -> None:
        """Until it has happened so often."""
        self.wait_for(lambda watcher: watcher.events.count(event) >= times, f"{times} x {event}")

    def _run(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            there = self._sockets()
            for path, known in list(self._known.items()):
                if there.get(path) != known.inode:
                    del self._known[path]
                    self._deregister(known)
            for path, inode in there.items():
                self._attempt(path, self._known.setdefault(path, _Known(inode)))

    def _sockets(self) -> dict[Path, Inode]:
        found = {}
        try:
            for path in self._directory.iterdir():
                status = path.lstat()
                if not path.name.startswith(".") and stat.S_ISSOCK(status.st_mode):
                    found[path] = (status.st_dev, status.st_ino)
        except FileNotFoundError:  # the directory is not there yet, or something has just gone: the next look is soon
            pass
        return found

    def _attempt(self, path: Path, known: _Known) -> None:
        if known.name or time.monotonic() < known.next_attempt:
            return
        known.next_attempt = time.monotonic() + known.pause
        known.pause *= 2
        try:
            with grpc.insecure_channel(f"unix:{path}", options=_OPTIONS) as channel:
                stub: Any = pluginregistration_pb2_grpc.RegistrationStub(channel)
                plugin = stub.GetInfo(pluginregistration_pb2.InfoRequest(), timeout=_INFO_SECONDS)
                outcome = self._register(plugin)
                stub.NotifyRegistrationStatus(outcome, timeout=_NOTIFY_SECONDS)
        except grpc.RpcError as error:
            self._note(f"failed {path.name}: {error}")
            return
        if outcome.plugin_registered:
            known.name = plugin.name
            with self._changed:
                self.endpoints[plugin.name] = plugin.endpoint
        self._note(f"{'registered' if outcome.plugin_registered else 'refused'} {plugin.name}")

    def _register(self, plugin: pluginregistration_pb2.PluginInfo) -> pluginregistration_pb2.RegistrationStatus:
        try:
            if plugin.type != "CSIPlugin":
                raise Refused(f"no handler registered for plugin type: {plugin.type}")
            if list(plugin.supported_versions) != ["1.0.0"] or plugin.name in self.endpoints:
                raise Refused("Another driver with the same name is already registered")
            self._ask_driver(plugin)
            if self.refusal:
                raise Refused(self.refusal)
        except Refused as error:
            return pluginregistration_pb2.RegistrationStatus(plugin_registered=False, error=str(error))
        return pluginregistration_pb2.RegistrationStatus(plugin_registered=True)

    def _ask_driver(self, plugin: pluginregistration_pb2.PluginInfo) -> None:
        try:
            with grpc.insecure_channel(f"unix:{plugin.endpoint}", options=_OPTIONS) as channel:
                node: Any = csi_pb2_grpc.NodeStub(channel)
                answer = node.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=_NOTIFY_SECONDS)
        except grpc.RpcError as error:
            raise Refused(f"NodeGetInfo failed: {error}") from error
        self.node_ids[plugin.name] = answer.node_id

    def _deregister(self, known: _Known) -> None:
        if known.name:
            with self._changed:
                del self.endpoints[known.name]
            self._note(f"deregistered {known.name}")

    def _note(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()
