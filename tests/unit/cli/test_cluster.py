from __future__ import annotations

from pathlib import Path

from modelcsi.cli.cluster import Cluster
from modelcsi.config.file import load_config
from tests.fakes.api_server import FakeApiServer

NAME = "model.csi.modelpack.org"


def test_a_map_that_comes_later_is_believed_in(tmp_path: Path) -> None:
    """Whether a request's pod is who it says is asked from the change on that makes it matter, not only from a start on."""
    path = tmp_path / "config.yaml"
    with FakeApiServer() as server:
        server.add("csidrivers", "", NAME, spec={"podInfoOnMount": True})
        kubeconfig = f"kubernetes: {{kubeconfig: {server.kubeconfig(tmp_path / 'kubeconfig')}}}\n"
        path.write_text(kubeconfig)
        cluster = Cluster(load_config(path, {}))
        before = cluster.has_pod_info()
        path.write_text(kubeconfig + "registry: {node_credentials: {'*': ['team']}}\n")
        cluster.use(load_config(path, {}))
        after = cluster.has_pod_info()
        cluster.stop()

    assert (None, True) == (before, after)
