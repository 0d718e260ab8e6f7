"""The order of sources, who is asked when, and what a person is told about those that gave nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from modelcsi.config.model import ServiceAccountToken
from modelcsi.config.providers import CredentialProvider, TokenAttributes, TokenCache
from modelcsi.errors import Forbidden
from modelcsi.oci.reference import Reference
from modelcsi.registry.caller import Caller, Pod, PodSecrets
from modelcsi.registry.credentials import ANONYMOUS, Keychain, Sources
from modelcsi.registry.hosts_files import HostsFiles
from modelcsi.registry.node_access import NodeAccess
from modelcsi.registry.providers import Providers
from tests.unit.registry.plugins import PROTOCOL, Plugin, jwt

HOST = "registry.example.com"
REFERENCE = Reference.parse(f"{HOST}/team/model:v1")
POD = Pod("team-a", "pod", "uid", "trainer")
PROVIDER = CredentialProvider("plugin", (HOST,), 0.0, PROTOCOL)
WITH_TOKEN = TokenAttributes("registry", is_required=True, cache=TokenCache.SERVICE_ACCOUNT)
TOKEN = ServiceAccountToken((HOST,), "registry", "sa")


def secret(user: str, host: str = HOST) -> dict[str, str]:
    """A pull secret."""
    return {".dockerconfigjson": json.dumps({"auths": {host: {"username": user, "password": "s3cret"}}})}


@dataclass
class Api:
    """The API server's secrets."""

    secrets: tuple[Mapping[str, str], ...] = ()
    asked: list[Pod] = field(default_factory=list)

    def secrets_of(self, pod: Pod) -> PodSecrets:
        """As `kube` does."""
        self.asked.append(pod)
        return PodSecrets(self.secrets)


@dataclass
class House:
    """A node on which every source has something, and what was asked of it."""

    directory: Path
    api: Api
    plugin: Plugin
    helper: Plugin

    def keychain(self, **changes: Any) -> Keychain:
        """A keychain with all sources."""
        providers = Providers([changes.pop("provider", PROVIDER)], self.directory, {"PATH": os.environ["PATH"]})
        everything = Sources(self.api, (TOKEN,), providers, has_pod_info=lambda: True)
        return Keychain(self.directory, replace(everything, **changes))

    @property
    def asked(self) -> tuple[int, int, int]:
        """How often the API server, the plugin and the helper were asked."""
        return len(self.api.asked), len(self.plugin.asked), len(self.helper.asked)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """Every source has a user of its own name."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    plugin, helper = Plugin(tmp_path), Plugin(tmp_path, "docker-credential-one")
    plugin.answer({HOST: {"username": "plugin", "password": "s3cret"}}, duration="0s")
    answer = tmp_path / "helper.json"
    answer.write_text(json.dumps({"Username": "helper", "Secret": "s3cret"}), encoding="utf-8")
    (tmp_path / "docker-credential-one").write_text(
        f"#!/bin/sh\necho '{{}}' >> {tmp_path}/docker-credential-one.log\ncat {answer}\n"
    )
    (tmp_path / "docker-credential-one").chmod(0o755)
    auths = json.loads(secret("node")[".dockerconfigjson"])
    (tmp_path / "config.json").write_text(json.dumps(auths | {"credsStore": "one"}), encoding="utf-8")
    return House(tmp_path, Api((secret("pulled"),)), plugin, helper)


def users(keychain: Keychain, caller: Caller, reference: Reference = REFERENCE) -> list[str]:
    """The user names to try, in their order."""
    return [found.username or "(anonymous)" for found in keychain.candidates(reference, caller)]


def test_the_order_of_sources(house: House) -> None:
    """The pod's, its service account's, the node's, none."""
    caller = Caller(secret("other", "elsewhere.example.com"), POD, {"registry": jwt("trainer")})

    assert ["pulled", "sa", "plugin", "helper", "node", "(anonymous)"] == users(house.keychain(), caller)


def test_a_requests_secret_for_the_registry_is_the_only_source(house: House) -> None:
    """Nothing behind it is tried, not even to be anonymous, and nobody is asked."""
    found = users(house.keychain(), Caller(secret("request"), POD, {"registry": jwt("trainer")}))

    assert (["request"], (0, 0, 0)) == (found, house.asked)


def test_sources_are_asked_when_their_turn_comes_and_once(house: House) -> None:
    """A proof that an early source gives must not cost a program's start."""
    candidates = house.keychain().candidates(REFERENCE, Caller({}, POD))
    counts = [house.asked]
    for _ in range(2):
        remaining = iter(candidates)
        for _ in range(5):
            next(remaining)
            counts.append(house.asked)

    assert [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)] == counts[:6]
    assert [(1, 1, 1)] * 5 == counts[6:]


