"""Who gets a private model, in every state that the node can be in: 35 cells on the CSI socket (design, D10 and D11).

Across: nobody, a wrong secret, the right one, one that was rotated, a pod of another namespace, a service account's token, a
public repository. Down: never pulled, on the node, being pulled, after a restart, with the records unreadable.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from tests.fakes.kubelet import Answer, PodVolume
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.integration.conftest import MakeDriver
from tests.integration.credentials import docker_secret
from tests.integration.driver import Driver, eventually
from tests.integration.models import MIB, Model, promised, push, random_files, shown

Code = grpc.StatusCode
_TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
_AUDIENCE = "registry"
_ACCOUNT = "service-account"
_ACCOUNT_TOKEN = "token-that-kubelet-vouches-for"


class State(enum.Enum):
    """What the node knows of the model."""

    COLD = "cold"
    CACHED = "cached"
    PULLING = "pulling"
    RESTARTED = "restarted"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Identity:
    """Who asks, and what a registry that was asked would say."""

    secrets: Callable[[str], Mapping[str, str]]
    expected: Code = Code.OK
    namespace: str = "default"
    repository: str = "team/private"


def _nothing(host: str) -> dict[str, str]:
    return {}


def _account_tokens(host: str) -> dict[str, str]:
    expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {_TOKENS: json.dumps({_AUDIENCE: {"token": _ACCOUNT_TOKEN, "expirationTimestamp": expires}})}


IDENTITIES = {
    "nobody": Identity(_nothing, Code.UNAUTHENTICATED),
    "wrong": Identity(lambda host: docker_secret(host, "guessed"), Code.UNAUTHENTICATED),
    "right": Identity(lambda host: docker_secret(host, "alices-password")),
    "rotated": Identity(lambda host: docker_secret(host, "new-password", "carol")),
    "other-namespace": Identity(_nothing, Code.UNAUTHENTICATED, namespace="strangers"),
    "service-account": Identity(_account_tokens),
    "anonymous": Identity(_nothing, repository="team/public"),
}


@pytest.fixture
def guarded() -> Iterator[FakeRegistry]:
    """A registry with a public repository, and users who may pull everything; carol's password is still the old one."""
    users = {"alice": User("alices-password"), "carol": User("old-password"), _ACCOUNT: User(_ACCOUNT_TOKEN)}
    with FakeRegistry(auth=Auth.BEARER, users=users) as registry:
        registry.public.add("team/public")
        yield registry


@pytest.fixture
def driver(make_driver: MakeDriver, guarded: FakeRegistry) -> Driver:
    """A driver whose configuration names the registry that takes service accounts' tokens."""
    taker = {"registries": [guarded.host], "audience": _AUDIENCE, "username": _ACCOUNT}
    return make_driver({"registry": {"service_account_tokens": [taker]}})


@pytest.mark.parametrize("state", State, ids=lambda state: str(state.value))
def test_everybody_gets_what_the_registry_would_answer(state: State, driver: Driver, guarded: FakeRegistry) -> None:
    """All seven, in parallel: those with rights see the files, the others are refused and nothing is left of them."""
    models = {
        repository: push(guarded.content, repository, random_files(repository, 4 * MIB))
        for repository in ("team/private", "team/public")
    }
    volumes = {
        name: PodVolume(
            name,
            {"modelRef": models[identity.repository].at(guarded.host)},
            identity.secrets(guarded.host),
            namespace=identity.namespace,
        )
        for name, identity in IDENTITIES.items()
    }
    with ThreadPoolExecutor(16) as pool:
        owners = _prepare(state, driver, guarded, models, pool)
        guarded.users["carol"] = User("new-password")
        guarded.expire_tokens()
        codes = dict(
            zip(volumes, pool.map(lambda volume: driver.kubelet.publish(volume).code, volumes.values()), strict=True)
        )
        assert all(owner.result().is_ok for owner in owners)

    assert {name: identity.expected for name, identity in IDENTITIES.items()} == codes
    for name, identity in IDENTITIES.items():
        target = driver.kubelet.target(volumes[name])
        if identity.expected is Code.OK:
            assert promised(models[identity.repository].files) == shown(target)
        else:
            assert not target.exists()
    downloads = [guarded.blob_gets[str(layer)] for model in models.values() for layer in model.layers]
    assert [1] * len(downloads) == downloads, "one download, whoever asks"
    assert not driver.bugs()


def _prepare(
    state: State, driver: Driver, guarded: FakeRegistry, models: Mapping[str, Model], pool: ThreadPoolExecutor
) -> list[Future[Answer]]:
    """Bring the node into the state by pods with rights, carol with her old password among them."""
    if state is State.COLD:
        return []
    host = guarded.host
    rightful = [
        PodVolume(
            f"first-{user}-{model.digest.short}", {"modelRef": model.at(host)}, docker_secret(host, password, user)
        )
        for model in models.values()
        for user, password in {"alice": "alices-password", "carol": "old-password"}.items()
    ]
    if state is State.PULLING:
        guarded.faults.bytes_per_second = 2 * MIB
        publishes = [pool.submit(driver.kubelet.publish, rightful[index]) for index in (0, 2)]
        eventually(lambda: len(driver.ask("status")["pulls"]) == len(models), "both models are being pulled")
        return publishes
    for volume in rightful:
        assert driver.kubelet.publish(volume).is_ok
    if state is State.CACHED:
        return []
    driver.kill()
    if state is State.UNREADABLE:
        for path in driver.root_dir.glob("state.db*"):
            path.write_bytes(b"not a database" * 1000)
    driver.start()
    return []
