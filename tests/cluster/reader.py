"""A pod that reads its model again and again, and ends at the first byte that is not as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.node import KUBELET
from tests.cluster.pods import MOUNT_PATH, inline, pod
from tests.integration.models import promised

_COUNT = "count"
# $0 is what sha256sum shall find. The name of every file is looked up again each time, through the mount.
_READ_FOR_EVER = f"""
echo "$0" >/tmp/sums
rounds=0
while sha256sum -s -c /tmp/sums; do
  rounds=$((rounds + 1))
  echo $rounds >/{_COUNT}/new && mv /{_COUNT}/new /{_COUNT}/rounds
  sleep 0.1
done
exit 1
"""
_GOES_ON_SECONDS = 60.0


def reading_pod(name: str, reference: str, files: Mapping[str, bytes], **attributes: str) -> dict[str, Any]:
    """Such a pod: it wants to see exactly these files, and is restarted when it does not."""
    sums = "\n".join(f"{digest}  {MOUNT_PATH}/{path}" for path, digest in promised(files).items())
    made = pod(name, inline(reference, **attributes))
    (container,) = made["spec"]["containers"]
    container["command"] = ["sh", "-c", _READ_FOR_EVER, sums]
    container["volumeMounts"].append({"name": _COUNT, "mountPath": f"/{_COUNT}"})
    made["spec"]["volumes"].append({"name": _COUNT, "emptyDir": {}})
    return made


@dataclass(frozen=True)
class Reader:
    """The pod, watched from the node: its count is seen also while no API server, kubelet or containerd is there."""

    kubectl: Kubectl
    name: str
    uid: str

    @classmethod
    def start(
        cls, kubectl: Kubectl, name: str, reference: str, files: Mapping[str, bytes], **attributes: str
    ) -> Reader:
        """Make the pod, and wait until it has read everything once."""
        kubectl.apply(reading_pod(name, reference, files, **attributes))
        kubectl.wait_until_ready(name)
        reader = cls(kubectl, name, kubectl.get("pod", name)["metadata"]["uid"])
        reader.assert_goes_on()
        return reader

    @property
    def rounds(self) -> int:
        """How often it has read everything, since its container started; 0 before the first time."""
        try:
            return int(
                (KUBELET / "pods" / self.uid / "volumes/kubernetes.io~empty-dir" / _COUNT / "rounds").read_text()
            )
        except FileNotFoundError:
            return 0

    @property
    def restarts(self) -> int:
        """How often its container was started again, as the API server knows."""
        (container,) = self.kubectl.get("pod", self.name)["status"]["containerStatuses"]
        return int(container["restartCount"])

    def assert_goes_on(self) -> None:
        """It reads everything once more, from now on; the round that is under way does not count."""
        begun = self.rounds + 1
        eventually(
            lambda: self.rounds > begun, f"pod {self.name} goes on reading after {begun} rounds", _GOES_ON_SECONDS
        )
