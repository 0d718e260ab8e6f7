"""Who may see what is on the node: a pod gets nothing that its own credentials may not pull (design, D11)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from modelcsi.oci.digest import Digest
from tests.fakes.content import FILE_PATH, RAW_WEIGHT, Content
from tests.fakes.kubelet import NON_FINAL, PodVolume
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.integration.conftest import MakeDriver
from tests.integration.credentials import HTPASSWD, PASSWORD, basic, docker_secret
from tests.integration.driver import Driver, eventually
from tests.integration.models import MIB, Model, promised, push, push_layers, random_files, shown, upload
from tests.integration.registry import DockerRegistry, running_docker_registry
from tests.integration.wire import Wire
from tests.unit.registry.plugins import PROTOCOL, Plugin

Code = grpc.StatusCode
_USERS = {
    "alice": User("alices-password"),
    "bob": User("bobs-password", frozenset({"team/bob", "team/both"})),
}


@pytest.fixture(scope="module")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A real registry that serves nobody without a password."""
    with running_docker_registry(tmp_path_factory.mktemp("private-registry"), htpasswd=HTPASSWD) as registry:
        yield registry


@pytest.fixture(params=[Auth.BASIC, Auth.BEARER], ids=lambda auth: str(auth.value))
def guarded(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    """A registry in which alice may pull everything, bob his team's repositories, nobody else anything."""
    with FakeRegistry(auth=request.param, users=_USERS) as registry:
        yield registry


def volume_of(model: Model, host: str, pod: str, user: str = "", password: str = "", policy: str = "") -> PodVolume:
    """A pod's volume, with this user's secret if there is one; the host makes its name unique."""
    secret = docker_secret(host, password or _USERS[user].password, user) if user else {}
    attributes = {"modelRef": model.at(host), **({"pullPolicy": policy} if policy else {})}
    return PodVolume(f"{pod}-{host.rpartition(':')[2]}", attributes, secret)


def test_private_model_of_a_real_registry(driver: Driver, private_registry: DockerRegistry) -> None:
    """The right password mounts; then the bytes are here, and a wrong one, or none, is refused all the same."""
    content = Content()
    model = push(content, "private/model", random_files("real", MIB))
    upload(content, private_registry.host, f"Basic {basic(PASSWORD)}")
    right, wrong, none = (
        PodVolume(f"real-{name}", {"modelRef": model.at(private_registry.host)}, secret)
        for name, secret in {
            "right": docker_secret(private_registry.host, PASSWORD),
            "wrong": docker_secret(private_registry.host, "guessed"),
            "none": {},
        }.items()
    )
    codes = [driver.kubelet.publish(volume).code for volume in (right, wrong, none, right)]

    assert [Code.OK, Code.UNAUTHENTICATED, Code.UNAUTHENTICATED, Code.OK] == codes
    assert promised(model.files) == shown(driver.kubelet.target(right))
    assert not driver.kubelet.target(wrong).exists()


def test_cached_model_is_refused_without_rights(driver: Driver, guarded: FakeRegistry) -> None:
    """Nobody, a wrong password, and a user without this repository get what the registry would answer; by digest too."""
    model = push(guarded.content, "team/alice", random_files("cached", MIB))
    assert Code.OK == driver.kubelet.publish(volume_of(model, guarded.host, "cached-alice", "alice")).code
    strangers = [
        volume_of(model, guarded.host, "cached-nobody"),
        volume_of(model, guarded.host, "cached-wrong", "alice", "guessed"),
        volume_of(model, guarded.host, "cached-bob", "bob"),
    ]
    by_digest = [
        PodVolume(f"{volume.pod}-digest", {"modelRef": f"{guarded.host}/team/alice@{model.digest}"}, volume.secrets)
        for volume in strangers
    ]
    codes = [driver.kubelet.publish(volume).code for volume in (*strangers, *by_digest)]

    bob = Code.PERMISSION_DENIED if guarded.auth is Auth.BASIC else Code.UNAUTHENTICATED
    assert [Code.UNAUTHENTICATED, Code.UNAUTHENTICATED, bob] * 2 == codes
    assert not any(driver.kubelet.target(volume).exists() for volume in (*strangers, *by_digest))


def test_running_pull_is_not_joined_without_rights(driver: Driver, guarded: FakeRegistry) -> None:
    """A stranger who comes while the model is being pulled is refused at once, and the pull goes on."""
    guarded.faults.bytes_per_second = 6 * MIB
    model = push(guarded.content, "team/alice", random_files("running", 8 * MIB))
    alice = volume_of(model, guarded.host, "running-alice", "alice")
    with ThreadPoolExecutor(1) as pool:
        publish = pool.submit(driver.kubelet.publish, alice)
        eventually(lambda: guarded.bytes_served.total() > 0, "the pull runs")
        stranger = driver.kubelet.publish(volume_of(model, guarded.host, "running-nobody"))
        assert Code.OK == publish.result().code

    assert Code.UNAUTHENTICATED == stranger.code
    assert stranger.seconds < 1


def test_proven_credentials_need_no_network(driver: Driver, guarded: FakeRegistry) -> None:
    """With the registry gone: proven credentials mount, others are put off, Always is UNAVAILABLE, Never is local."""
    model = push(guarded.content, "team/both", random_files("offline", MIB))
    with Wire(int(guarded.host.rpartition(":")[2])) as wire:
        name = f"offline-{guarded.auth.value}"
        proven = driver.kubelet.publish(volume_of(model, wire.host, name, "alice"))
        wire.cut()
        codes = {
            case: driver.kubelet.publish(volume_of(model, wire.host, f"{name}-{case}", user, policy=policy)).code
            for case, user, policy in [
                ("proven", "alice", ""),
                ("proven-never", "alice", "Never"),
                ("proven-always", "alice", "Always"),
                ("unproven", "bob", ""),
                ("unproven-never", "bob", "Never"),
                ("nobody", "", ""),
            ]
        }

    assert Code.OK == proven.code
    assert {
        "proven": Code.OK,
        "proven-never": Code.OK,
        "proven-always": Code.UNAVAILABLE,
        "unproven": Code.UNAVAILABLE,
        "unproven-never": Code.NOT_FOUND,
        "nobody": Code.UNAVAILABLE,
    } == codes


def test_second_user_with_rights_downloads_nothing(driver: Driver, guarded: FakeRegistry) -> None:
    """Bob may pull it too: the registry is asked whether, and serves no blob again."""
    model = push(guarded.content, "team/both", random_files("second", MIB))
    driver.kubelet.publish(volume_of(model, guarded.host, "second-alice", "alice"))
    answer = driver.kubelet.publish(volume_of(model, guarded.host, "second-bob", "bob"))

    assert Code.OK == answer.code
    assert [1] * len(model.layers) == [guarded.blob_gets[str(layer)] for layer in model.layers]


def test_foreign_manifest_gets_no_private_bytes(driver: Driver, guarded: FakeRegistry) -> None:
    """Bob pushes a manifest to his repository that names a digest of alice's: the registry has no such blob there."""
    secret = push(guarded.content, "team/alice", random_files("foreign", MIB))
    assert Code.OK == driver.kubelet.publish(volume_of(secret, guarded.host, "foreign-alice", "alice")).code
    _, manifest = guarded.content.manifests["team/alice"]["v1"]
    guarded.content.add_manifest("team/bob", manifest, "v1")
    forged = Model("team/bob", "v1", secret.digest, secret.layers, secret.size_bytes, {})
    volume = volume_of(forged, guarded.host, "foreign-bob", "bob")
    answer = driver.kubelet.publish(volume, timeout=20)

    assert Code.NOT_FOUND == answer.code, answer.text
    assert not driver.kubelet.target(volume).exists()


def test_registry_that_has_everything_gets_no_private_bytes(driver: Driver, guarded: FakeRegistry) -> None:
    """Another host that says it holds the digest must deliver it: it has other bytes of that size, so DATA_LOSS."""
    secret = push(guarded.content, "team/alice", {"weights": b"s" * MIB})
    assert Code.OK == driver.kubelet.publish(volume_of(secret, guarded.host, "liar-alice", "alice")).code
    with FakeRegistry() as liar:
        _, manifest = guarded.content.manifests["team/alice"]["v1"]
        liar.content.add_manifest("team/alice", manifest, "v1")
        liar.content.blobs["team/alice"][str(secret.layers[0])] = b"x" * MIB
        volume = volume_of(secret, liar.host, "liar")
        answer = driver.kubelet.publish(volume)

        assert Code.DATA_LOSS == answer.code, answer.text
        assert not driver.kubelet.target(volume).exists()
        liar.content.blobs["team/alice"][str(secret.layers[0])] = b"s" * MIB
        assert Code.OK == driver.kubelet.set_up(volume, within_seconds=10)[-1].code


def test_anonymous_access_counts_for_everybody(driver: Driver, guarded: FakeRegistry) -> None:
    """A public repository needs no secret, and a secret for it that is wrong is refused by the registry, not by the cache."""
    guarded.public.add("team/public")
    model = push(guarded.content, "team/public", random_files("public", 1000))

    assert Code.OK == driver.kubelet.publish(volume_of(model, guarded.host, "public-nobody")).code
    assert Code.OK == driver.kubelet.publish(volume_of(model, guarded.host, "public-bob", "bob")).code


def test_credentials_of_the_node(make_driver: MakeDriver, guarded: FakeRegistry) -> None:
    """What the node's docker config may pull every pod may mount; the file is read again when it changes."""
    driver = make_driver()
    model = push(guarded.content, "team/alice", random_files("node", 1000))
    volume = volume_of(model, guarded.host, "node")
    refused = driver.kubelet.publish(volume)
    driver.write_docker_config(json.loads(docker_secret(guarded.host, "alices-password")[".dockerconfigjson"]))

    assert Code.UNAUTHENTICATED == refused.code
    assert Code.OK == driver.kubelet.publish(volume).code


def test_answers_of_a_plugin_outlive_a_change_of_the_configuration(
    make_driver: MakeDriver, guarded: FakeRegistry, tmp_path: Path
) -> None:
    """A cloud's plugin is not asked again because another key of the driver's file is another one now."""
    plugin, file = Plugin(tmp_path), tmp_path / "providers.yaml"
    plugin.answer({guarded.host: {"username": "alice", "password": "alices-password"}}, "Global")
    provider = {
        "name": "plugin",
        "matchImages": [guarded.host],
        "defaultCacheDuration": "1h",
        "apiVersion": PROTOCOL,
    }
    file.write_text(
        json.dumps(
            {"kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1", "providers": [provider]}
        )
    )
    config = {"registry": {"credential_provider_config": str(file), "credential_provider_bin_dir": str(tmp_path)}}
    driver = make_driver(config)
    models = [push(guarded.content, f"team/plugin-{number}", random_files(number, 1000)) for number in range(2)]
    codes = [driver.kubelet.publish(volume_of(models[0], guarded.host, "plugin-0")).code]
    for number in (1, 2):  # that the second change is seen says that the first was done
        driver.write_config({**config, "features": {"disk_usage_limit": number << 40}})
        eventually(lambda: driver.log_text().count("is in force") == number, "the change is seen", seconds=10)  # noqa: B023
    codes.append(driver.kubelet.publish(volume_of(models[1], guarded.host, "plugin-1")).code)

    assert [Code.OK, Code.OK] == codes
    assert 1 == len(plugin.asked)


def test_rights_survive_a_restart_but_not_a_lost_database(make_driver: MakeDriver, guarded: FakeRegistry) -> None:
    """Proofs are kept with the records: without them the registry is asked again, for every new pod."""
    driver = make_driver()
    model = push(guarded.content, "team/alice", random_files("restart", 1000))
    with Wire(int(guarded.host.rpartition(":")[2])) as wire:
        first, second, third = (volume_of(model, wire.host, f"restart-{number}", "alice") for number in range(3))
        codes = [driver.kubelet.publish(first).code]
        wire.cut()
        driver.kill()
        driver.start()
        codes.append(driver.kubelet.publish(second).code)
        driver.kill()
        for path in driver.root_dir.glob("state.db*"):
            path.unlink()
        driver.start()
        codes.append(driver.kubelet.publish(third).code)

    assert [Code.OK, Code.OK, Code.UNAVAILABLE] == codes


def test_credentials_withdrawn_in_mid_pull(driver: Driver, guarded: FakeRegistry) -> None:
    """The failure of one pod's credentials ends its wait; the other pod's pull goes on with its own."""
    guarded.faults.bytes_per_second, guarded.faults.cut_every_bytes = 4 * MIB, MIB
    layers = [(bytes([number]) * 4 * MIB, RAW_WEIGHT, {FILE_PATH: f"part-{number}"}) for number in range(2)]
    model = push_layers(guarded.content, "team/both", layers)
    alice, bob = (volume_of(model, guarded.host, f"withdrawn-{user}", user) for user in ("alice", "bob"))
    with ThreadPoolExecutor(2) as pool:
        publishes = [pool.submit(driver.kubelet.publish, volume) for volume in (alice, bob)]
        eventually(lambda: [2] == [pull["waiting"] for pull in driver.ask("status")["pulls"]], "both wait")
        guarded.users["bob"] = User("changed", frozenset())
        guarded.expire_tokens()
        answers = [publish.result() for publish in publishes]

    assert Code.OK == answers[0].code, answers[0].text
    assert answers[1].code in {Code.OK, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, *NON_FINAL}
    assert Digest.of(layers[0][0]) == Digest.of((driver.kubelet.target(alice) / "part-0").read_bytes())
