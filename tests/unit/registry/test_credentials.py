from __future__ import annotations

import json
import logging
import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.registry.caller import Caller
from modelcsi.registry.credentials import ANONYMOUS, Credentials, Keychain

_REFERENCE = Reference.parse("registry.example.com/m/x:v1")
_NODE = "the node's docker config"


def _config(directory: Path, **content: object) -> Keychain:
    (directory / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return Keychain(directory, helper_seconds=5)


def _found(keychain: Keychain, secrets: dict[str, str] | None = None) -> tuple[Credentials, ...]:
    return tuple(keychain.candidates(_REFERENCE, Caller(secrets or {})))


def _entry(user: str) -> dict[str, str]:
    return {"username": user, "password": "s3cret"}


def _secret(key: str = ".dockerconfigjson", host: str = "registry.example.com") -> dict[str, str]:
    auths = {host: _entry("pod")}
    return {key: json.dumps({"auths": auths} if key == ".dockerconfigjson" else auths)}


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a docker credential helper, a shell script, on the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    def install(name: str, script: str) -> None:
        path = programs / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    return install


@pytest.mark.parametrize("key", [".dockerconfigjson", ".dockercfg"])
def test_a_secret_for_the_registry_excludes_everything_behind_it(key: str, tmp_path: Path) -> None:
    """Otherwise a pod with wrong credentials would see what only the node may pull."""
    keychain = _config(tmp_path, auths={"registry.example.com": _entry("node")})

    assert (Credentials("pod", "s3cret", source="the volume's secret"),) == _found(keychain, _secret(key))


def test_a_secret_for_another_registry_leaves_the_nodes_credentials(tmp_path: Path) -> None:
    """The secret has nothing to say about this one."""
    keychain = _config(tmp_path, auths={"registry.example.com": _entry("node")})

    assert (Credentials("node", "s3cret", source=_NODE), ANONYMOUS) == _found(
        keychain, _secret(host="other.example.com")
    )


def test_without_any_source_the_registry_is_asked_anonymously(tmp_path: Path) -> None:
    """No directory, no file, an empty file: public models need none."""
    empty = _config(tmp_path)

    assert (ANONYMOUS,) == _found(Keychain(None))
    assert (ANONYMOUS,) == _found(Keychain(tmp_path / "absent"))
    assert (ANONYMOUS,) == _found(empty)


def test_a_secret_of_another_kind_is_refused_by_the_names_of_its_keys(tmp_path: Path) -> None:
    """The person sees which secret it was, and no value."""
    with pytest.raises(InvalidRequest, match="keys password, username and neither") as caught:
        _found(Keychain(tmp_path), {"username": "alice", "password": "hunter2"})

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", ["{hunter2", "[]", "[" * 100_000, '{"auths": ["hunter2"]}', ""])
@pytest.mark.parametrize("key", [".dockerconfigjson", ".dockercfg"])
def test_a_malformed_secret_is_refused_without_its_content(key: str, content: str, tmp_path: Path) -> None:
    """Neither in the message nor in what the traceback would print."""
    if key == ".dockercfg" and content.startswith('{"auths"'):
        content = '{"registry.example.com": "hunter2"}'
    with pytest.raises(InvalidRequest) as caught:
        _found(Keychain(tmp_path), {key: content})

    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


def test_the_file_is_read_at_each_call(tmp_path: Path) -> None:
    """A rotated token counts at the next attempt."""
    keychain = _config(tmp_path, auths={"registry.example.com": _entry("old")})
    _found(keychain)
    _config(tmp_path, auths={"registry.example.com": _entry("new")})

    assert "new" == _found(keychain)[0].username


@pytest.mark.parametrize("content", ["{hunter2", '{"auths": {"registry.example.com": {"auth": "hunter2"}}}'])
def test_a_broken_node_config_is_warned_about_once(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not the request's fault, and a public model can be pulled."""
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    keychain = Keychain(tmp_path)
    found = [_found(keychain) for _ in range(2)]

    assert [(ANONYMOUS,)] * 2 == found
    assert 1 == len(caplog.records)
    assert "hunter2" not in caplog.text


def test_the_helper_of_the_host_comes_first(tmp_path: Path, helper: Callable[[str, str], None]) -> None:
    """credHelpers, then what the file itself holds; the helper is told the host on its standard input."""
    helper("one", 'read host; echo "{\\"ServerURL\\":\\"x\\",\\"Username\\":\\"$1-$host\\",\\"Secret\\":\\"p\\"}"')
    keychain = _config(
        tmp_path,
        auths={"registry.example.com": _entry("stored")},
        credHelpers={"registry.example.com": "one"},
        credsStore="absent",
    )

    assert (
        Credentials("get-registry.example.com", "p", source="the credential helper docker-credential-one"),
        Credentials("stored", "s3cret", source=_NODE),
        ANONYMOUS,
    ) == _found(keychain)


def test_the_store_serves_hosts_without_a_helper_and_may_give_an_identity_token(
    tmp_path: Path, helper: Callable[[str, str], None]
) -> None:
    """credsStore is for all hosts; Docker's hub has its old name there; `<token>` is no user."""
    helper("store", 'read host; echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"$host\\"}"')
    keychain = _config(tmp_path, credsStore="store", credHelpers={"other.example.com": "absent"})
    found = tuple(keychain.candidates(Reference.parse("gpt2"), Caller()))

    assert "https://index.docker.io/v1/" == found[0].identity_token
    assert "" == found[0].username


def test_an_absent_helper_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Helpers are rarely installed in a driver's container: the pull goes on without."""
    keychain = _config(tmp_path, auths={"registry.example.com": _entry("stored")}, credsStore="surely-absent")
    found = [_found(keychain) for _ in range(2)]

    assert ["stored", "stored"] == [credentials[0].username for credentials in found]
    assert ["docker-credential-surely-absent" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "script", ["echo credentials not found; exit 1", "echo hunter2", 'echo "{}"', "cat >/dev/null"]
)
def test_a_helper_without_an_answer_is_passed_over(
    script: str, tmp_path: Path, helper: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """What it printed is shown nowhere."""
    caplog.set_level(logging.DEBUG)
    helper("odd", script)

    assert (ANONYMOUS,) == _found(_config(tmp_path, credsStore="odd"))
    assert "hunter2" not in caplog.text


def test_a_helper_that_hangs_is_killed_with_its_children(
    tmp_path: Path, helper: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The helper's timeout is the longest that it can hold up a pull."""
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    helper("slow", f"exec 3>{alive}; echo started >&3; sleep 60 & wait")
    _config(tmp_path, credsStore="slow")
    found = _found(Keychain(tmp_path, helper_seconds=0.3))
    os.set_blocking(reader, True)
    told = [os.read(reader, 100), os.read(reader, 100) if select.select([reader], [], [], 10)[0] else b"still open"]
    os.close(reader)

    assert (ANONYMOUS,) == found
    assert "did not answer within 0.3 s" in caplog.text
    assert [b"started\n", b""] == told


def test_a_secret_cannot_name_a_helper(tmp_path: Path, helper: Callable[[str, str], None]) -> None:
    """A tenant's config must not run a program on the node."""
    helper("evil", f"touch {tmp_path}/ran")
    secret = {".dockerconfigjson": json.dumps({"credsStore": "evil", "credHelpers": {"registry.example.com": "evil"}})}

    assert (ANONYMOUS,) == _found(Keychain(tmp_path), secret)
    assert not (tmp_path / "ran").exists()


def test_a_helper_is_a_program_on_the_path(tmp_path: Path) -> None:
    """Its name is no path to another program."""
    assert (ANONYMOUS,) == _found(_config(tmp_path, credsStore="x/../../../bin/cat"))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"serverscheme": "http"}, "http"),
        ({"serverscheme": "HTTPS"}, "https"),
        ({}, None),
        ({"serverscheme": "ftp"}, None),
    ],
)
def test_the_scheme_is_told_by_the_nodes_config(entry: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    """`serverscheme` of the host with its port."""
    keychain = _config(tmp_path, auths={"http://registry.example.com:5000/v2/": entry})

    assert expected == keychain.scheme("registry.example.com:5000")
    assert keychain.scheme("registry.example.com") is None
    assert Keychain(None).scheme("registry.example.com") is None
