"""What a pod may rely on, first part: what it sees, files, sharing, rights.

Each docstring quotes a sentence of docs/semantics.md; tests/unit/test_semantics_doc.py finds those that no test quotes.
"""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from tests.fakes.content import FILE_PATH, RAW_WEIGHT
from tests.fakes.kubelet import Answer, PodVolume
from tests.fakes.registry import Auth, FakeRegistry, User
from tests.images import file, push_image
from tests.integration.conftest import MakeDriver
from tests.integration.driver import Driver, eventually, mount_of
from tests.integration.models import MIB, Format, Model, promised, push, push_layers, random_bytes, random_files, shown
from tests.integration.publishing import published

Code = grpc.StatusCode
_METADATA = "org.cncf.model.file.metadata+json"
_TAR = f"{RAW_WEIGHT.removesuffix('.raw')}.tar"
_PASSWORD = "correct-horse-battery-staple"


def refused(driver: Driver, registry: FakeRegistry, pod: str, member: tarfile.TarInfo, **more: bytes) -> Answer:
    """The answer to a model in one tar with such a member; nothing of it may be left."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in {"config.json": b"{}", **more}.items():
            file = tarfile.TarInfo(path)
            file.size = len(data)
            tar.addfile(file, io.BytesIO(data))
        tar.addfile(member)
    model = push_layers(registry.content, "models/hostile", [(buffer.getvalue(), _TAR, {})])
    volume = model.volume(registry.host, pod)
    answer = driver.kubelet.publish(volume)
    assert not driver.kubelet.target(volume).exists()
    return answer


def special(path: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member of a tar that is no file."""
    member = tarfile.TarInfo(path)
    member.type, member.linkname = kind, target
    return member


def secret_of(host: str, user: str, password: str) -> dict[str, str]:
    """A pull secret, as `kubectl create secret docker-registry` makes it."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {".dockerconfigjson": json.dumps({"auths": {host: {"auth": auth}}})}


def test_read_only(driver: Driver, registry: FakeRegistry) -> None:
    """A volume is read-only for everybody, root included, whatever the pod's specification says."""
    model = push(registry.content, "models/read-only", random_files("read-only", 1000))
    asks_for_writing = replace(model.volume(registry.host, "read-only"), handle="pv-read-only")
    target = published(driver, asks_for_writing)

    with pytest.raises(OSError) as caught:
        os.open(target / "tokenizer/vocab.txt", os.O_WRONLY)
    assert errno.EROFS == caught.value.errno


def test_mount_options(driver: Driver, registry: FakeRegistry) -> None:
    """A volume is mounted `ro,nosuid,nodev`, and programs in it can be executed."""
    program = b"#!/bin/sh\necho runs\n"
    layer = (program, RAW_WEIGHT, {FILE_PATH: "bin/run", _METADATA: json.dumps({"name": "run", "mode": 0o755})})
    target = published(driver, push_layers(registry.content, "models/run", [layer]).volume(registry.host, "options"))

    assert {"ro", "nosuid", "nodev"} <= mount_of(target).options
    assert b"runs\n" == subprocess.run([target / "bin/run"], stdout=subprocess.PIPE, check=True).stdout


def test_verified_before_visible(driver: Driver, registry: FakeRegistry) -> None:
    """No file of a model is visible before every byte of the wanted layers was received and matched its digest."""
    model = push(registry.content, "models/slow", random_files("slow", MIB))
    volume = model.volume(registry.host, "slow")
    registry.faults.stall_after_bytes = MIB - 1
    answer = driver.kubelet.publish(volume, timeout=1)
    before = driver.kubelet.target(volume).exists()
    registry.faults.resume.set()

    assert (Code.ABORTED, False) == (answer.code, before)
    assert promised(model.files) == shown(published(driver, volume))


def test_same_bytes(driver: Driver, registry: FakeRegistry) -> None:
    """A mounted volume shows the same bytes until it is unmounted, whatever happens to its tag in the registry."""
    old = push(registry.content, "models/moving", random_files("old", 1000))
    volume = old.volume(registry.host, "same-bytes", pullPolicy="Always")
    target = published(driver, volume)
    new = push(registry.content, "models/moving", random_files("new", 1000))
    other = published(driver, new.volume(registry.host, "same-bytes-later", pullPolicy="Always"))

    assert promised(old.files) == shown(target) == shown(published(driver, volume))
    assert promised(new.files) == shown(other)