def test_what_is_at_hand_takes_no_network_and_no_program(house: House) -> None:
    """The service account's token and the docker config: for a publish that needs no more."""
    candidates = house.keychain().candidates(REFERENCE, Caller({}, POD, {"registry": jwt("trainer")}))

    assert (["sa", "node"], (0, 0, 0)) == ([found.username for found in candidates.at_hand()], house.asked)


@pytest.mark.parametrize("has_pod_info", [None, False])
def test_the_pull_secrets_of_a_pod_that_may_be_forged_are_not_read(house: House, *, has_pod_info: bool | None) -> None:
    """Else any pod could name another one and use its secrets; the person is told."""
    candidates = house.keychain(has_pod_info=lambda: has_pod_info).candidates(REFERENCE, Caller({}, POD))
    found = [credentials.username for credentials in candidates]

    assert (["plugin", "helper", "node", ""], 0) == (found, len(house.api.asked))
    assert candidates.explain("look") == (
        "the pod's imagePullSecrets are not used: the CSIDriver object is not known to have podInfoOnMount, "
        "so a pod could name any namespace; look"
    )


def test_without_a_pod_there_are_no_pull_secrets(house: House) -> None:
    """A request without pod information."""
    assert (["plugin", "helper", "node", "(anonymous)"], 0) == (
        users(house.keychain(), Caller()),
        len(house.api.asked),
    )


