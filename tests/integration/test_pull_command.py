"""`modelcsi pull REF DIR`: for people, without a driver and without root's mounts; interrupted, it goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modelcsi.store.store import Store
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
    is_final = not reference.startswith("127.0.0.1:1/")
    assert before == sorted(path for path in tmp_path.rglob("*") if is_final or ".modelcsi-pull" not in str(path))


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
    assert "docker login" in refused.stderr
    assert "correct-Horse-7" not in done.stderr + done.stdout
    assert promised(model.files) == shown(tmp_path / "model")


def test_a_second_pull_into_a_directory(registry: FakeRegistry, tmp_path: Path, docker_config: Path) -> None:
    """Is told what to do, by somebody who knows of no driver."""
    model = push(registry.content, "pull/busy", random_files("busy", 1000))
    with closing(Store(tmp_path / ".model.modelcsi-pull")):
        done = pull(model.at(registry.host), tmp_path / "model", docker_config=docker_config)

    assert FAILED == done.returncode
    assert "another pull into this directory" in done.stderr


@pytest.fixture(params=["tmpfs", "bind", "symlink", "dangling", "empty"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory that is there before the pull, of every sort that nothing can be renamed over."""
    path, other = tmp_path / "model", tmp_path / "other"
    if request.param in {"symlink", "dangling"}:
        path.symlink_to(other)
    if request.param in {"symlink", "bind"}:
        other.mkdir()
    if request.param in {"tmpfs", "bind", "empty"}:
        path.mkdir()
    mounting = {"tmpfs": ["-t", "tmpfs", "tmpfs"], "bind": ["--bind", str(other)]}.get(request.param, [])
    if not mounting:
        yield path
        return
    request.getfixturevalue("as_root")
    subprocess.run(["mount", *mounting, path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def test_into_what_is_there(registry: FakeRegistry, tmp_path: Path, docker_config: Path, place: Path) -> None:
    """A volume of a pod, a symlink: the files come into it, it stays what it is, and nothing else is left."""
    model = push(registry.content, "pull/place", random_files("place", MIB))
    refused = pull(f"{registry.host}/pull/place:v9", place, docker_config=docker_config)
    was_there, was_symlink = place.exists(), place.is_symlink()
    left = list(place.iterdir()) if was_there else []
    done = pull(model.at(registry.host), place, docker_config=docker_config)

    assert [FAILED, []] == [refused.returncode, left]
    assert DONE == done.returncode, done.stderr
    assert promised(model.files) == shown(place)
    assert was_symlink is place.is_symlink()
    assert {"docker", "model"} == {path.name for path in tmp_path.iterdir()} - {"other"}
    assert all(path.stat().st_mode & 0o200 for path in place.rglob("*"))


def test_interrupted_pull_into_a_directory_goes_on(registry: FakeRegistry, tmp_path: Path, docker_config: Path) -> None:
    """What came is kept in it, also when a call with a wrong tag comes between."""
    registry.faults.bytes_per_second = 40 * MIB
    model = push(registry.content, "pull/in", random_files("in", 24 * MIB))
    target = tmp_path / "model"
    target.mkdir()
    command = [str(PROGRAM), "pull", model.at(registry.host), str(target), "--docker-config", str(docker_config)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: registry.bytes_served.total() >= model.size_bytes // 2, "half of it came")
        process.kill()
    wrong = pull(f"{registry.host}/pull/in:v9", target, docker_config=docker_config)
    again = pull(model.at(registry.host), target, docker_config=docker_config)

    assert [FAILED, DONE] == [wrong.returncode, again.returncode], again.stderr
    assert promised(model.files) == shown(target)
    assert registry.bytes_served.total() <= 1.3 * model.size_bytes


_DIES_AT_REMOVAL = """\
import os, signal, sys
import modelcsi.cli.pull
modelcsi.cli.pull.remove_tree = lambda path: os.kill(os.getpid(), signal.SIGKILL)
from modelcsi.cli.main import main
main()
"""


@pytest.mark.parametrize("exists", [False, True], ids=["new", "there"])
def test_what_the_user_changed_is_never_taken_for_the_model(
    registry: FakeRegistry, tmp_path: Path, docker_config: Path, exists: bool
) -> None:
    """A kill just before the store is removed leaves links of the user's files; the next pull is of the model's bytes."""
    model = push(registry.content, "pull/edited", random_files("edited", MIB))
    target = tmp_path / "model"
    if exists:
        target.mkdir()
    arguments = ["pull", model.at(registry.host), str(target), "--docker-config", str(docker_config)]
    killed = subprocess.run([sys.executable, "-c", _DIES_AT_REMOVAL, *arguments], capture_output=True, check=False)
    handed_over = {path: text for path, text in shown(target).items() if ".modelcsi-pull" not in path}
    for path in model.files:
        with (target / path).open("r+b") as file:
            file.write(b"edited")
    for child in target.iterdir():
        if not child.name.startswith(".modelcsi-pull"):
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    if not exists:
        target.rmdir()
    again = pull(model.at(registry.host), target, docker_config=docker_config)

    assert -signal.SIGKILL == killed.returncode
    assert promised(model.files) == handed_over
    assert DONE == again.returncode, again.stderr
    assert promised(model.files) == shown(target)
    assert ["docker", "model"] == sorted(path.name for path in tmp_path.iterdir())


_DIES_WHILE_MOVING = """\
import os, signal, sys
rename, moved = os.rename, 0
def dying(*arguments, **options):
    global moved
    moved += "src_dir_fd" in options
    if moved == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(*arguments, **options)
os.rename = dying
from modelcsi.cli.main import main
main()
"""


@pytest.mark.parametrize("packed", [Format.TAR, Format.TAR_ZSTD], ids=lambda packed: packed.value)
@pytest.mark.parametrize("flags", [(), ("--exclude", "model-00099*")], ids=["same", "other"])
@pytest.mark.parametrize("exists", [False, True], ids=["new", "there"])
def test_killed_while_files_are_moved(
    registry: FakeRegistry, tmp_path: Path, docker_config: Path, packed: Format, flags: tuple[str, ...], exists: bool
) -> None:
    """Half of the files went into the tree: the same command fetches nothing again, another one gets what it asks for."""
    model = push(registry.content, "pull/moved", random_files("moved", *[1000] * 100), packed)
    target = tmp_path / "model"
    if exists:
        target.mkdir()
    arguments = ["pull", model.at(registry.host), str(target), "--docker-config", str(docker_config)]
    killed = subprocess.run([sys.executable, "-c", _DIES_WHILE_MOVING, *arguments], capture_output=True, check=False)
    is_visible = target.exists() and any(not path.name.startswith(".modelcsi-pull") for path in target.iterdir())
    again = pull(model.at(registry.host), target, *flags, docker_config=docker_config)

    assert (-signal.SIGKILL, False) == (killed.returncode, is_visible)
    assert DONE == again.returncode, again.stderr
    assert promised({path: data for path, data in model.files.items() if not flags or "99" not in path}) == shown(
        target
    )
    assert (2 if flags else 1) == registry.blob_gets[str(model.layers[0])]
    assert ["docker", "model"] == sorted(path.name for path in tmp_path.iterdir())


def test_flags_choose_files(registry: FakeRegistry, tmp_path: Path, docker_config: Path) -> None:
    """As the attributes of their names do; what is not wanted is not fetched."""
    files = {"onnx/model.onnx": b"1", "onnx/config.json": b"2", "onnx/README.md": b"3", "config.json": b"4"}
    model = push(registry.content, "pull/chosen", files)
    flags = ("--sub-path", "onnx", "--include", "*.json,*.md", "--exclude", '["*.md"]')
    done = pull(model.at(registry.host), tmp_path / "model", *flags, docker_config=docker_config)

    assert DONE == done.returncode, done.stderr
    assert promised({"config.json": b"2"}) == shown(tmp_path / "model")
    assert {str(model.layers[1]): 1} == registry.blob_gets


@pytest.mark.parametrize(
    ("flags", "status", "says"),
    [
        (("--include", "*.gguf"), FAILED, "no file is matched by include '*.gguf'"),
        (("--sub-path", "none"), FAILED, "the artifact has no directory 'none'"),
        (("--include", "[1]"), WRONG_USAGE, "the value of --include, '[1]', is not a JSON array of strings"),
        (("--exclude", "a" * 2000), WRONG_USAGE, "the value of --exclude"),
        (("--sub-path", "../up"), WRONG_USAGE, "the value of --sub-path"),
        (("--exclude-file-patterns", "*.bin"), WRONG_USAGE, "the value of --exclude-file-patterns"),
        (("--layout", "huggingface-hub", "--model-name", "a/b/c"), WRONG_USAGE, "the value of --model-name"),
        (("--model-name", "a/b"), WRONG_USAGE, "without a layout"),
    ],
)
def test_wrong_choices(
    registry: FakeRegistry, tmp_path: Path, docker_config: Path, flags: tuple[str, ...], status: int, says: str
) -> None:
    """The answer names the flag, or the patterns that match nothing, and nothing is left behind."""
    model = push(registry.content, "pull/wrong", random_files("wrong", 100))
    done = pull(model.at(registry.host), tmp_path / "model", *flags, docker_config=docker_config)

    assert (status, True) == (done.returncode, says in done.stderr), done.stderr
    assert 2 == len(done.stderr.splitlines()) or status == WRONG_USAGE
    assert ["docker"] == [path.name for path in tmp_path.iterdir()]
