"""Who gets a private model, in every state that the node can be in: the matrix of tests/integration, on a real cluster.

Across: nobody, wrong passwords, right ones in each way that pods have, one that was rotated, a service account, another one, a pod
of another namespace, a public repository. Down: never pulled, on the node, being pulled, after a restart, with the records
unreadable.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster import release as installed
from tests.cluster.conftest import MakeNamespace
from tests.cluster.kubectl import Kubectl, eventually
from tests.cluster.node import STORE, Node
from tests.cluster.pods import as_json, hashing, inline, pod, registry_secret, seen
from tests.cluster.registries import PORTS
from tests.cluster.release import Release
from tests.cluster.tenancy import (
    AUDIENCE,
    TAKERS,
    VALUES,
    AccountRegistry,
    account,
    published,
    pulling_with,
    refusal,
    service_account,
)
from tests.fakes.registry import User
from tests.integration.credentials import docker_secret
from tests.integration.models import MIB, Model, promised, push, random_files


class State(enum.Enum):
    """What the node knows of the model."""

    COLD = "cold"
    CACHED = "cached"
    PULLING = "pulling"
    RESTARTED = "restarted"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Identity:
    """Who asks, for which repository, and whether the registry would serve them."""

    is_served: bool
    secret: str = ""
    """Of the volume."""
    spec: dict[str, Any] = field(default_factory=dict)
    repository: str = "team"


IDENTITIES = {
    "nobody": Identity(is_served=False),
    "wrong": Identity(is_served=False, secret="wrong"),
    "wrong-pull-secret": Identity(is_served=False, spec=pulling_with("wrong")),
    "right": Identity(is_served=True, secret="alice"),
    "pull-secret": Identity(is_served=True, spec=pulling_with("alice")),
    "account-pull-secret": Identity(is_served=True, spec={"serviceAccountName": "puller"}),
    "rotated": Identity(is_served=True, secret="carol"),
    "account": Identity(is_served=True, spec={"serviceAccountName": "trainer"}, repository=TAKERS[AUDIENCE]),
    "other-account": Identity(is_served=False, repository=TAKERS[AUDIENCE]),
    "anonymous": Identity(is_served=True, repository="public"),
}
_FIRST = {
    "first-alice": Identity(is_served=True, secret="alice"),
    "first-carol": Identity(is_served=True, secret="carol"),
    "first-account": IDENTITIES["account"],
    "first-anonymous": IDENTITIES["anonymous"],
}
"""The pods that bring the node into a state."""


@pytest.fixture
def driver(release: Release) -> Release:
    """A driver that reads pull secrets and gets tokens."""
    release.ensure(VALUES)
    return release


@pytest.fixture
def registry(cluster: None) -> Iterator[AccountRegistry]:
    """A registry with users who may pull everything; carol's password is still the old one."""
    users = {"alice": User("alices-password"), "carol": User("old-password")}
    with AccountRegistry(users=users, port=PORTS[0]) as registry:
        yield registry


@pytest.fixture
def models(registry: AccountRegistry, kubectl: Kubectl) -> dict[str, Model]:
    """A private model, one for service accounts, a public one; their names and bytes are new to the node."""
    registry.users[account(kubectl, "trainer")] = User("")
    registry.users[account(kubectl, "default")] = User("", frozenset())
    names = {kind: f"{kind}/{kubectl.namespace}" for kind in {identity.repository for identity in IDENTITIES.values()}}
    registry.public.add(names["public"])
    return {kind: push(registry.content, name, random_files(name, 4 * MIB)) for kind, name in names.items()}


@pytest.mark.parametrize("state", State, ids=lambda state: str(state.value))
def test_everybody_gets_what_the_registry_would_answer(
    state: State,
    driver: Release,
    registry: AccountRegistry,
    models: dict[str, Model],
    node: Node,
    kubectl: Kubectl,
    make_namespace: MakeNamespace,
) -> None:
    """All at once: those with rights read the files, the others wait and see why; one download, whoever asks."""
    strangers = make_namespace()
    references = {kind: model.at(registry.host) for kind, model in models.items()}
    kubectl.apply(
        registry_secret("alice", docker_secret(registry.host, "alices-password")),
        registry_secret("wrong", docker_secret(registry.host, "guessed")),
        registry_secret("carol", docker_secret(registry.host, "old-password", "carol")),
        service_account("puller", "alice"),
        service_account("trainer"),
    )
    first = _prepare(state, driver, registry, kubectl, _pods(_FIRST, references))
    registry.users["carol"] = User("new-password")
    registry.expire_tokens()
    kubectl.apply(registry_secret("carol", docker_secret(registry.host, "new-password", "carol")))
    kubectl.apply(*_pods(IDENTITIES, references))
    strangers.apply(pod("stranger", inline(references["team"])))
    refused = [name for name, identity in IDENTITIES.items() if not identity.is_served]
    texts = [refusal(kubectl, name)[0] for name in refused] + [refusal(strangers, "stranger")[0]]
    registry.faults.stall_after_bytes = None
    registry.faults.resume.set()
    served = {name: identity for name, identity in IDENTITIES.items() if identity.is_served}
    kubectl.wait_until_ready(*served, *first)

    assert all("(401)" in text for text in texts), texts
    assert {name: promised(models[identity.repository].files) for name, identity in served.items()} == {
        name: seen(kubectl.exec(name, *hashing())) for name in served
    }
    status = driver.status()
    # Those that were mounted before the records were lost are known by their mounts, which have no names of pods.
    assert (set(served), set()) == (published(status, kubectl) - set(first), published(status, strangers))
    downloaded = {
        kind: sum(registry.bytes_served[str(layer)] for layer in model.layers) for kind, model in models.items()
    }
    assert {kind: model.size_bytes for kind, model in models.items()} == downloaded


def _pods(identities: dict[str, Identity], references: dict[str, str]) -> list[dict[str, Any]]:
    return [
        pod(name, inline(references[identity.repository], secret=identity.secret), **identity.spec)
        for name, identity in identities.items()
    ]


def _prepare(
    state: State, driver: Release, registry: AccountRegistry, kubectl: Kubectl, first: list[dict[str, Any]]
) -> list[str]:
    """Bring the node into the state by pods with rights, carol with her old password among them; their names."""
    if state is State.COLD:
        return []
    if state is State.PULLING:
        registry.faults.stall_after_bytes = MIB
    kubectl.apply(*first)
    names = list(_FIRST)
    if state is State.PULLING:
        eventually(lambda: _waiting(driver) == len(first), "all wait for their pulls")
        return names
    kubectl.wait_until_ready(*names)
    if state is State.RESTARTED:
        driver.rollout()
    if state is State.UNREADABLE:
        with _no_driver(driver):
            for path in STORE.glob("state.db*"):
                path.write_bytes(b"not a database" * 1000)
    return names


def _waiting(driver: Release) -> int:
    return sum(pull["waiting"] for pull in driver.status()["pulls"])


@contextmanager
def _no_driver(driver: Release) -> Iterator[None]:
    """Within the block no pod of the driver runs."""
    name = driver.pod
    _select_nodes(driver, "nowhere")
    try:
        driver.kubectl.wait(f"pod/{name}", "delete")
        yield
    finally:
        _select_nodes(driver, None)
        driver.wait_until_ready()


def _select_nodes(driver: Release, value: str | None) -> None:
    patch = {"spec": {"template": {"spec": {"nodeSelector": {"tests/driver": value}}}}}
    driver.kubectl("patch", "daemonset", installed.NAME, "--type=merge", f"--patch={as_json(patch)}")
