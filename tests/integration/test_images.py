"""Container images on a real driver: those that buildah makes, those that it unpacks, and a driver that dies on the way."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.fakes.content import Content
from tests.fakes.kubelet import NON_FINAL, PodVolume
from tests.fakes.registry import FakeRegistry
from tests.images import Change, Tree, directory, file, push_image, random_layers, symlink, tar, with_parents
from tests.integration.conftest import MakeDriver
from tests.integration.driver import Driver, eventually, measured_memory
from tests.integration.models import MIB, upload
from tests.integration.registry import DockerRegistry
from tests.integration.test_inspect import run

OK = grpc.StatusCode.OK
_RANDOM_IMAGES = 12
_SIZE = 32 * MIB


class Buildah:
    """The real program, with a store of its own in which each layer is a directory."""

    def __init__(self, root: Path) -> None:
        store = ["--root", str(root / "root"), "--runroot", str(root / "run"), "--storage-driver", "vfs"]
        self._command = ["buildah", *store]
        self._policy = root / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def __call__(self, command: str, *arguments: str) -> str:
        """What the command says on standard output, without the last newline."""
        run = subprocess.run(
            [*self._command, command, *arguments], check=False, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    def pulled(self, reference: str) -> Path:
        """The root of an image from a registry, unpacked."""
        policy = ("--signature-policy", str(self._policy))
        container = self("from", "--tls-verify=false", "--pull-always", *policy, f"docker://{reference}")
        return Path(self("mount", container))

    def commit(self, container: str, reference: str, *flags: str, compression: str = "gzip") -> None:
        """Make an image of a container, and push it."""
        policy = ("--signature-policy", str(self._policy))
        name = f"localhost/{reference.rpartition('/')[2]}"
        self("commit", *policy, *flags, container, name)
        self("push", "--tls-verify=false", "--compression-format", compression, *policy, name, f"docker://{reference}")

    def begin(self, image: str) -> tuple[str, Path]:
        """A container, and its root."""
        policy = ("--signature-policy", str(self._policy))
        container = self("from", *policy, image)
        return container, Path(self("mount", container))


@pytest.fixture
def buildah(tmp_path: Path, as_root: None) -> Iterator[Buildah]:
    """Buildah with an empty store."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not here")
    program = Buildah(tmp_path)
    yield program
    program("umount", "--all")


def found(root: Path) -> Tree:
    """What is below a directory."""
    tree: Tree = {}
    for parent, directories, files in os.walk(root):
        for path in (Path(parent, name) for name in (*directories, *files)):
            what = str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
            tree[str(path.relative_to(root))] = what
    return tree


def publish(driver: Driver, reference: str, **attributes: str) -> Path:
    """Where a volume is mounted."""
    name = "-".join([reference.rpartition("/")[2].replace(":", "-"), *attributes.values()]).replace("/", "-")
    volume = PodVolume(name, {"modelRef": reference, **attributes})
    answer = driver.kubelet.publish(volume)
    assert answer.is_ok, answer.text
    return driver.kubelet.target(volume)


@pytest.mark.timeout(600)
def test_random_images_are_what_buildah_unpacks(
    driver: Driver, docker_registry: DockerRegistry, buildah: Buildah
) -> None:
    """Of an image, what the layers make of the shown directory is shown, as a container would see it; links that lead out of it are
    refused.

    Directory for directory, whatever their layers do to each other.
    """
    content = Content()
    for seed in range(_RANDOM_IMAGES):
        layers = [
            [directory("models"), file("models/keep")],
            *map(with_parents, random_layers(random.Random(seed))),  # noqa: S311 - not cryptography
            [file("models/last")],
        ]
        push_image(content, "images/random", f"v{seed}", *layers, codec=("", "gzip", "zstd")[seed % 3])
    upload(content, docker_registry.host)
    references = [f"{docker_registry.host}/images/random:v{seed}" for seed in range(_RANDOM_IMAGES)]
    expected = [found(buildah.pulled(reference) / "models") for reference in references]

    assert expected == [found(publish(driver, reference)) for reference in references]


@pytest.mark.parametrize(
    ("form", "compression"), [("oci", "gzip"), ("docker", "gzip"), ("oci", "zstd"), ("oci", "zstd:chunked")]
)
def test_an_image_that_buildah_made(
    driver: Driver, docker_registry: DockerRegistry, buildah: Buildah, form: str, compression: str
) -> None:
    """Two layers, of which the second deletes, replaces and links what the first one has."""
    container, root = buildah.begin("scratch")
    models = root / "models"
    (models / "old").mkdir(parents=True)
    (root / "bin").mkdir()
    for path in ("models/a.gguf", "models/gone", "models/dir", "models/old/x", "models/old/y", "bin/sh"):
        (root / path).write_text(path)
    reference = f"{docker_registry.host}/images/{form}:base"
    buildah.commit(container, reference, "--format", form)
    container, root = buildah.begin("localhost/" + reference.rpartition("/")[2])
    models = root / "models"
    (models / "gone").unlink()
    (models / "dir").unlink()
    (models / "dir").mkdir()
    (models / "dir" / "new").write_text("new")
    shutil.rmtree(models / "old")
    (models / "old").mkdir()
    (models / "old" / "z").write_text("z")
    (models / "hard").hardlink_to(models / "a.gguf")
    (models / "soft").symlink_to("dir/new")
    (models / "absolute").symlink_to("/models/dir/new")
    (models / "run.sh").write_text("#!/bin/sh")
    (models / "run.sh").chmod(0o700)
    expected = found(models) | {"absolute": "dir/new"}
    reference = f"{docker_registry.host}/images/{form}:{len(compression)}"
    buildah.commit(container, reference, "--format", form, compression=compression)
    target = publish(driver, reference)

    assert expected == found(target)
    assert (target / "absolute").read_text() == "new"
    assert 0o544 == (target / "run.sh").stat().st_mode & 0o777
    assert {"sh": b"bin/sh"} == found(publish(driver, reference, subPath="bin"))


