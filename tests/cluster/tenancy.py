"""What the scenarios about credentials share: the driver's values, who brings what, and what a refusal looks like."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping
from typing import Any

from modelcsi.store.records import MOUNTED
from tests.cluster.chart import Values
from tests.cluster.kubectl import Event, Kubectl, eventually
from tests.cluster.registries import ADDRESS, PORTS
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.integration.credentials import basic
from tests.integration.driver import SERVICE_NAME

AUDIENCE = "registry"
OTHER_AUDIENCE = "another-registry"
TAKERS = {AUDIENCE: "accounts", OTHER_AUDIENCE: "elsewhere"}
"""Audience -> the repositories, of any of the tests' registries, that take tokens for it."""
_USERNAME = "serviceaccount"

VALUES: Values = {
    "config": {
        "kubernetes": {"pull_secrets": True},
        "registry": {
            "service_account_tokens": [
                {
                    "registries": [f"{ADDRESS}:{port}/{repository}" for port in PORTS],
                    "audience": audience,
                    "username": _USERNAME,
                }
                for audience, repository in TAKERS.items()
            ]
        },
    }
}
"""The driver may read pull secrets, and kubelet sends it tokens. One set for all scenarios, so that it is installed once."""


def with_node_credentials(host: str, password: str, namespace: str) -> Values:
    """These values, and credentials of the node's own that are for one namespace."""
    values = copy.deepcopy(dict(VALUES))
    values["config"]["registryAuths"] = {host: {"auth": basic(password), "serverscheme": "http"}}
    values["config"]["registry"]["node_credentials"] = {host: [namespace]}
    return values


class AccountRegistry(FakeRegistry):
    """A registry that trusts the cluster: whose a token is, and that it was meant for this registry, the API server says.

    A user whose name is that of a service account, as `account` makes it, is one.
    """

    def __init__(self, *, users: Mapping[str, User] | None = None, address: str = ADDRESS, port: int) -> None:
        super().__init__(auth=Auth.BEARER, users=users, address=address, port=port)
        self.accounts: list[str] = []
        """Whose tokens it took, in their order."""

    def user_of(self, authorization: str) -> str | None:
        """As of any user; a token instead of a password is reviewed by the cluster."""
        name, _, token = base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")
        if name != _USERNAME:
            return super().user_of(authorization)
        found = _reviewed(token)
        if found is None or found not in self.users:
            return None
        self.accounts.append(found)
        return found


def _reviewed(token: str) -> str | None:
    spec = {"token": token, "audiences": [AUDIENCE]}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
    status = json.loads(Kubectl()("create", "--filename=-", "--output=json", text=json.dumps(review)))["status"]
    return str(status["user"]["username"]) if status.get("authenticated") else None


def account(kubectl: Kubectl, name: str) -> str:
    """How the API server calls a service account."""
    return f"system:serviceaccount:{kubectl.namespace}:{name}"


def service_account(name: str, *pull_secrets: str) -> dict[str, Any]:
    """A ServiceAccount with these imagePullSecrets."""
    secrets = [{"name": secret} for secret in pull_secrets]
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}, "imagePullSecrets": secrets}


def pulling_with(*secrets: str) -> dict[str, Any]:
    """imagePullSecrets of a pod's spec."""
    return {"imagePullSecrets": [{"name": secret} for secret in secrets]}


def refusal(kubectl: Kubectl, pod: str) -> tuple[str, str]:
    """What the driver's event of a pod says, and kubelet's, once both have come."""
    found: dict[str, str] = {}

    def have_come() -> bool:
        for event in kubectl.events(pod):
            if event.type == "Warning" and _is_refusal(event):
                found[event.reason] = event.message
        return len(found) == 2

    eventually(have_come, f"events Failed and FailedMount of pod {pod}")
    return found["Failed"], found["FailedMount"]


def _is_refusal(event: Event) -> bool:
    return (event.reason, event.component) in {("Failed", SERVICE_NAME), ("FailedMount", "kubelet")}


def phases(kubectl: Kubectl) -> dict[str, str]:
    """Pod -> its phase."""
    return {item["metadata"]["name"]: item["status"]["phase"] for item in kubectl.listed("pods")}


def published(driver_status: Mapping[str, Any], kubectl: Kubectl) -> set[str]:
    """The pods of a namespace that the driver has mounted a model for."""
    rows = driver_status["publications"]
    pods = [row["pod"].partition("/") for row in rows if row["state"] == MOUNTED]
    return {name for namespace, _, name in pods if namespace == kubectl.namespace}
