"""A private registry: whoever has its password, in one of the ways that pods have, reads the model; nobody else does."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import MakeNamespace
from tests.cluster.kubectl import CommandFailed, Kubectl, eventually
from tests.cluster.node import Node
from tests.cluster.pods import hashing, inline, pod, registry_secret, seen
from tests.cluster.registries import ClusterRegistry, Registries
from tests.cluster.release import Release
from tests.cluster.tenancy import (
    VALUES,
    phases,
    published,
    pulling_with,
    refusal,
    service_account,
    with_node_credentials,
)
from tests.integration.credentials import HTPASSWD, PASSWORD, basic, docker_secret
from tests.integration.models import MIB, Model, promised, random_files


@pytest.fixture
def driver(release: Release) -> Release:
    """A driver that may read imagePullSecrets."""
    release.ensure(VALUES)
    return release


@pytest.fixture
def private(registries: Registries) -> ClusterRegistry:
    """A real registry that serves nobody without a password."""
    return registries.docker(htpasswd=HTPASSWD, password=PASSWORD)


@pytest.fixture
def model(private: ClusterRegistry, kubectl: Kubectl) -> Model:
    """A private model that the node has never seen."""
    return private.push(f"private/{kubectl.namespace}", random_files(kubectl.namespace, 8 * MIB, MIB))


def test_every_way_to_bring_a_password(
    driver: Release, private: ClusterRegistry, model: Model, kubectl: Kubectl
) -> None:
    """The volume's secret, the pod's imagePullSecrets, those of its service account, also such as were added later.

    None of it is in the driver's log.
    """
    reference, traffic = model.at(private.host), private.traffic()
    kubectl.apply(
        registry_secret("registry", docker_secret(private.host, PASSWORD)),
        registry_secret("other", docker_secret("registry.example.com", "unused")),
        service_account("puller", "registry"),
        service_account("late"),
        pod("by-volume", inline(reference, secret="registry")),
        pod("by-pod", inline(reference), **pulling_with("other", "registry")),
        pod("by-volume-and-pod", inline(reference, secret="other"), **pulling_with("registry")),
        pod("by-account", inline(reference), serviceAccountName="puller"),
        pod("by-account-later", inline(reference), serviceAccountName="late"),
    )
    refusal(kubectl, "by-account-later")
    kubectl.apply(service_account("late", "registry"))
    names = ["by-volume", "by-pod", "by-volume-and-pod", "by-account", "by-account-later"]
    kubectl.wait_until_ready(*names)
    log = driver.log()

    assert [promised(model.files)] * 5 == [seen(kubectl.exec(name, *hashing())) for name in names]
    assert dict.fromkeys(map(str, model.layers), 1) == traffic.served(model.repository)
    assert reference in log
    assert not [secret for secret in (PASSWORD, basic(PASSWORD)) if secret in log]


def test_who_has_no_password_is_refused_although_the_bytes_are_here(
    driver: Release, private: ClusterRegistry, model: Model, kubectl: Kubectl, make_namespace: MakeNamespace
) -> None:
    """In another namespace without the secret, or with a wrong one: Pending, and the events say whom the registry refused.

    With the secret, the pods that wait start by themselves, and nothing is downloaded again.
    """
    strangers, reference, traffic = make_namespace(), model.at(private.host), private.traffic()
    kubectl.apply(
        registry_secret("registry", docker_secret(private.host, PASSWORD)),
        pod("owner", inline(reference, secret="registry")),
    )
    kubectl.wait_until_ready("owner")
    strangers.apply(
        registry_secret("outdated", docker_secret(private.host, "guessed")),
        pod("nobody", inline(reference)),
        pod("wrong", inline(reference, secret="outdated")),
        pod("wrong-pull-secret", inline(reference), **pulling_with("outdated")),
    )
    refusals = {name: refusal(strangers, name) for name in ("nobody", "wrong", "wrong-pull-secret")}
    waiting, mounted = phases(strangers), published(driver.status(), strangers)
    strangers.apply(
        registry_secret("registry", docker_secret(private.host, PASSWORD)),
        registry_secret("outdated", docker_secret(private.host, PASSWORD)),
        service_account("default", "registry"),
    )
    strangers.wait_until_ready(*refusals)

    for name, whose in {
        "nobody": "without credentials (401)",
        "wrong": "with the credentials of the volume's secret (401)",
        "wrong-pull-secret": "with the credentials of the pod's imagePullSecrets (401)",
    }.items():
        by_driver, by_kubelet = refusals[name]
        assert f"{private.host} refuses {reference} {whose}" in by_driver
        assert by_driver in by_kubelet
    assert (dict.fromkeys(refusals, "Pending"), set()) == (waiting, mounted)
    assert [promised(model.files)] * 3 == [seen(strangers.exec(name, *hashing())) for name in refusals]
    assert dict.fromkeys(map(str, model.layers), 1) == traffic.served(model.repository)


def test_secret_of_another_namespace_is_out_of_reach(
    driver: Release, private: ClusterRegistry, model: Model, kubectl: Kubectl, make_namespace: MakeNamespace
) -> None:
    """A volume names secrets of its own namespace only: kubelet says that there is none, and the driver is not asked."""
    strangers, reference = make_namespace(), model.at(private.host)
    kubectl.apply(registry_secret("registry", docker_secret(private.host, PASSWORD)))
    strangers.apply(pod("borrower", inline(reference, secret="registry")))
    message = strangers.eventually_event("borrower", "FailedMount").message
    strangers.apply(registry_secret("registry", docker_secret(private.host, PASSWORD)))
    strangers.wait_until_ready("borrower")

    assert 'secrets "registry" not found' in message
    assert promised(model.files) == seen(strangers.exec("borrower", *hashing()))


def test_mistakes_of_a_pods_author_are_named(
    driver: Release, private: ClusterRegistry, model: Model, kubectl: Kubectl
) -> None:
    """A secret that is not there, of another type, or for another host: which one it is stands in the pod's event."""
    reference = model.at(private.host)
    kubectl.apply(
        registry_secret("without-port", docker_secret(private.host.partition(":")[0], PASSWORD)),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "opaque"}, "stringData": {"password": PASSWORD}},
        pod("missing", inline(reference), **pulling_with("mispelt")),
        pod("other-type", inline(reference), **pulling_with("opaque")),
        pod("other-host", inline(reference), **pulling_with("without-port")),
        pod("other-host-of-volume", inline(reference, secret="without-port")),
        pod("other-type-of-volume", inline(reference, secret="opaque")),
    )
    name, namespace = f"{private.host}/{model.repository}", kubectl.namespace

    for pod_name, expected in {
        "missing": f"the imagePullSecret {namespace}/mispelt does not exist",
        "other-type": f"the imagePullSecret {namespace}/opaque is no secret of type kubernetes.io/dockerconfigjson",
        "other-host": f"the pod's imagePullSecrets have nothing for {name}",
        "other-host-of-volume": f"the volume's secret has nothing for {name}",
        "other-type-of-volume": "the secret has the keys password and neither .dockerconfigjson nor .dockercfg",
    }.items():
        by_driver, by_kubelet = refusal(kubectl, pod_name)
        assert expected in by_driver
        assert expected in by_kubelet