def test_an_unusable_pull_secret_is_passed_over(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """The next one may do; which is wrong is told, and no content of it."""
    house.api.secrets = ({"password": "hunter2"}, {".dockerconfigjson": "{hunter2"}, secret("pulled"))
    candidates = house.keychain().candidates(REFERENCE, Caller({}, POD))

    assert "pulled" == next(iter(candidates)).username
    assert "one of the pod's imagePullSecrets cannot be used: the secret has the keys password" in candidates.explain(
        ""
    )
    assert "hunter2" not in caplog.text + candidates.explain("")


@pytest.mark.parametrize(
    ("namespace", "expected"),
    [("team-a", ["pulled", "plugin", "helper", "node", "(anonymous)"]), ("team-b", ["pulled", "(anonymous)"])],
)
def test_the_nodes_sources_are_for_the_namespaces_of_the_map(house: House, namespace: str, expected: list[str]) -> None:
    """Plugins without a token, helpers and the docker config; the others are not started."""
    keychain = house.keychain(node_access=NodeAccess({HOST: ("team-a",)}))

    assert expected == users(keychain, Caller({}, replace(POD, namespace=namespace)))
    assert (0 if namespace == "team-b" else 1) == len(house.plugin.asked) == len(house.helper.asked)


def test_a_token_makes_a_plugin_the_pods_own_source(house: House) -> None:
    """The map narrows the node's credentials: what a plugin has for a service account is not among them."""
    keychain = house.keychain(
        provider=replace(PROVIDER, token_attributes=WITH_TOKEN), node_access=NodeAccess({}), tokens=()
    )
    caller = Caller({}, POD, {"registry": jwt("trainer")})

    assert ["pulled", "plugin", "(anonymous)"] == users(keychain, caller)


def test_a_plugin_that_needs_a_token_is_not_asked_without(house: House) -> None:
    """The person is told where tokens come from."""
    keychain = house.keychain(provider=replace(PROVIDER, token_attributes=WITH_TOKEN))
    candidates = keychain.candidates(REFERENCE, Caller({}, POD, {"other": jwt("trainer")}))

    assert "plugin" not in [found.username for found in candidates]
    assert "needs a service-account token for 'registry', which kubelet did not send" in candidates.explain("")


def test_a_plugin_that_fails_is_passed_over_and_told(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Once to the operator, at each attempt to the caller."""
    house.plugin.script("exit 3")
    keychain = house.keychain()
    told = []
    for _ in range(2):
        candidates = keychain.candidates(REFERENCE, Caller({}, POD))
        assert ANONYMOUS in candidates
        told.append(candidates.explain(""))

    assert ["the credential provider plugin failed (exit status 3)"] * 2 == told
    assert 1 == len(caplog.records)


def test_secrets_for_other_registries_are_mentioned(house: House) -> None:
    """The most frequent mistake: the host in the secret is not exactly that of the reference."""
    house.api.secrets = (secret("pulled", "elsewhere.example.com"),)
    candidates = house.keychain(tokens=(), providers=None).candidates(
        REFERENCE, Caller(secret("request", "https://other.example.com"), POD)
    )
    told = list(candidates) and candidates.explain("look")

    assert (
        f"the volume's secret has nothing for {HOST}/team/model; "
        f"the pod's imagePullSecrets have nothing for {HOST}/team/model; look"
    ) == told


def test_pull_secrets_that_nobody_reads_are_mentioned(house: House) -> None:
    """Their author expects them to count, as they do for images."""
    candidates = house.keychain(pull_secrets=None).candidates(REFERENCE, Caller({}, POD))

    assert ANONYMOUS in candidates
    assert "imagePullSecrets are not read (kubernetes.pull_secrets); look" == candidates.explain("look")


def test_the_map_is_mentioned_only_where_the_node_has_something(tmp_path: Path) -> None:
    """A 401 of a registry that the node does not know has other reasons."""
    candidates = Keychain(tmp_path, Sources(node_access=NodeAccess({}))).candidates(REFERENCE, Caller({}, POD))

    assert (ANONYMOUS,) == tuple(candidates)
    assert "registry.node_credentials" not in candidates.explain("look")


def test_the_nodes_own_for_the_driver_itself(house: House) -> None:
    """The map is about pods."""
    keychain = house.keychain(node_access=NodeAccess({}))

    assert ["plugin", "helper", "node", ""] == [found.username for found in keychain.of_node(REFERENCE)]


def test_secrets_are_in_no_text_of_a_caller(house: House) -> None:
    """Callers are passed around, and may end in a traceback."""
    caller = Caller(secret("request"), POD, {"registry": "hunter2"})

    assert ["s3cret" in repr(caller), "hunter2" in repr(caller), "team-a" in repr(caller)] == [False, False, True]


def test_a_client_certificate_is_the_nodes(house: House) -> None:
    """Every request shows it, so that nothing accepted is anonymous, and who may not use it may not ask."""
    (house.directory / HOST).mkdir()
    (house.directory / HOST / "hosts.toml").write_text('client = "node.pem"\n', encoding="utf-8")
    hosts = HostsFiles(house.directory)
    asked = house.keychain(hosts=hosts).candidates(REFERENCE, Caller({}, POD))
    closed = house.keychain(hosts=hosts, node_access=NodeAccess({HOST: ("vault",)}))
    with pytest.raises(Forbidden, match=r"is shown the node's client certificate, and .* to the namespace team-a"):
        closed.candidates(REFERENCE, Caller(secret("request"), POD))

    assert {f"{house.directory}/{HOST}/node.pem"} == {found.certificate for found in asked}
    assert asked.anonymous == list(asked)[-1]
    assert "anonymous" != asked.anonymous.fingerprint(b"salt")


MIRROR = "mirror.example.com"


@pytest.mark.parametrize(
    ("namespaces", "expected"),
    [
        (None, ["plugin", "helper", "node", ""]),
        ({HOST: ("team-a",), MIRROR: ("*",)}, ["plugin", "helper", "node", ""]),
        ({HOST: ("vault",), "*": ("*",)}, [""]),
        ({HOST: ("*",), MIRROR: ("vault",)}, [""]),
        ({MIRROR: ("*",)}, [""]),
    ],
)
def test_the_map_is_held_against_the_registry_that_a_mirror_stands_for(
    house: House, namespaces: dict[str, tuple[str, ...]] | None, expected: list[str]
) -> None:
    """Else the node's credentials for the mirror would open what the map closes."""
    house.plugin.answer({MIRROR: {"username": "plugin", "password": "s3cret"}}, duration="0s")
    (house.directory / "config.json").write_text(
        json.dumps(json.loads(secret("node", MIRROR)[".dockerconfigjson"]) | {"credsStore": "one"}), encoding="utf-8"
    )
    provider = replace(PROVIDER, match_images=(MIRROR,))
    keychain = house.keychain(node_access=NodeAccess(namespaces), provider=provider, pull_secrets=None)
    found = [credentials.username for credentials in keychain.at_mirror(MIRROR, REFERENCE, Caller({}, POD))]

    assert expected == found


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [((HOST,), []), ((HOST, MIRROR), ["u"]), ((MIRROR,), ["u"]), (("elsewhere",), ["helper", ""])],
)
def test_a_secret_for_the_registry_is_the_only_source_at_its_mirror(
    house: House, hosts: tuple[str, ...], expected: list[str]
) -> None:
    """Its own entries for the mirror, or the mirror is not asked: what is behind the secret is not tried there either."""
    auths = {host: {"username": "u", "password": "s3cret"} for host in hosts}
    caller = Caller({".dockerconfigjson": json.dumps({"auths": auths})}, POD)
    found = house.keychain(pull_secrets=None).at_mirror(MIRROR, REFERENCE, caller)

    assert expected == [credentials.username for credentials in found]
