"""`modelcsi pull REF DIR`: for people, without a driver and without root's mounts; interrupted, it goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.registry import Auth, FakeRegistry, User
from tests.integration.credentials import docker_secret
from tests.integration.driver import PROGRAM, eventually
from tests.integration.models import MIB, Format, promised, push, random_files, shown

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def pull(*arguments: str | Path, docker_config: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [PROGRAM, "pull", *arguments, "--docker-config", docker_config],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def docker_config(tmp_path: Path) -> Path:
    """An empty docker configuration."""
    path = tmp_path / "docker"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted_pull_goes_on(
    registry: FakeRegistry, tmp_path: Path, docker_config: Path, packed: Format, number: signal.Signals
) -> None:
    """Ctrl-C or a kill at half: nothing is under the directory's name; the same command again needs the other half only."""
    registry.faults.bytes_per_second = 40 * MIB
    model = push(registry.content, "pull/half", random_files(("pull", packed), 24 * MIB), packed)
    target = tmp_path / "model"
    process = subprocess.Popen(
        [PROGRAM, "pull", model.at(registry.host), target, "--docker-config", docker_config],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        eventually(lambda: registry.bytes_served.total() >= model.size_bytes // 2, "half of it came")
        os.kill(process.pid, number)
        _, told = process.communicate(timeout=20)
    is_visible = target.exists()
    again = pull(model.at(registry.host), target, docker_config=docker_config)

    assert not is_visible
    assert (-number if number is signal.SIGKILL else INTERRUPTED) == process.returncode
    assert "Traceback" not in told
    assert DONE == again.returncode, again.stderr
    assert promised(model.files) == shown(target)
    assert registry.bytes_served.total() <= 1.3 * model.size_bytes
    assert ["docker", "model"] == sorted(path.name for path in tmp_path.iterdir())


def test_result_is_the_users(registry: FakeRegistry, tmp_path: Path, docker_config: Path) -> None:
    """The files can be written and removed by their owner; --json tells what was pulled; the progress is no noise in it."""
    model = push(registry.content, "pull/json", random_files("json", MIB))
    target = tmp_path / "deep" / "model"
    done = pull(model.at(registry.host), target, "--json", docker_config=docker_config)
    told = json.loads(done.stdout)

    assert DONE == done.returncode
    assert (str(model.digest), str(target), model.size_bytes) == (
        told["digest"],
        told["directory"],
        told["size_bytes"],
    )
    assert all(path.stat().st_mode & 0o200 for path in [target, *target.rglob("*")])
    assert 1 == (target / "tokenizer/vocab.txt").stat().st_nlink


def test_without_weights(registry: FakeRegistry, tmp_path: Path, docker_config: Path) -> None:
    """The flags select as the attributes do; what is not wanted is not fetched."""
    model = push(registry.content, "pull/some", random_files("some", MIB))
    done = pull(model.at(registry.host), tmp_path / "model", "--exclude-model-weights", docker_config=docker_config)

    assert DONE == done.returncode
    assert ["tokenizer/vocab.txt"] == list(shown(tmp_path / "model"))
    assert 0 == registry.blob_gets[str(model.layers[0])]


@pytest.mark.parametrize(
    ("reference", "prepare", "status", "says"),
    [
        ("{host}/pull/known:v9", Path.exists, FAILED, "{host}/pull/known:v9"),
        ("{host}/UPPER:v1", Path.exists, WRONG_USAGE, "UPPER"),
        ("{host}/pull/known:v1", lambda path: path.write_text("a file"), WRONG_USAGE, "model"),
        ("{host}/pull/known:v1", lambda path: (path / "full").mkdir(parents=True), WRONG_USAGE, "empty"),
        ("127.0.0.1:1/pull/known:v1", Path.exists, FAILED, "127.0.0.1:1"),
        ("{host}/pull/damaged:v1", Path.exists, FAILED, "sha256:"),
    ],
    ids=["no-tag", "reference", "file", "not-empty", "down", "damaged"],
)
def test_failure_is_told(
    registry: FakeRegistry,
    tmp_path: Path,
    docker_config: Path,
    reference: str,
    prepare: Callable[[Path], object],
    status: int,
    says: str,
) -> None:
    """One line says what and which; the exit status tells a wrong usage from a failure; nothing is left half-made."""
    push(registry.content, "pull/known", random_files("known", 1000))
    damaged = push(registry.content, "pull/damaged", random_files("damaged", 1000))
    registry.faults.flip_bit_of.add(str(damaged.layers[0]))
    target = tmp_path / "model"
    prepare(target)
    before = sorted(tmp_path.rglob("*"))
    done = pull(reference.format(host=registry.host), target, docker_config=docker_config)

    assert status == done.returncode, done.stderr
    assert says.format(host=registry.host) in done.stderr
    assert "Traceback" not in done.stderr
    assert before == sorted(path for path in tmp_path.rglob("*") if ".modelcsi-pull" not in str(path))


def test_private_model(tmp_path: Path, docker_config: Path) -> None:
    """The user's docker config is used; without it the registry's refusal is told, and no password is shown."""
    with FakeRegistry(auth=Auth.BEARER, users={"alice": User("correct-Horse-7")}) as registry:
        model = push(registry.content, "pull/private", random_files("private", 1000))
        refused = pull(model.at(registry.host), tmp_path / "model", docker_config=docker_config)
        secret = docker_secret(registry.host, "correct-Horse-7")[".dockerconfigjson"]
        (docker_config / "config.json").write_text(secret)
        done = pull(model.at(registry.host), tmp_path / "model", docker_config=docker_config)

    assert [FAILED, DONE] == [refused.returncode, done.returncode]
    assert registry.host in refused.stderr
    assert "correct-Horse-7" not in done.stderr + done.stdout
    assert promised(model.files) == shown(tmp_path / "model")
