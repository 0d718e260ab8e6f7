from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from modelcsi.config.providers import CredentialProvider, TokenAttributes, TokenCache
from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.registry.credentials import Credentials
from modelcsi.registry.providers import Providers
from tests.unit.registry.plugins import PROTOCOL, Plugin, jwt

REFERENCE = Reference.parse("registry.example.com/team/model:v1")
OTHER = Reference.parse("registry.example.com/team/other:v1")
PROVIDER = CredentialProvider("plugin", ("*.example.com",), 3600.0, PROTOCOL)
ACCOUNTS = TokenAttributes("registry", is_required=False, cache=TokenCache.SERVICE_ACCOUNT)
TOKENS = TokenAttributes("registry", is_required=False, cache=TokenCache.TOKEN)
AUTH = {"*.example.com": {"username": "node", "password": "s3cret"}}
FOUND = (Credentials("node", "s3cret", source="the credential provider plugin"),)


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """One that has something for the registry."""
    made = Plugin(tmp_path)
    made.answer(AUTH)
    return made


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Providers]:
    """Makes providers on the directory of plugins, with a clock that a test can set."""

    def build(provider: CredentialProvider = PROVIDER, clock: list[float] | None = None, **more: float) -> Providers:
        now = clock or [0.0]
        return Providers([provider], tmp_path, {"PATH": os.environ["PATH"]}, clock=lambda: now[0], **more)

    return build


def test_the_question_is_kubelets(plugin: Plugin, make: Callable[..., Providers]) -> None:
    """The image without its tag; no token without one."""
    found = make().ask(PROVIDER, REFERENCE, "")

    assert FOUND == found
    assert [
        {"kind": "CredentialProviderRequest", "apiVersion": PROTOCOL, "image": "registry.example.com/team/model"}
    ] == plugin.asked


def test_the_same_configuration_is_recognised(tmp_path: Path, make: Callable[..., Providers]) -> None:
    """Its answers count on when the driver's configuration is read again; with other plugins they do not."""
    providers, other = make(), replace(PROVIDER, args=("--verbose",))

    assert [True, False, False, False] == [
        providers.is_made_of([PROVIDER], tmp_path),
        providers.is_made_of([other], tmp_path),
        providers.is_made_of([PROVIDER, replace(PROVIDER, name="second")], tmp_path),
        providers.is_made_of([PROVIDER], tmp_path / "elsewhere"),
    ]


def test_a_service_accounts_token_is_handed_on(plugin: Plugin, make: Callable[..., Providers]) -> None:
    """KEP-4412."""
    provider, token = replace(PROVIDER, token_attributes=ACCOUNTS), jwt("trainer")
    make(provider).ask(provider, REFERENCE, token)

    assert [token] == [request["serviceAccountToken"] for request in plugin.asked]


@pytest.mark.parametrize(
    ("key_type", "asked"),
    [("Image", ["model", "other", "elsewhere"]), ("Registry", ["model", "elsewhere"]), ("Global", ["model"])],
)
def test_answers_are_kept_for_what_they_say(
    key_type: str, asked: list[str], plugin: Plugin, make: Callable[..., Providers]
) -> None:
    """An image, a registry, or everything."""
    plugin.answer(AUTH, key_type)
    providers = make()
    for reference in (REFERENCE, OTHER, Reference.parse("hub.example.com/team/elsewhere"), REFERENCE, OTHER):
        providers.ask(PROVIDER, reference, "")

    assert asked == [request["image"].rpartition("/")[2] for request in plugin.asked]


@pytest.mark.parametrize(
    ("duration", "default", "life"), [(None, 60.0, 60.0), ("10s", 60.0, 10.0), ("0s", 60.0, 0.0), (None, 0.0, 0.0)]
)
def test_answers_are_kept_as_long_as_they_say(
    duration: str | None, default: float, life: float, plugin: Plugin, make: Callable[..., Providers]
) -> None:
    """Its own duration, else the configured one; none is none."""
    plugin.answer(AUTH, duration=duration)
    provider, clock = replace(PROVIDER, default_cache_seconds=default), [0.0]
    providers = make(provider, clock)
    counts = []
    for now in (0.0, life - 1.0, life):
        clock[0] = max(now, 0.0)
        providers.ask(provider, REFERENCE, "")
        counts.append(len(plugin.asked))

    assert ([1, 1, 2] if life else [1, 2, 3]) == counts


