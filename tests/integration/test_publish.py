"""A model in a pod: published and unpublished as kubelet does it, from a real registry."""

from __future__ import annotations

import errno
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from modelcsi.mount.table import mounts_at, read_mount_table
from tests.fakes.content import Content
from tests.fakes.kubelet import PodVolume
from tests.integration.driver import SERVICE_NAME, Driver, mount_of
from tests.integration.models import MIB, Format, Model, promised, push, random_bytes, random_files, shown, upload
from tests.integration.registry import DockerRegistry
from tests.integration.traffic import Traffic

OK = grpc.StatusCode.OK


@pytest.fixture(scope="module")
def tiny(docker_registry: DockerRegistry) -> Model:
    """A model that no test of this module expects to be absent."""
    content = Content()
    model = push(content, "publish/tiny", random_files("tiny", MIB))
    upload(content, docker_registry.host)
    return model


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """What a test calls its own repositories and pods."""
    return "".join(char if char.isalnum() else "-" for char in request.node.name.removeprefix("test_")).strip("-")


def uploaded(registry: DockerRegistry, repository: str, files: dict[str, bytes], packed: Format = Format.RAW) -> Model:
    """A model in the real registry."""
    content = Content()
    model = push(content, repository, files, packed)
    upload(content, registry.host)
    return model


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_pod_sees_the_files_of_the_model(driver: Driver, docker_registry: DockerRegistry, packed: Format) -> None:
    """Every format of a layer shows the packed files, and nothing else."""
    model = uploaded(docker_registry, f"publish/{packed.name.lower()}", random_files(packed, 3 * MIB, 100), packed)
    volume = model.volume(docker_registry.host, f"pod-{packed.name}")
    answer = driver.kubelet.publish(volume)

    assert (OK, "") == (answer.code, answer.text)
    assert promised(model.files) == shown(driver.kubelet.target(volume))


@pytest.mark.parametrize("attribute", ["modelRef", f"{SERVICE_NAME}/reference", f"{SERVICE_NAME}/model-ref"])
def test_every_spelling_names_the_model(
    driver: Driver, docker_registry: DockerRegistry, tiny: Model, attribute: str, name: str
) -> None:
    """The short name of the attribute, upstream's, and ours under the driver's name mean the same."""
    volume = PodVolume(name, {attribute: tiny.at(docker_registry.host)})

    assert OK == driver.kubelet.publish(volume).code
    assert promised(tiny.files) == shown(driver.kubelet.target(volume))


@pytest.mark.parametrize("form", ["@{digest}", ":v1@{digest}"])
def test_digests_name_the_model(
    driver: Driver, docker_registry: DockerRegistry, tiny: Model, form: str, name: str
) -> None:
    """A reference may pin the digest, with or without a tag."""
    reference = f"{docker_registry.host}/{tiny.repository}{form.format(digest=tiny.digest)}"
    volume = PodVolume(name, {"modelRef": reference})

    assert OK == driver.kubelet.publish(volume).code
    assert promised(tiny.files) == shown(driver.kubelet.target(volume))


def test_two_pods_share_the_bytes(driver: Driver, docker_registry: DockerRegistry, tiny: Model, name: str) -> None:
    """The second pod costs no download and no disk: both see the same inodes."""
    volumes = [tiny.volume(docker_registry.host, f"{name}-{number}") for number in (1, 2)]
    assert OK == driver.kubelet.publish(volumes[0]).code
    traffic = Traffic(docker_registry)
    assert OK == driver.kubelet.publish(volumes[1]).code

    inodes = [
        {path: (Path(target, path).stat().st_dev, Path(target, path).stat().st_ino) for path in tiny.files}
        for target in map(driver.kubelet.target, volumes)
    ]
    assert inodes[0] == inodes[1]
    assert not traffic.served(tiny.repository)


