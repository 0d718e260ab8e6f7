"""A real cluster for the scenarios: `hack/cluster`'s, brought up when the first of them asks, or the one that KUBECONFIG names."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster import node as own
from tests.cluster.claims import Classes
from tests.cluster.diagnosis import TEST_NAMESPACES, diagnosis
from tests.cluster.kubectl import Kubectl
from tests.cluster.registries import ClusterRegistry, Registries
from tests.cluster.release import Release

_TEST_SECONDS = 300
MakeNamespace = Callable[[], Kubectl]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a test uses says what it needs: `cluster`, and `own_cluster` for those that look behind the API."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "cluster" in names:
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_TEST_SECONDS))
        if "node" in names:
            item.add_marker(pytest.mark.own_cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure tells what the cluster knows about it."""
    report = yield
    if report.failed and item.get_closest_marker("cluster") is not None:
        report.sections.extend(diagnosis())
    return report


@pytest.fixture(scope="session")
def cluster() -> None:
    """There is an API server, and kubectl and helm know it."""
    if own.is_within():
        own.bring_up()
    elif not ("KUBECONFIG" in os.environ and "MODELCSI_IMAGE_REF" in os.environ):
        pytest.skip("needs a cluster: hack/test cluster")


@pytest.fixture
def node(cluster: None) -> own.Node:
    """The node itself; tests with it are not run on a cluster of somebody else."""
    if not own.is_within():
        pytest.skip("looks behind the API of a cluster, which must be hack/cluster's")
    return own.Node()


@pytest.fixture(scope="session")
def release(cluster: None) -> Iterator[Release]:
    """One installation for all tests; use `driver`."""
    installed = Release()
    yield installed
    installed.uninstall()


@pytest.fixture
def driver(release: Release) -> Release:
    """The driver with the default values, ready. A test that wants others says `driver.ensure({...})`; the next has the default."""
    release.ensure()
    return release


@pytest.fixture
def classes(release: Release) -> Iterator[Classes]:
    """StorageClasses, with the chart's controller ready. Name it before `kubectl`: claims go before their classes."""
    release.ensure({"controller": {"enabled": True}})
    with ExitStack() as stack:
        made = Classes(release, stack)
        made.wait_until_ready()
        yield made


@pytest.fixture
def make_namespace(cluster: None) -> Iterator[MakeNamespace]:
    """Makes namespaces of the test's own."""
    with ExitStack() as stack:

        def make() -> Kubectl:
            kubectl = Kubectl(f"{TEST_NAMESPACES}{uuid.uuid4().hex[:8]}")
            Kubectl()("create", "namespace", kubectl.namespace)
            stack.callback(_remove, kubectl)
            kubectl.wait("serviceaccount/default", "create")  # without it, pods are refused
            return kubectl

        yield make


def _remove(kubectl: Kubectl) -> None:
    """Workloads go while the driver is there; the rest of the namespace may take its time."""
    kubectl.delete("deployment,statefulset,job")
    kubectl("delete", "pods", "--all", "--grace-period=0", "--timeout=60s", seconds=90)
    kubectl.delete("persistentvolumeclaim")
    Kubectl()("delete", "namespace", kubectl.namespace, "--wait=false")


@pytest.fixture
def kubectl(make_namespace: MakeNamespace) -> Kubectl:
    """kubectl in a namespace of the test's own. Name it last among the fixtures: its pods then go before what they use."""
    return make_namespace()


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[Registries]:
    """Makes registries of a test's own."""
    with ExitStack() as stack:
        yield Registries(tmp_path, stack)


@pytest.fixture
def registry(registries: Registries) -> ClusterRegistry:
    """An anonymous real registry of a test's own."""
    return registries.docker()
