"""`modelcsi pack`, `push`, `inspect` and `pull` as a person runs them, against the real registry."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.registry import DockerRegistry, running_docker_registry

FORMATS = ("raw", "tar", "tar+gzip", "tar+zstd")
MIB = 1 << 20
LARGE = 700 * MIB
"""Several parts of an upload, the last one incomplete."""
MODES = {
    "config.json": 0o644,
    "model-00001-of-00002.safetensors": 0o644,
    "model-00002-of-00002.safetensors": 0o600,
    "text_encoder/model.safetensors": 0o444,
    "scripts/run.sh": 0o755,
    "empty.json": 0o640,
    "README.md": 0o644,
    "tokenizer_é.json": 0o664,
}
# alice's password is s3cret; bcrypt, since the registry knows nothing else
HTPASSWD = "alice:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", "modelcsi.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DOCKER_CONFIG": "/nonexistent", **environment},
    )


def answer(*arguments: object, **environment: str) -> dict[str, Any]:
    """The JSON that a command prints when it succeeds."""
    result = run(*arguments, "--json", **environment)
    assert result.returncode == 0, result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def tree(root: Path) -> dict[str, tuple[bytes, bool, int]]:
    """Content, whether executable, and time of every file."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), bool(path.stat().st_mode & 0o111), int(path.stat().st_mtime))
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where interrupted pushes are noted."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory of random files; 3 MiB, so that no buffer holds a file at once."""
    root = tmp_path / "model"
    source = random.Random(7)  # noqa: S311 - not a secret
    for number, (path, mode) in enumerate(MODES.items()):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if path == "empty.json" else source.randbytes(MIB if "model" in path else 100))
        file.chmod(mode)
        os.utime(file, (1_700_000_000 + number, 1_700_000_000 + number))
    return root


@pytest.mark.parametrize("layer_format", FORMATS)
def test_packed_model_comes_back_as_it_was(
    docker_registry: DockerRegistry, model: Path, tmp_path: Path, layer_format: str
) -> None:
    """Every format goes to the registry and comes back bit for bit, with its modes and times; the second push sends nothing."""
    reference = f"{docker_registry.host}/pack/{layer_format.replace('+', '-')}:v1"
    packed = answer("pack", model, reference, "--format", layer_format, "--keep-times")
    pushed = answer("push", f"{model}.oci", reference)
    again = answer("push", f"{model}.oci", reference)
    pulled = answer("pull", reference, tmp_path / "pulled")

    assert {packed["digest"]} == {pushed["digest"], again["digest"], pulled["digest"]}
    assert (len(MODES), 0) == (packed["files"], again["sent_bytes"])
    assert tree(model) == tree(tmp_path / "pulled")


def test_pack_and_push_at_once_leave_no_layout(docker_registry: DockerRegistry, model: Path) -> None:
    """With --push the layout is temporary, and the digest is that of packing alone."""
    reference = f"{docker_registry.host}/pack/at-once:v1"
    pushed = answer("pack", model, reference, "--push")

    assert [model] == list(model.parent.iterdir())
    assert (None, pushed["digest"]) == (pushed["layout"], answer("pack", model, reference)["digest"])


def test_inspect_tells_what_is_there(docker_registry: DockerRegistry, model: Path) -> None:
    """Kind, digest, files with class and codec, and what the config says of the model."""
    (model / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    reference = f"{docker_registry.host}/pack/inspected:v1"
    packed = answer("pack", model, reference, "--push", SOURCE_DATE_EPOCH="1600000000")
    told = answer("inspect", reference)

    assert ("modelpack", packed["digest"]) == (told["kind"], told["digest"])
    assert sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) == told["size_bytes"]
    assert set(MODES) == {layer["path"] for layer in told["layers"]}
    assert {"raw"} == {layer["codec"] for layer in told["layers"]}
    assert {
        "name": "inspected", "family": "qwen3", "created": "2020-09-13T12:26:40Z", "architecture": "transformer",
        "format": "safetensors",
    } == told["model"]  # fmt: skip


def test_inspect_speaks_to_people(docker_registry: DockerRegistry, model: Path) -> None:
    """A table of the files, in columns."""
    reference = f"{docker_registry.host}/pack/shown:v1"
    answer("pack", model, reference, "--push", "--format", "tar+zstd")
    lines = run("inspect", reference).stdout.splitlines()

    assert reference == lines[0]
    assert ["PATH", "SIZE", "CODEC", "CLASS", "DIGEST"] == next(line for line in lines if "PATH" in line).split()
    (weight,) = [line.split() for line in lines if line.startswith("text_encoder/")]
    assert ["text_encoder/model.safetensors", "1.0", "MiB", "tar+zstd", "weight"] == weight[:5]