def test_tag_is_pinned(driver: Driver, registry: FakeRegistry) -> None:
    """A publish that is tried again mounts what the tag meant at its first attempt."""
    old = push(registry.content, "models/pinned", random_files("pinned-old", 1000))
    volume = old.volume(registry.host, "pinned", pullPolicy="Always")
    registry.faults.stall_after_bytes = 500
    assert Code.ABORTED == driver.kubelet.publish(volume, timeout=0.5).code
    push(registry.content, "models/pinned", random_files("pinned-new", 1000))
    registry.faults.resume.set()

    assert promised(old.files) == shown(published(driver, volume))


def test_volumes_outlive_the_driver(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """Volumes stay mounted and readable while the driver is stopped, killed or started again."""
    driver = make_driver()
    model = push(registry.content, "models/outlives", random_files("outlives", 1000))
    volume = model.volume(registry.host, "outlives")
    target = published(driver, volume)
    seen = []
    for end in (driver.stop, driver.kill):
        end()
        seen.append(shown(target))
        driver.start()
        seen.append(shown(target))
        assert Code.OK == driver.kubelet.publish(volume).code

    assert [promised(model.files)] * 4 == seen
    assert "ro" in mount_of(target).options


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_every_file(driver: Driver, registry: FakeRegistry, packed: Format) -> None:
    """A pod sees every file of the model, unless its volume chooses, and no other file."""
    model = push(registry.content, "models/every", random_files(("every", packed), 3000, 0, 70_000), packed)
    target = published(driver, model.volume(registry.host, f"every-{packed.name}"))

    assert promised(model.files) == shown(target)


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o444), (0o4755, 0o555), (0o2750, 0o554), (0o777, 0o555)])
def test_modes(driver: Driver, registry: FakeRegistry, mode: int, expected: int) -> None:
    """A file shows mode `mode & 0555 | 0444` of the model's own, without set-id bits; a directory shows 0555; the owner is
    root.
    """
    member = tarfile.TarInfo("bin/tool")
    member.mode, member.uid, member.gid = mode, 1000, 1000
    target = published(driver, tar_of_one(registry, member, f"modes-{mode}".encode()).volume(registry.host, f"m{mode}"))
    status = (target / "bin/tool").lstat()

    assert (expected, 0, 0) == (status.st_mode & 0o7777, status.st_uid, status.st_gid)
    assert [0o40555, 0o40555] == [path.lstat().st_mode for path in (target, target / "bin")]


def tar_of_one(registry: FakeRegistry, member: tarfile.TarInfo, data: bytes) -> Model:
    """A model of one tar with one file."""
    buffer = io.BytesIO()
    member.size = len(data)
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member, io.BytesIO(data))
    return push_layers(registry.content, "models/tool", [(buffer.getvalue(), _TAR, {})])


def raw_model(registry: FakeRegistry, repository: str, times: dict[str, str | None]) -> Model:
    """A model of raw files, each with its own content by its name, some with a time."""
    return push_layers(
        registry.content,
        repository,
        [
            (path.encode(), RAW_WEIGHT, {FILE_PATH: path} | ({_METADATA: json.dumps({"mtime": time})} if time else {}))
            for path, time in times.items()
        ],
    )


def test_times(driver: Driver, registry: FakeRegistry) -> None:
    """A file shows the modification time that the model tells, or 1970 if it tells none."""
    model = raw_model(registry, "models/times", {"told.bin": "2024-02-29T12:00:00.5Z", "untold.bin": None})
    target = published(driver, model.volume(registry.host, "times"))

    assert [1709208000_500000000, 0] == [(target / name).stat().st_mtime_ns for name in ("told.bin", "untold.bin")]


def test_shared_times(driver: Driver, registry: FakeRegistry) -> None:
    """Of two models that give the same raw layer different modification times, both show the time of the one pulled first."""
    models = [
        raw_model(registry, f"models/times-{year}", {"shared.bin": f"{year}-01-01T00:00:00Z"}) for year in (2020, 2025)
    ]
    targets = [published(driver, model.volume(registry.host, model.repository[7:])) for model in models]

    assert [1577836800.0] * 2 == [(target / "shared.bin").stat().st_mtime for target in targets]