def test_without_the_api_server_nobody_is_refused_for_good(
    driver: Release, private: ClusterRegistry, model: Model, node: Node, kubectl: Kubectl
) -> None:
    """The imagePullSecrets cannot be read then: kubelet is told to come again, and not that the pod has no credentials."""
    private.wire.cut()
    kubectl.apply(
        registry_secret("registry", docker_secret(private.host, PASSWORD)),
        pod("reader", inline(model.at(private.host)), **pulling_with("registry")),
    )
    kubectl.eventually_event("reader", "FailedMount")
    name = driver.pod
    node.stop("kube-apiserver")
    try:
        private.wire.connect()
        eventually(lambda: "imagePullSecrets cannot be read now" in node.log_of(name), "the driver has said it")
        told = [line for line in node.log_of(name).splitlines() if model.repository in line]
    finally:
        node.start("kube-apiserver")
        eventually(_answers, "the API server answers")
    kubectl.wait_until_ready("reader", seconds=200)

    assert any("answered UNAVAILABLE: the pod's imagePullSecrets cannot be read now" in line for line in told)
    assert not any("answered UNAUTHENTICATED" in line for line in told)
    assert promised(model.files) == seen(kubectl.exec("reader", *hashing()))


def test_status_tells_an_admin_who_was_refused(
    driver: Release, private: ClusterRegistry, model: Model, kubectl: Kubectl
) -> None:
    """`modelcsi status` has the pod and the registry's answer, word for word as the pod's event."""
    kubectl.apply(pod("nobody", inline(model.at(private.host))))
    by_driver, _ = refusal(kubectl, "nobody")
    name = f"{kubectl.namespace}/nobody"
    (failure,) = [row for row in driver.status()["failures"] if row["pod"] == name]

    assert by_driver == failure["error"]
    assert name in driver.modelcsi("status")


def test_nodes_credentials_are_for_the_namespaces_that_the_admin_names(
    release: Release, private: ClusterRegistry, model: Model, kubectl: Kubectl, make_namespace: MakeNamespace
) -> None:
    """A pod of that namespace needs no secret; one of another is refused, and its event says by which rule."""
    strangers, reference = make_namespace(), model.at(private.host)
    release.ensure(with_node_credentials(private.host, PASSWORD, kubectl.namespace))
    release.rollout()  # kubelet takes a minute to bring a changed Secret into a pod
    try:
        kubectl.apply(pod("inside", inline(reference)))
        kubectl.wait_until_ready("inside")
        strangers.apply(pod("outside", inline(reference)))
        by_driver, by_kubelet = refusal(strangers, "outside")
    finally:
        release.ensure(VALUES)
        release.rollout()
    rule = f"registry.node_credentials does not give those of {private.host} to the namespace {strangers.namespace}"

    assert rule in by_driver
    assert rule in by_kubelet


def _answers() -> bool:
    try:
        return "ok" == Kubectl()("get", "--raw=/readyz")
    except CommandFailed:
        return False