def test_inspect_of_nothing_fails(docker_registry: DockerRegistry) -> None:
    """Exit status 1, what and which on standard error, and no traceback."""
    result = run("inspect", f"{docker_registry.host}/pack/nothing:v1")

    assert (1, "") == (result.returncode, result.stdout)
    assert f"modelcsi: {docker_registry.host}/pack/nothing:v1 does not exist" in result.stderr
    assert 2 == len(result.stderr.splitlines())


def test_password_of_the_docker_config_is_used(model: Path, tmp_path: Path) -> None:
    """The same file works for push, inspect and pull; without it the way to log in is told."""
    (tmp_path / "registry").mkdir()
    with running_docker_registry(tmp_path / "registry", htpasswd=HTPASSWD) as registry:
        reference = f"{registry.host}/private/model:v1"
        refused = run("pack", model, reference, "--push")
        (tmp_path / "config.json").write_text(
            json.dumps({"auths": {registry.host: {"auth": base64.b64encode(b"alice:s3cret").decode()}}})
        )
        pushed = answer("pack", model, reference, "--push", "--docker-config", tmp_path)
        told = answer("inspect", reference, "--docker-config", tmp_path)
        pulled = answer("pull", reference, tmp_path / "pulled", "--docker-config", tmp_path)

    assert (1, True) == (refused.returncode, f"docker login {registry.host}" in refused.stderr)
    assert {pushed["digest"]} == {told["digest"], pulled["digest"]}


def test_interrupted_pack_leaves_nothing(model: Path) -> None:
    """Ctrl-C ends it with the shell's status, without a traceback and without files."""
    with (model / "huge.bin").open("wb") as file:
        file.truncate(64 << 30)  # a hole: it takes no space, and longer than a test to pack
    process = subprocess.Popen(
        [sys.executable, "-m", "modelcsi.cli.main", "pack", model, "127.0.0.1:1/a/b:c", "--format", "tar+zstd"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(model.parent.glob(".model.oci.*/new/blobs/sha256/.new")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)

    assert (130, "\ninterrupted\n") == (process.returncode, errors)
    assert [model] == list(model.parent.iterdir())


def test_memory_of_a_push_is_bounded(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    """A blob of 512 MiB is packed and pushed in a process that may have 400 MiB of address space for data."""
    model = tmp_path / "large"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(512 * MIB)
    reference = f"{docker_registry.host}/pack/large:v1"
    command = f"ulimit -d {400 * 1024}; exec {sys.executable} -m modelcsi.cli.main pack {model} {reference} --push"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert (0, "") == (result.returncode, result.stderr)


def uploaded_bytes(registry: DockerRegistry, repository: str) -> int:
    """How much of unfinished uploads the registry holds."""
    uploads = registry.storage / "docker/registry/v2/repositories" / repository / "_uploads"
    return sum(path.stat().st_size for path in uploads.glob("*/data"))


def interrupted(signal_number: int, registry: DockerRegistry, layout: Path, repository: str, size: int) -> int:
    """A push that gets a signal when the registry has `size` bytes of the upload; its exit status."""
    process = subprocess.Popen(
        [sys.executable, "-m", "modelcsi.cli.main", "push", layout, f"{registry.host}/{repository}:v1"],
        env={**os.environ, "DOCKER_CONFIG": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while uploaded_bytes(registry, repository) < size:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal_number)
    process.communicate(timeout=60)
    return process.returncode


def test_push_that_is_interrupted_goes_on_inside_a_blob(
    docker_registry: DockerRegistry, tmp_path: Path, cache_home: Path
) -> None:
    """Ctrl-C in the middle of a large blob, twice: neither time what had arrived is sent again."""
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "model.safetensors").open("wb") as file:
        file.truncate(LARGE)
    layout = tmp_path / "large.oci"
    answer("pack", tmp_path / "large", "registry.test/a/b:v1")
    statuses = [
        interrupted(signal.SIGINT, docker_registry, layout, "pack/interrupted", size) for size in (1, 200 * MIB)
    ]
    kept = uploaded_bytes(docker_registry, "pack/interrupted")
    pushed = answer("push", layout, f"{docker_registry.host}/pack/interrupted:v1")

    assert [130, 130] == statuses
    assert 200 * MIB <= kept < LARGE
    assert LARGE - kept == pushed["sent_bytes"]
    assert [] == list(cache_home.rglob("*/uploads/*"))


def test_push_that_was_killed_is_made_again(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    """SIGKILL may come within a part, where this registry cannot go on: then the blob begins anew, and arrives."""
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "model.safetensors").open("wb") as file:
        file.truncate(LARGE)
    layout = tmp_path / "large.oci"
    packed = answer("pack", tmp_path / "large", "registry.test/a/b:v1")
    status = interrupted(signal.SIGKILL, docker_registry, layout, "pack/killed", 100 * MIB)
    pushed = answer("push", layout, f"{docker_registry.host}/pack/killed:v1")

    assert -signal.SIGKILL == status
    assert packed["digest"] == pushed["digest"]
    assert LARGE >= pushed["sent_bytes"]
