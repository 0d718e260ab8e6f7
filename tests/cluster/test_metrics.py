"""What the driver's port tells the pods of a cluster."""

from __future__ import annotations

from tests.cluster.kubectl import Kubectl
from tests.cluster.pods import inline, pod
from tests.cluster.registries import ClusterRegistry
from tests.cluster.release import NAME, Release
from tests.integration.models import MIB, random_files

_ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


def test_other_pods_do_not_learn_which_models_there_are(
    driver: Release, registry: ClusterRegistry, kubectl: Kubectl
) -> None:
    """From a pod the driver's counts are there, the names of mounted models are not; in the driver's own pod they are."""
    model = registry.push("demo/private-name", random_files("metrics", MIB))
    kubectl.apply(pod("reader", inline(model.at(registry.host))))
    kubectl.wait_until_ready("reader")
    address = driver.kubectl.get("pod", driver.pod)["status"]["podIP"]
    own = driver.kubectl.exec(driver.pod, "python3", "-c", _ASK, "http://127.0.0.1:5244/metrics/detail", container=NAME)
    counts = kubectl.exec("reader", "wget", "-qO-", f"http://{address}:5244/metrics")
    refusal = kubectl.exec("reader", "sh", "-c", f"wget -qO- http://{address}:5244/metrics/detail 2>&1 || true")

    assert "demo/private-name" in own
    assert 'model_csi_publications{state="MOUNTED"} 1' in counts
    assert "demo/private-name" not in counts + refusal
    assert "403" in refusal