def test_an_answer_without_credentials_is_kept_too(plugin: Plugin, make: Callable[..., Providers]) -> None:
    """`auth: null` means that the plugin has nothing for this image."""
    plugin.answer(None)
    providers = make()
    found = [providers.ask(PROVIDER, REFERENCE, "") for _ in range(2)]

    assert ([(), ()], 1) == (found, len(plugin.asked))


@pytest.mark.parametrize(
    ("attributes", "tokens", "asked"),
    [
        (ACCOUNTS, [jwt("a", "1"), jwt("a", "2"), jwt("b"), jwt("a", namespace="other"), ""], [0, 2, 3, 4]),
        (ACCOUNTS, ["opaque-1", "opaque-2", "opaque-1"], [0, 1]),
        (TOKENS, [jwt("a", "1"), jwt("a", "2"), jwt("a", "1")], [0, 1]),
    ],
    ids=["an account", "an unknown account", "a token"],
)
def test_answers_never_cross_service_accounts(
    attributes: TokenAttributes, tokens: list[str], asked: list[int], plugin: Plugin, make: Callable[..., Providers]
) -> None:
    """What one account, or one token, was given serves nobody else, even when it is said to be for everything."""
    plugin.answer(AUTH, "Global")
    provider = replace(PROVIDER, token_attributes=attributes)
    providers = make(provider)
    for token in tokens:
        providers.ask(provider, REFERENCE, token)

    assert [tokens[number] for number in asked] == [item.get("serviceAccountToken", "") for item in plugin.asked]


def test_a_service_account_is_the_identity_of_what_its_token_brought(
    plugin: Plugin, make: Callable[..., Providers]
) -> None:
    """A renewed token is the same account; with cacheType Token what was brought counts by its value."""
    plugin.answer(AUTH, duration="0s")
    provider = replace(PROVIDER, token_attributes=ACCOUNTS)
    first, other = (make(provider).ask(provider, REFERENCE, jwt(account))[0] for account in ("a", "b"))
    plugin.answer({"*.example.com": {"username": "node", "password": "renewed"}}, duration="0s")
    second = make(provider).ask(provider, REFERENCE, jwt("a", "2"))[0]
    by_token = replace(provider, token_attributes=TOKENS)
    third, fourth = (make(by_token).ask(by_token, REFERENCE, jwt(account))[0] for account in ("a", "b"))

    assert first.fingerprint(b"salt") == second.fingerprint(b"salt")
    assert first.fingerprint(b"salt") != other.fingerprint(b"salt")
    assert "" == third.identity == fourth.identity


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"kind": "Other"}, "is no CredentialProviderResponse"),
        ({"apiVersion": "credentialprovider.kubelet.k8s.io/v1beta1"}, "is no CredentialProviderResponse"),
        ({"cacheKeyType": "Pod"}, "has no cacheKeyType of"),
        ({"cacheDuration": "-1s"}, "has a cacheDuration that is no duration"),
        ({"auth": ["hunter2"]}, "no map of a username and password"),
        ({"auth": {"x": "hunter2"}}, "no map of a username and password"),
        ({"auth": {"x": {"password": ["hunter2"]}}}, "no map of a username and password"),
    ],
)
def test_an_answer_of_another_form_is_refused(
    answer: dict[str, object], message: str, plugin: Plugin, make: Callable[..., Providers]
) -> None:
    """Without its content, and nothing is kept."""
    plugin.change(AUTH, answer)
    with pytest.raises(InvalidRequest) as caught:
        make().ask(PROVIDER, REFERENCE, "")

    assert message in caught.value.message
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo hunter2 >&2; exit 3", "the credential provider plugin failed (exit status 3)"),
        ("echo hunter2", "the answer of the credential provider plugin is not a JSON object"),
        ("exec cat /dev/zero", "plugin prints over 1048576 bytes"),
        ("echo 'hunter2'; exec sleep 60", "the credential provider plugin did not answer within 0.5 s"),
    ],
)
def test_a_plugin_that_fails(script: str, message: str, plugin: Plugin, make: Callable[..., Providers]) -> None:
    """The error says how, and nothing that it printed, in no member of the chain."""
    plugin.script(script)
    with pytest.raises(InvalidRequest) as caught:
        make(seconds=0.5).ask(PROVIDER, REFERENCE, "")

    assert message == caught.value.message
    assert "hunter2" not in f"{caught.value!r}{caught.value.__context__!r}{caught.value.__cause__!r}"