@pytest.mark.parametrize("codec", ["", "gzip"])
def test_killed_pull_of_an_image_goes_on(make_driver: MakeDriver, registry: FakeRegistry, codec: str) -> None:
    """kill -9 in the model's layer: what was received of it is not fetched again, and the base layer not at all."""
    driver = make_driver()
    registry.faults.bytes_per_second = 24_000_000
    parts = {f"m{number}": random.Random(number).randbytes(_SIZE // 4) for number in range(4)}  # noqa: S311 - noise
    model: list[Change] = [file("etc/x"), *(file(f"models/{name}", data) for name, data in parts.items())]
    base, layer = push_image(registry.content, "images/kill", "v1", [file("bin/sh", bytes(MIB))], model, codec=codec)
    volume = PodVolume("killed", {"modelRef": f"{registry.host}/images/kill:v1"})
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(driver.kubelet.publish, volume)
        eventually(functools.partial(_has_served, registry, layer, _SIZE // 2), "half of the model came")
        driver.kill()
        assert answer.result().code in NON_FINAL
    driver.start()
    answers = driver.kubelet.set_up(volume, within_seconds=60)

    assert OK == answers[-1].code
    assert parts == found(driver.kubelet.target(volume))
    assert 1 == registry.blob_gets[base]
    assert registry.bytes_served[layer] <= 1.3 * _SIZE
    assert [] == list((driver.root_dir / "ingest").iterdir())


def _has_served(registry: FakeRegistry, digest: str, size: int) -> bool:
    return registry.bytes_served[digest] > size


def test_an_image_is_mounted_again_when_all_databases_are_lost(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """Its layers are known by their records: nothing is fetched a second time, and no base layer is missed."""
    driver = make_driver()
    layers = [[file("bin/sh")], [file("models/m", b"1"), symlink("models/l", "m")], []]
    digests = push_image(registry.content, "images/lost", "v1", *layers)
    first = publish(driver, f"{registry.host}/images/lost:v1")
    driver.kill()
    for path in driver.root_dir.glob("state.db*"):
        path.unlink()
    driver.start()
    volume = PodVolume("again", {"modelRef": f"{registry.host}/images/lost:v1"})

    assert driver.kubelet.publish(volume).is_ok
    assert {"m": b"1", "l": "m"} == found(first) == found(driver.kubelet.target(volume))
    assert [1, 1, 1] == [registry.blob_gets[digest] for digest in digests]


def test_a_base_layer_of_very_many_members_takes_no_memory(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """300,000 files that nobody sees: neither a limit nor the driver's memory notices."""
    driver = make_driver()
    reference = f"{registry.host}/images/many:v1"
    push_image(registry.content, "images/many", "small", [file("models/m", b"0")])
    publish(driver, f"{registry.host}/images/many:small")
    before = driver.rss_anon_bytes()
    header = tar([file("usr/share/doc/packages/x", b"")])[:512]
    push_image(registry.content, "images/many", "v1", header * 300_000 + tar([]), [file("models/m", b"1")])
    with measured_memory(driver) as peak:
        target = publish(driver, reference)

    assert {"m": b"1"} == found(target)
    assert peak[0] - before < 48 * MIB


@pytest.mark.parametrize(
    ("tag", "flags"),
    [
        ("models", ()),
        ("models", ("--include", "d/", "--exclude", "*.bin")),
        ("models", ("--sub-path", "opt")),
        ("models", ("--sub-path", "models/now")),
        ("root", ()),
    ],
)
def test_inspect_and_pull_agree_on_an_image(
    registry: FakeRegistry, tmp_path: Path, tag: str, flags: tuple[str, ...]
) -> None:
    """What is listed, with the paths that patterns are held against, is what a directory gets."""
    model = [file("models/d/a"), file("models/d/b.bin", b"1"), file("models/c"), symlink("models/now", "/models/d")]
    layers = [[file("opt/x"), file("models/c", b"old")], model] if tag == "models" else [[file("w.gguf"), file("x/y")]]
    digests = push_image(registry.content, "images/inspect", tag, *layers)
    reference = f"{registry.host}/images/inspect:{tag}"
    told = json.loads(run("inspect", reference, "--json", *flags).stdout)
    run("pull", reference, tmp_path / "out", *flags)
    wanted = {entry["path"] for entry in told["files"] if entry["wanted"]}

    assert ("image", digests) == (told["kind"], told["selection"]["layers"])
    assert wanted == {path for path, what in found(tmp_path / "out").items() if what is not None}
    assert wanted


def test_inspect_says_why_an_image_cannot_be_mounted(registry: FakeRegistry) -> None:
    """Its layers are listed all the same."""
    push_image(registry.content, "images/plain", "v1", [file("bin/sh")])
    told = json.loads(run("inspect", f"{registry.host}/images/plain:v1", "--json").stdout)

    assert "a container image without a model" in told["warnings"][0]
    assert 1 == len(told["layers"])