def test_mount_is_read_only(driver: Driver, docker_registry: DockerRegistry, tiny: Model, name: str) -> None:
    """The mount table says ro, nosuid and nodev, and root cannot write: also for a volume that asked for read-write."""
    volume = PodVolume(name, {"modelRef": tiny.at(docker_registry.host)}, handle=f"pv-{name}")
    assert OK == driver.kubelet.publish(volume).code
    target = driver.kubelet.target(volume)

    assert {"ro", "nosuid", "nodev"} <= mount_of(target).options
    for attempt in (
        lambda: os.open(target / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.open(target / "tokenizer/vocab.txt", os.O_WRONLY),
        (target / "tokenizer/vocab.txt").unlink,
        lambda: (target / "tokenizer").chmod(0o777),
    ):
        with pytest.raises(OSError) as caught:
            attempt()
        assert errno.EROFS == caught.value.errno


def test_publish_may_be_repeated(driver: Driver, docker_registry: DockerRegistry, tiny: Model, name: str) -> None:
    """The same call again is OK and stacks no second mount."""
    volume = tiny.volume(docker_registry.host, name)
    codes = [driver.kubelet.publish(volume).code for _ in range(3)]

    assert [OK] * 3 == codes
    assert "/" in str(mount_of(driver.kubelet.target(volume)).root)


def test_other_arguments_at_a_published_target_are_refused(
    driver: Driver, docker_registry: DockerRegistry, tiny: Model, name: str
) -> None:
    """ALREADY_EXISTS, and what is mounted stays as it was."""
    volume = tiny.volume(docker_registry.host, name)
    assert OK == driver.kubelet.publish(volume).code
    before = mount_of(driver.kubelet.target(volume))
    answer = driver.kubelet.publish(replace(volume, attributes={**volume.attributes, "excludeModelWeights": "true"}))

    assert grpc.StatusCode.ALREADY_EXISTS == answer.code
    assert before == mount_of(driver.kubelet.target(volume))
    assert OK == driver.kubelet.publish(volume).code


def test_one_persistent_volume_in_two_pods(
    driver: Driver, docker_registry: DockerRegistry, tiny: Model, name: str
) -> None:
    """One volume id at two targets: the first unpublish leaves the second alone."""
    first, second = (
        PodVolume(f"{name}-{number}", {"modelRef": tiny.at(docker_registry.host)}, handle=f"pv-{name}")
        for number in (1, 2)
    )
    assert [OK, OK] == [driver.kubelet.publish(volume).code for volume in (first, second)]
    assert OK == driver.kubelet.unpublish(first).code

    assert not driver.kubelet.target(first).exists()
    assert promised(tiny.files) == shown(driver.kubelet.target(second))
    assert OK == driver.kubelet.stats(second).code
    assert grpc.StatusCode.NOT_FOUND == driver.kubelet.stats(first).code
    assert OK == driver.kubelet.unpublish(second).code
    assert not driver.kubelet.target(second).exists()


def test_unpublish_of_the_unknown_is_fine(driver: Driver, name: str) -> None:
    """Also twice: a volume that never was, a target whose parents never were."""
    volume = PodVolume(name, {})

    assert [OK, OK] == [driver.kubelet.unpublish(volume).code for _ in range(2)]


def test_unpublish_while_a_process_uses_the_files(
    driver: Driver, docker_registry: DockerRegistry, tiny: Model, name: str
) -> None:
    """The target is gone at once; the process that holds a file open reads on."""
    volume = tiny.volume(docker_registry.host, name)
    driver.kubelet.publish(volume)
    path, data = next(iter(tiny.files.items()))
    with (driver.kubelet.target(volume) / path).open("rb") as file:
        answer = driver.kubelet.unpublish(volume)

        assert OK == answer.code
        assert not driver.kubelet.target(volume).exists()
        assert data == file.read()


def test_target_that_is_a_symlink_is_refused(
    driver: Driver, docker_registry: DockerRegistry, tiny: Model, name: str, tmp_path: Path
) -> None:
    """Nothing is mounted where the link leads."""
    volume = tiny.volume(docker_registry.host, name)
    target = driver.kubelet.target(volume)
    target.parent.mkdir(parents=True)
    target.symlink_to(tmp_path)
    answer = driver.kubelet.publish(volume)

    assert grpc.StatusCode.INVALID_ARGUMENT == answer.code
    assert "link" in answer.text
    assert () == mounts_at(read_mount_table(), str(tmp_path))
    assert [] == list(tmp_path.iterdir())


def test_calls_without_a_deadline(driver: Driver, docker_registry: DockerRegistry, name: str) -> None:
    """A caller that sets no deadline is served, cold and warm."""
    model = uploaded(docker_registry, f"publish/{name}", random_files(name, MIB))
    volume = model.volume(docker_registry.host, name)
    codes = [
        driver.kubelet.publish(volume, timeout=None).code,
        driver.kubelet.publish(volume, timeout=None).code,
        driver.kubelet.unpublish(volume, timeout=None).code,
    ]

    assert [OK] * 3 == codes


def test_stats_tell_size_and_condition(driver: Driver, docker_registry: DockerRegistry, tiny: Model, name: str) -> None:
    """Bytes and inodes of the model; abnormal once somebody else took the mount away, and normal after a publish."""
    volume = tiny.volume(docker_registry.host, name)
    driver.kubelet.publish(volume)
    target = driver.kubelet.target(volume)
    healthy = driver.kubelet.stats(volume).response
    subprocess.run(["umount", target], check=True)
    broken = driver.kubelet.stats(volume).response
    driver.kubelet.publish(volume)

    assert sum(map(len, tiny.files.values())) == healthy.usage[0].used
    assert 0 < healthy.usage[1].used
    assert (False, True) == (healthy.volume_condition.abnormal, broken.volume_condition.abnormal)
    assert str(target) in broken.volume_condition.message
    assert not driver.kubelet.stats(volume).response.volume_condition.abnormal
    assert grpc.StatusCode.NOT_FOUND == driver.kubelet.stats(volume, target.parent).code


def test_rollout_downloads_nothing(driver: Driver, docker_registry: DockerRegistry, name: str) -> None:
    """The last pod is gone, a new one comes: the content is still here."""
    model = uploaded(docker_registry, f"publish/{name}", random_files(name, MIB))
    old, new = (model.volume(docker_registry.host, f"{name}-{age}") for age in ("old", "new"))
    driver.kubelet.publish(old)
    driver.kubelet.unpublish(old)
    traffic = Traffic(docker_registry)

    assert OK == driver.kubelet.publish(new).code
    assert promised(model.files) == shown(driver.kubelet.target(new))
    assert not traffic.served(model.repository)


@pytest.mark.parametrize("repository", ["same", "other"])
def test_second_model_moves_only_what_differs(
    driver: Driver, docker_registry: DockerRegistry, repository: str, name: str
) -> None:
    """Of a model that shares all but one small file with another one of the host, only that file is fetched."""
    files = random_files(name, 2 * MIB, 3 * MIB)
    changed = {**files, "tokenizer/vocab.txt": random_bytes(name, 999)}
    first = uploaded(docker_registry, f"publish/{name}", files)
    content = Content()
    second = push(content, first.repository if repository == "same" else f"publish/{name}-b", changed, tag="v2")
    upload(content, docker_registry.host)
    driver.kubelet.publish(first.volume(docker_registry.host, f"{name}-1"))
    traffic = Traffic(docker_registry)
    volume = second.volume(docker_registry.host, f"{name}-2")

    assert OK == driver.kubelet.publish(volume).code
    assert promised(changed) == shown(driver.kubelet.target(volume))
    assert [str(second.layers[-1])] == list(traffic.served(second.repository).elements())


def test_three_pods_at_once_share_one_download(driver: Driver, docker_registry: DockerRegistry, name: str) -> None:
    """Of an empty cache: the registry serves each blob once."""
    model = uploaded(docker_registry, f"publish/{name}", random_files(name, 24 * MIB, 5 * MIB, 100))
    volumes = [model.volume(docker_registry.host, f"{name}-{number}") for number in range(3)]
    traffic = Traffic(docker_registry)
    with ThreadPoolExecutor(3) as pool:
        codes = [answer.code for answer in pool.map(driver.kubelet.publish, volumes)]

    assert [OK] * 3 == codes
    assert {str(layer): 1 for layer in model.layers} == traffic.served(model.repository)
    for volume in volumes:
        assert promised(model.files) == shown(driver.kubelet.target(volume))


@pytest.mark.parametrize(
    ("attributes", "absent"),
    [
        ({"excludeModelWeights": "true"}, "safetensors"),
        ({"excludeFilePatterns": '["*.txt"]'}, "vocab.txt"),
        ({f"{SERVICE_NAME}/exclude-file-patterns": '["*.safetensors", "vo*", "!*.safetensors"]'}, "vocab.txt"),
    ],
    ids=["weights", "pattern", "negation"],
)
def test_selection_leaves_files_out(
    driver: Driver, docker_registry: DockerRegistry, name: str, attributes: dict[str, str], absent: str
) -> None:
    """What is not wanted is neither shown nor fetched; another pod that wants all gets the rest later."""
    model = uploaded(docker_registry, f"publish/{name}", random_files(name, MIB))
    some = model.volume(docker_registry.host, f"{name}-some", **attributes)
    traffic = Traffic(docker_registry)
    answer = driver.kubelet.publish(some)
    served = traffic.served(model.repository)
    everything = model.volume(docker_registry.host, f"{name}-all")
    driver.kubelet.publish(everything)

    expected = {path: data for path, data in model.files.items() if not path.endswith(absent)}
    assert (OK, "") == (answer.code, answer.text)
    assert promised(expected) == shown(driver.kubelet.target(some))
    assert len(expected) == sum(served.values())
    assert promised(model.files) == shown(driver.kubelet.target(everything))
    assert {str(layer): 1 for layer in model.layers} == traffic.served(model.repository)