def test_links(driver: Driver, registry: FakeRegistry) -> None:
    """Symbolic links that stay inside the model are kept, and hard links are names of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        file = tarfile.TarInfo("data/weights.bin")
        file.size = 5
        tar.addfile(file, io.BytesIO(b"links"))
        tar.addfile(special("latest.bin", tarfile.SYMTYPE, "data/weights.bin"))
        tar.addfile(special("again.bin", tarfile.LNKTYPE, "data/weights.bin"))
    model = push_layers(registry.content, "models/links", [(buffer.getvalue(), _TAR, {})])
    target = published(driver, model.volume(registry.host, "links"))

    assert "data/weights.bin" == str((target / "latest.bin").readlink())
    assert (target / "again.bin").samefile(target / "data/weights.bin")
    assert b"links" == (target / "latest.bin").read_bytes()


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("/outside"),
        special("outside", tarfile.SYMTYPE, "../../outside"),
        special("outside", tarfile.SYMTYPE, "/outside"),
        special("outside", tarfile.LNKTYPE, "../outside"),
    ],
    ids=["parent", "absolute", "link", "absolute-link", "hard-link"],
)
def test_escapes(
    driver: Driver, registry: FakeRegistry, member: tarfile.TarInfo, request: pytest.FixtureRequest
) -> None:
    """A path or a link that leads out of the model is refused with FAILED_PRECONDITION, and the answer names the path and
    the layer.
    """
    answer = refused(driver, registry, f"escape-{request.node.callspec.id}", member)

    assert Code.FAILED_PRECONDITION == answer.code
    assert "outside" in answer.text
    assert "layer sha256:" in answer.text


@pytest.mark.parametrize(
    "member",
    [special("null", tarfile.CHRTYPE), special("pipe", tarfile.FIFOTYPE), special("file", tarfile.DIRTYPE)],
    ids=["device", "fifo", "file-and-directory"],
)
def test_special_files(driver: Driver, registry: FakeRegistry, member: tarfile.TarInfo) -> None:
    """A device, a FIFO, or one path that is both a file and a directory is refused with FAILED_PRECONDITION."""
    answer = refused(driver, registry, f"special-{member.name}", member, file=b"file")

    assert (Code.FAILED_PRECONDITION, True) == (answer.code, member.name in answer.text)


def test_no_model(driver: Driver, registry: FakeRegistry) -> None:
    """An artifact that is no model is refused with FAILED_PRECONDITION, and the answer says what it is."""
    push_image(registry.content, "images/web", "v1", [file("bin/sh")])
    answer = driver.kubelet.publish(PodVolume("no-model", {"modelRef": f"{registry.host}/images/web:v1"}))

    assert Code.FAILED_PRECONDITION == answer.code
    assert "a container image without a model" in answer.text


@pytest.mark.parametrize("attribute", [{"excludeModelWeights": "true"}, {"excludeFilePatterns": '["*.safetensors"]'}])
def test_left_out(driver: Driver, registry: FakeRegistry, attribute: dict[str, str]) -> None:
    """What `excludeModelWeights` and `excludeFilePatterns` leave out is not shown and, where it is a layer of its own, not
    downloaded.
    """
    model = push(registry.content, "models/left-out", random_files(("left-out", *attribute), 1000))
    target = published(driver, model.volume(registry.host, "-".join(attribute), **attribute))

    assert ["tokenizer/vocab.txt"] == list(shown(target))
    assert 0 == registry.blob_gets[str(model.layers[0])]


def test_one_download(driver: Driver, registry: FakeRegistry) -> None:
    """Pods on a node that name the same model share one download and one copy, also when they start at the same time."""
    model = push(registry.content, "models/shared", random_files("shared", 2 * MIB, 1000))
    volumes = [model.volume(registry.host, f"shared-{number}") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        targets = list(pool.map(lambda volume: published(driver, volume), volumes))

    assert {str(layer): 1 for layer in model.layers} == registry.blob_gets
    assert 1 == len({(target / "model-00000.safetensors").stat().st_ino for target in targets})


def test_rollout(driver: Driver, registry: FakeRegistry) -> None:
    """A pod that comes after the last pod of the same model has gone downloads nothing, unless the content was evicted
    meanwhile.
    """
    model = push(registry.content, "models/rollout", random_files("rollout", 1000))
    old, new = (model.volume(registry.host, f"rollout-{age}") for age in ("old", "new"))
    published(driver, old)
    driver.kubelet.unpublish(old)
    published(driver, new)

    assert len(model.layers) == sum(registry.blob_gets.values())


def test_shared_layers(driver: Driver, registry: FakeRegistry) -> None:
    """A layer that two models of one registry share is downloaded once and stored once."""
    files = random_files("layers", MIB)
    first = push(registry.content, "models/base", files)
    second = push(registry.content, "models/tuned", {**files, "tokenizer/vocab.txt": random_bytes("tuned", 900)})
    targets = [published(driver, model.volume(registry.host, model.repository[7:])) for model in (first, second)]

    assert {str(layer): 1 for layer in {*first.layers, *second.layers}} == registry.blob_gets
    assert (targets[0] / "model-00000.safetensors").samefile(targets[1] / "model-00000.safetensors")


@pytest.fixture
def guarded() -> FakeRegistry:
    """A registry where alice may read everything and bob only one repository."""
    users = {"alice": User(_PASSWORD), "bob": User("bobs", frozenset({"models/bobs"}))}
    return FakeRegistry(auth=Auth.BASIC, users=users)


def test_rights(driver: Driver, guarded: FakeRegistry) -> None:
    """A pod gets content that is on the node only if its own credentials, or anonymous access, are or were accepted for that
    model.
    """
    with guarded as registry:
        model = push(registry.content, "models/private", random_files("private", 1000))
        codes: list[grpc.StatusCode] = []
        secrets = {"alice": _PASSWORD, "bob": "bobs", "mallory": "guess"}
        for user in ("alice", "nobody", "bob", "mallory", "alice"):
            secret = secret_of(registry.host, user, secrets[user]) if user in secrets else {}
            volume = replace(model.volume(registry.host, f"rights-{len(codes)}"), secrets=secret)
            codes.append(driver.kubelet.publish(volume).code)

    denied = [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED]
    assert [Code.OK, *denied, Code.OK] == codes


def test_foreign_blobs(driver: Driver, guarded: FakeRegistry) -> None:
    """A manifest that names a blob of a private repository gives nobody the blob: its own repository must have it."""
    with guarded as registry:
        model = push(registry.content, "models/private", random_files("foreign", 1000))
        secret = secret_of(registry.host, "alice", _PASSWORD)
        published(driver, replace(model.volume(registry.host, "foreign-alice"), secrets=secret))
        registry.content.manifests["models/bobs"] = dict(registry.content.manifests["models/private"])
        thief = replace(model, repository="models/bobs").volume(registry.host, "foreign-bob")
        answer = driver.kubelet.publish(replace(thief, secrets=secret_of(registry.host, "bob", "bobs")))

    assert Code.NOT_FOUND == answer.code
    assert not driver.kubelet.target(thief).exists()


def test_secrets_stay_secret(make_driver: MakeDriver, guarded: FakeRegistry) -> None:
    """Passwords and tokens are in no log line and in no file of the driver."""
    driver = make_driver()
    with guarded as registry:
        registry.auth = Auth.BEARER
        model = push(registry.content, "models/private", random_files("secret", 1000))
        secret = secret_of(registry.host, "alice", _PASSWORD)
        published(driver, replace(model.volume(registry.host, "secret"), secrets=secret))
        tokens = {seen.headers.get("authorization", "").split(" ")[-1] for seen in registry.seen} - {""}
    eventually(lambda: "answered OK" in driver.log_text(), "the driver logs the call")
    written = [driver.log_text().encode()]
    written += [path.read_bytes() for path in driver.root_dir.rglob("*") if path.is_file()]

    needles = [text.encode() for text in (_PASSWORD, *tokens)]
    assert len(needles) > 2
    assert [] == [needle for needle in needles for text in written if needle in text]