def test_an_absent_plugin_is_named_with_its_path(tmp_path: Path, make: Callable[..., Providers]) -> None:
    """An admin must know where it was looked for."""
    with pytest.raises(InvalidRequest, match=f"cannot be started: {tmp_path}/plugin: No such file"):
        make().ask(PROVIDER, REFERENCE, "")


def test_a_plugin_that_hangs_is_killed_with_its_children(
    tmp_path: Path, plugin: Plugin, make: Callable[..., Providers]
) -> None:
    """Nothing of it stays on the node."""
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    plugin.script(f"exec 3>{alive}; echo started >&3; sleep 60 & wait")
    with pytest.raises(InvalidRequest, match="did not answer within"):
        make(seconds=0.5).ask(PROVIDER, REFERENCE, "")
    os.set_blocking(reader, True)
    told = [os.read(reader, 100), os.read(reader, 100) if select.select([reader], [], [], 10)[0] else b"still open"]
    os.close(reader)

    assert [b"started\n", b""] == told


def test_the_environment_is_what_was_given(
    tmp_path: Path, plugin: Plugin, make: Callable[..., Providers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own variables and arguments, and none of the driver's."""
    monkeypatch.setenv("DRIVER_SECRET", "hunter2")
    plugin.answer({"*.*.*": {"username": "USER", "password": "PASSWORD"}})
    plugin.script(f'sed "s/USER/$PROFILE-$1/; s/PASSWORD/<$DRIVER_SECRET>/" {tmp_path}/plugin.json')
    provider = replace(PROVIDER, args=("get",), env={"PROFILE": "models"})
    found = make(provider).ask(provider, REFERENCE, "")

    assert ("models-get", "<>") == (found[0].username, found[0].password)


def test_of_many_who_ask_at_once_one_runs_the_program(
    tmp_path: Path, plugin: Plugin, make: Callable[..., Providers]
) -> None:
    """Fifty pods of one model start at once."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    plugin.script(f"read line < {gate}; cat {tmp_path}/plugin.json")
    providers, started = make(), threading.Barrier(9)

    def ask() -> tuple[Credentials, ...]:
        started.wait(10)
        return providers.ask(PROVIDER, REFERENCE, "")

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        started.wait(10)
        gate.write_text("go\n", encoding="utf-8")
        found = [answer.result(20) for answer in asking]

    assert [FOUND] * 8 == found
    assert 1 == len(plugin.asked)


@pytest.mark.parametrize(
    ("glob", "image", "expected"),
    [
        ("*.example.com", "registry.example.com/m", True),
        ("*.example.com", "a.registry.example.com/m", False),
        ("*.*.example.com", "a.registry.example.com/m", True),
        ("registry.*", "registry.example.com/m", False),
        ("reg*.example.com", "registry.example.com/m", True),
        ("registr?.example.com", "registry.example.com/m", True),
        ("registr[x-z].example.com", "registry.example.com/m", True),
        ("registr[^x-z].example.com", "registry.example.com/m", False),
        ("registr[z-x].example.com", "registry.example.com/m", False),
        ("registr[y.example.com", "registry.example.com/m", False),
        ("registry.example.com", "registry.example.com:5000/m", False),
        ("registry.example.com:5000", "registry.example.com:5000/m", True),
        ("*.example.com:5000", "registry.example.com/m", False),
        ("registry.example.com/team", "registry.example.com/team/m", True),
        ("registry.example.com/team", "registry.example.com/team-b/m", True),
        ("registry.example.com/team/m", "registry.example.com/team", False),
        ("docker.io", "docker.io/library/m", True),
    ],
)
def test_images_are_matched_as_kubelet_does(glob: str, image: str, expected: bool, tmp_path: Path) -> None:
    """Globs within a label, equal ports, a prefix of the path wherever it ends (`URLsMatch`)."""
    providers = Providers([replace(PROVIDER, match_images=("other.test", glob))], tmp_path, {})

    assert expected == bool(providers.for_reference(Reference.parse(image)))
