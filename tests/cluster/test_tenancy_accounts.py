"""Service accounts as credentials: kubelet hands over the pod's tokens, a registry asks the cluster whose they are."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.kubectl import Kubectl
from tests.cluster.pods import hashing, inline, pod, seen
from tests.cluster.registries import PORTS
from tests.cluster.release import Release
from tests.cluster.tenancy import (
    AUDIENCE,
    OTHER_AUDIENCE,
    TAKERS,
    VALUES,
    AccountRegistry,
    account,
    published,
    refusal,
    service_account,
)
from tests.fakes.registry import User
from tests.integration.models import MIB, Model, promised, push, random_files

_TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"


@pytest.fixture
def driver(release: Release) -> Release:
    """A driver that gets tokens from kubelet."""
    release.ensure(VALUES)
    return release


@pytest.fixture
def registry(cluster: None) -> Iterator[AccountRegistry]:
    """A registry that trusts the cluster."""
    with AccountRegistry(port=PORTS[0]) as registry:
        yield registry


@pytest.fixture
def model(registry: AccountRegistry, kubectl: Kubectl) -> Model:
    """A model that the account `trainer` may pull, and `stranger` may not."""
    model = push(registry.content, f"{TAKERS[AUDIENCE]}/{kubectl.namespace}", random_files(kubectl.namespace, MIB))
    registry.users[account(kubectl, "trainer")] = User("")
    registry.users[account(kubectl, "stranger")] = User("", frozenset())
    kubectl.apply(service_account("trainer"), service_account("stranger"))
    return model


def test_account_is_all_that_a_pod_needs(
    driver: Release, registry: AccountRegistry, model: Model, kubectl: Kubectl
) -> None:
    """No secret anywhere: the token that kubelet sends is taken, and the next pod of the account asks for nothing."""
    reference = model.at(registry.host)
    kubectl.apply(pod("first", inline(reference), serviceAccountName="trainer"))
    kubectl.wait_until_ready("first")
    asked, accounts = len(registry.seen), list(registry.accounts)
    kubectl.apply(pod("second", inline(reference), serviceAccountName="trainer"))
    kubectl.wait_until_ready("second")

    assert {account(kubectl, "trainer")} == set(accounts)
    assert [promised(model.files)] * 2 == [seen(kubectl.exec(name, *hashing())) for name in ("first", "second")]
    assert asked == len(registry.seen)


def test_other_accounts_and_other_audiences_are_refused(
    driver: Release, registry: AccountRegistry, model: Model, kubectl: Kubectl
) -> None:
    """Also when the model is on the node: by an account without the right, one that is not known, a token for somebody else."""
    elsewhere = push(registry.content, f"{TAKERS[OTHER_AUDIENCE]}/{kubectl.namespace}", model.files)
    kubectl.apply(pod("owner", inline(model.at(registry.host)), serviceAccountName="trainer"))
    kubectl.wait_until_ready("owner")
    kubectl.apply(
        pod("stranger", inline(model.at(registry.host)), serviceAccountName="stranger"),
        pod("unknown", inline(model.at(registry.host))),
        pod("other-audience", inline(elsewhere.at(registry.host)), serviceAccountName="trainer"),
    )
    refusals = {name: refusal(kubectl, name)[0] for name in ("stranger", "unknown", "other-audience")}

    for name, (whose, audience) in {
        "stranger": ("stranger", AUDIENCE),
        "unknown": ("default", AUDIENCE),
        "other-audience": ("trainer", OTHER_AUDIENCE),
    }.items():
        token = f"the token of the service account {kubectl.namespace}/{whose} for the audience {audience}"
        assert f"with the credentials of {token} (401)" in refusals[name]
    assert {"owner"} == published(driver.status(), kubectl)
    assert model.size_bytes == sum(registry.bytes_served[str(layer)] for layer in model.layers)


def test_token_that_a_pods_author_wrote_counts_for_nothing(
    driver: Release, registry: AccountRegistry, model: Model, kubectl: Kubectl
) -> None:
    """A valid token of another account among the volume's attributes: what kubelet sends for the pod itself is used alone."""
    stolen = kubectl("create", "token", "trainer", f"--audience={AUDIENCE}").strip()
    written = {_TOKENS: json.dumps({AUDIENCE: {"token": stolen, "expirationTimestamp": "2100-01-01T00:00:00Z"}})}
    kubectl.apply(pod("thief", inline(model.at(registry.host), **written), serviceAccountName="stranger"))
    by_driver, _ = refusal(kubectl, "thief")

    assert f"the token of the service account {kubectl.namespace}/stranger" in by_driver
    assert {account(kubectl, "stranger")} == set(registry.accounts)
    assert set() == published(driver.status(), kubectl)


def test_tokens_are_in_no_log(driver: Release, registry: AccountRegistry, model: Model, kubectl: Kubectl) -> None:
    """With the most talkative log level: neither the account's token, nor what the registry gave for it."""
    kubectl.apply(pod("owner", inline(model.at(registry.host)), serviceAccountName="trainer"))
    kubectl.wait_until_ready("owner")
    sent = {
        seen.headers["authorization"].partition(" ")[2] for seen in registry.seen if "authorization" in seen.headers
    }
    log = driver.log()

    assert len(sent) == 2
    assert not [credential for credential in sent if credential in log]
    assert "eyJ" not in log
