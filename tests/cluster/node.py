"""The node of hack/cluster, looked at from outside of its pods: only where the tests have brought it up themselves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from modelcsi.mount.table import read_mount_table
from tests.cluster.chart import ROOT
from tests.cluster.kubectl import eventually, run

KUBELET = Path("/var/lib/kubelet")
STORE = Path("/var/lib/model-csi")
_LOGS = Path("/var/log/pods")
_CLUSTER = str(ROOT / "hack" / "cluster")
_KUBECONFIG = Path("/run/node/admin.kubeconfig")
_DRIVER = b"/usr/bin/model-csi-driver"
_UP_SECONDS = 120.0
_SECONDS = 60.0
_START_SECONDS = 120.0


def is_within() -> bool:
    """Whether the tests run in the namespaces of hack/cluster."""
    return "MODELCSI_SANDBOX" in os.environ


def bring_up() -> None:
    """`hack/cluster up`, unless somebody did it before in these namespaces."""
    if not _KUBECONFIG.exists():
        run(_CLUSTER, "up", seconds=_UP_SECONDS)


class Node:
    """Its processes, and what it has on its disk and in its mount table."""

    def stop(self, name: str) -> None:
        """End kubelet, containerd, kube-apiserver, etcd ..."""
        run(_CLUSTER, "stop", name, seconds=_SECONDS)

    def start(self, name: str) -> None:
        """Start it again, with the arguments it had; containerd and kube-apiserver then answer."""
        run(_CLUSTER, "start", name, seconds=_START_SECONDS)

    def restart(self, name: str) -> None:
        """Both."""
        run(_CLUSTER, "restart", name, seconds=_START_SECONDS)

    def reboot(self) -> None:
        """A power cut: all containers, containerd and kubelet killed, all mounts gone; then started again.

        The API server tells old states of pods until the kubelet has looked: wait for what must change.
        """
        run(_CLUSTER, "reboot", seconds=_SECONDS)

    def kill_driver(self) -> None:
        """SIGKILL to the driver, from outside: within its container it is process 1, which cannot be killed."""
        commands = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
        (pid,) = [pid for pid, command in commands.items() if _DRIVER in command.split(b"\0")]
        os.kill(pid, signal.SIGKILL)

    def volumes(self) -> list[str]:
        """What there is of CSI volumes: mounts and directories below kubelet's, published or forgotten."""
        mounted = [mount.mount_point for mount in read_mount_table() if "/kubernetes.io~csi/" in mount.mount_point]
        directories = (KUBELET / "pods").glob("*/volumes/kubernetes.io~csi/*")
        return sorted({*mounted, *map(str, directories)})

    def log_of(self, pod: str) -> str:
        """What a pod's containers wrote, also while the API server, which shows it otherwise, is away."""
        return "".join(path.read_text() for path in sorted(_LOGS.glob(f"*_{pod}_*/*/*.log")))

    def assert_nothing_left(self, seconds: float = _SECONDS) -> None:
        """No CSI volume is mounted, and kubelet has no directory of one; kubelet tidies up a moment after a pod is gone."""
        eventually(lambda: not self.volumes(), "kubelet's directories are empty", seconds)

    def stored(self) -> list[str]:
        """The files that the driver keeps of models, published or not."""
        kept = ("content", "ingest", "views", "dynamic", "trash")
        return sorted(str(path) for name in kept for path in (STORE / name).rglob("*") if not path.is_dir())
