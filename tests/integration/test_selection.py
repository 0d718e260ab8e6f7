"""Choosing files: what a volume does not want is not shown, not written and, where it is a layer of its own, not fetched."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest

from modelcsi.oci.digest import Digest
from tests.fakes.kubelet import PodVolume
from tests.fakes.registry import FakeRegistry
from tests.integration.conftest import MakeDriver
from tests.integration.driver import SERVICE_NAME, Driver
from tests.integration.models import Format, Model, promised, push, push_layers, random_bytes, shown, tar_of
from tests.integration.publishing import published

Code = grpc.StatusCode
TARS = [Format.TAR, Format.TAR_GZIP, Format.TAR_ZSTD]
ALL = (
    *("config.json", "model.safetensors", "onnx/config.json", "onnx/fp16/model.onnx", "onnx/model.onnx"),
    "tokenizer/vocab.txt",
)


def files(seed: object) -> dict[str, bytes]:
    """A model with weights in two frameworks' forms."""
    return {path: random_bytes((seed, path), 20_000 + len(path)) for path in ALL}


def part(model: Model, *paths: str, root: str = "") -> dict[str, bytes]:
    """Some files of it, as they are shown."""
    return {path.removeprefix(root): model.files[path] for path in paths}


def fetched(registry: FakeRegistry, model: Model) -> set[str]:
    """The files of a raw model whose blobs were asked for."""
    return {path for path, data in model.files.items() if registry.blob_gets[str(Digest.of(data))]}


def kept(driver: Driver, layer: Digest) -> int:
    """How many files of a tar are on the node."""
    return len(os.listdir(driver.root_dir / "content" / "layers" / layer.algorithm / layer.hex))


CHOICES: list[tuple[Mapping[str, str], tuple[str, ...]]] = [
    ({"include": "*.json"}, ("config.json", "onnx/config.json")),
    ({"include": '["/*.json", "tokenizer/"]'}, ("config.json", "tokenizer/vocab.txt")),
    (
        {f"{SERVICE_NAME}/include": "onnx/**, !onnx/fp16"},
        ("onnx/config.json", "onnx/fp16/model.onnx", "onnx/model.onnx"),
    ),
    ({"include": "onnx/*, !fp16"}, ("onnx/config.json", "onnx/model.onnx")),
    ({"exclude": "onnx/"}, ("config.json", "model.safetensors", "tokenizer/vocab.txt")),
    ({f"{SERVICE_NAME}/exclude": '["*", "!/config.json"]'}, ("config.json",)),
    ({"include": "*.json,*.onnx", "exclude": "fp16"}, ("config.json", "onnx/config.json", "onnx/model.onnx")),
    ({"include": "onnx", "excludeModelWeights": "true"}, ("onnx/config.json",)),
    ({"exclude": "/*.json", "excludeFilePatterns": '["*.onnx"]'}, ("model.safetensors", "onnx/config.json", ALL[-1])),
]
"""Attributes, and what they leave."""


@pytest.mark.parametrize(("attributes", "expected"), CHOICES, ids=[str(number) for number in range(len(CHOICES))])
@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR_ZSTD], ids=lambda packed: packed.value)
def test_what_is_not_wanted_is_left_out(
    driver: Driver, registry: FakeRegistry, packed: Format, attributes: dict[str, str], expected: tuple[str, ...]
) -> None:
    """What `include`, `exclude` and `subPath` leave out is not shown, is not downloaded where it is a layer of its own, and
    not written where it is a member of a tar.
    """
    model = push(registry.content, "choose/some", files((packed.value, str(attributes))), packed)
    volume = model.volume(registry.host, f"{packed.value}-{CHOICES.index((attributes, expected))}", **attributes)
    target = published(driver, volume)

    assert promised(part(model, *expected)) == shown(target)
    if packed is Format.RAW:
        assert set(expected) == fetched(registry, model)
    else:
        assert len(expected) == kept(driver, model.layers[0])


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_a_directory_as_root(driver: Driver, registry: FakeRegistry, packed: Format) -> None:
    """`subPath` shows a directory of the model as the volume's root; patterns are still on the model's own paths."""
    model = push(registry.content, "choose/root", files(("root", packed.value)), packed)
    onnx = [path for path in ALL if path.startswith("onnx/")]
    whole = published(driver, model.volume(registry.host, f"root-{packed.value}", subPath="/onnx/"))
    filtered = published(
        driver, model.volume(registry.host, f"filtered-{packed.value}", subPath="onnx", include="onnx/*.json,vocab.txt")
    )

    assert promised(part(model, *onnx, root="onnx/")) == shown(whole)
    assert promised(part(model, "onnx/config.json", root="onnx/")) == shown(filtered)
    if packed is Format.RAW:
        assert set(onnx) == fetched(registry, model)
    else:
        assert 3 == kept(driver, model.layers[0])


@pytest.mark.parametrize("packed", list(Format), ids=lambda packed: packed.value)
def test_what_two_selections_want_is_shared(driver: Driver, registry: FakeRegistry, packed: Format) -> None:
    """Volumes with different selections of one model share the bytes that both want."""
    model = push(registry.content, "choose/shared", files(("shared", packed.value)), packed)
    first = published(driver, model.volume(registry.host, f"a-{packed.value}", include="onnx/model.onnx,config.json"))
    second = published(driver, model.volume(registry.host, f"b-{packed.value}", subPath="onnx"))
    third = published(driver, model.volume(registry.host, f"c-{packed.value}"))

    assert promised(part(model, "config.json", "onnx/config.json", "onnx/model.onnx")) == shown(first)
    assert promised(model.files) == shown(third)
    shared = [first / "onnx/model.onnx", second / "model.onnx", third / "onnx/model.onnx"]
    assert 1 == len({path.stat().st_ino for path in shared})
    if packed is Format.RAW:
        assert {str(layer): 1 for layer in model.layers} == registry.blob_gets


def test_tars_of_one_file_are_separate(driver: Driver, registry: FakeRegistry) -> None:
    """A tar whose annotations say that it holds one file is not fetched for nothing."""
    annotation, metadata = "org.cncf.model.filepath", "org.cncf.model.file.metadata+json"
    layers = [
        (
            tar_of({path: data}),
            Format.TAR.media_type,
            {annotation: path, metadata: f'{{"name":"{path.rpartition("/")[2]}","typeflag":0}}'},
        )
        for path, data in files("tars").items()
    ]
    model = push_layers(registry.content, "choose/tars", layers, files("tars"))
    target = published(driver, model.volume(registry.host, "tars", subPath="onnx", exclude="fp16/"))

    assert promised(part(model, "onnx/config.json", "onnx/model.onnx", root="onnx/")) == shown(target)
    assert {
        str(model.layers[ALL.index(path)]): 1 for path in ("onnx/config.json", "onnx/model.onnx")
    } == registry.blob_gets


@pytest.mark.parametrize("packed", [Format.RAW, Format.TAR], ids=lambda packed: packed.value)
@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"include": "*.gguf,*.GGUF,*.json", "exclude": "*.json"}, "no file is matched by include '*.gguf', '*.GGUF'"),
        ({"exclude": "*"}, 'exclude ["*"] leaves nothing of the artifact'),
        ({"subPath": "weights"}, "the artifact has no directory 'weights'"),
        ({"subPath": "config.json"}, "subPath 'config.json' is no directory"),
        ({"subPath": "tokenizer", "include": "*.json"}, "no file is matched by include '*.json'"),
    ],
)
def test_nothing_is_an_error(
    driver: Driver, registry: FakeRegistry, packed: Format, attributes: dict[str, str], says: str
) -> None:
    """A selection that leaves nothing is refused with FAILED_PRECONDITION, and the answer names the patterns that match no
    file.
    """
    model = push(registry.content, "choose/nothing", files("nothing"), packed)
    volume = model.volume(registry.host, f"nothing-{packed.value}-{'-'.join(attributes)}", **attributes)
    answer = driver.kubelet.publish(volume)

    assert Code.FAILED_PRECONDITION == answer.code
    assert says in answer.text
    assert "`modelcsi inspect` lists the artifact's files" in answer.text
    assert not driver.kubelet.target(volume).exists()
    if packed is Format.RAW:
        assert set() == fetched(registry, model)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"include": "[1]"}, "include"),
        ({f"{SERVICE_NAME}/exclude": '["a"'}, f"{SERVICE_NAME}/exclude"),
        ({"subPath": "../up"}, "subPath"),
        ({"layout": "hub"}, "did you mean huggingface-hub?"),
        ({"layout": "huggingface-hub", "modelName": "a/b/c"}, "modelName"),
        ({"modelName": "a/b"}, "layout"),
        ({"includes": "*"}, "did you mean include?"),
    ],
)
def test_wrong_values_are_named(driver: Driver, registry: FakeRegistry, attributes: dict[str, str], says: str) -> None:
    """INVALID_ARGUMENT, without asking the registry."""
    answer = driver.kubelet.publish(PodVolume("wrong", {"modelRef": f"{registry.host}/choose/wrong:v1", **attributes}))

    assert Code.INVALID_ARGUMENT == answer.code
    assert says in answer.text


def test_a_link_out_of_the_root_is_refused(driver: Driver, registry: FakeRegistry) -> None:
    """A link from the directory that `subPath` names to a place outside of it is refused; `exclude` can leave it out."""
    link = tarfile.TarInfo("onnx/latest.json")
    link.type, link.linkname = tarfile.SYMTYPE, "../config.json"
    tar = tar_of(files("link"), link)
    model = push_layers(registry.content, "choose/link", [(tar, Format.TAR.media_type, {})], files("link"))
    answer = driver.kubelet.publish(model.volume(registry.host, "link", subPath="onnx"))
    target = published(driver, model.volume(registry.host, "no-link", subPath="onnx", exclude="latest.json"))
    whole = published(driver, model.volume(registry.host, "whole-link"))

    assert (Code.FAILED_PRECONDITION, True) == (answer.code, "latest.json" in answer.text)
    assert ["config.json", "fp16", "model.onnx"] == sorted(path.name for path in target.iterdir())
    assert (whole / "onnx/latest.json").read_bytes() == model.files["config.json"]


@pytest.mark.parametrize("packed", TARS, ids=lambda packed: packed.value)
def test_a_wider_selection_adds_to_a_tar(driver: Driver, registry: FakeRegistry, packed: Format) -> None:
    """While a pod reads the one file that it wanted, another one gets the rest; the first sees no difference."""
    model = push(registry.content, "choose/wider", files(("wider", packed.value)), packed)
    narrow = published(driver, model.volume(registry.host, f"narrow-{packed.value}", include="config.json"))
    before = {path: (narrow / path).stat() for path in ("config.json", "onnx/config.json")}
    counts = [kept(driver, model.layers[0])]
    wide = published(driver, model.volume(registry.host, f"wide-{packed.value}", exclude="*.safetensors"))
    counts.append(kept(driver, model.layers[0]))

    assert [2, 5] == counts
    assert promised(part(model, *(path for path in ALL if path != "model.safetensors"))) == shown(wide)
    assert [stat.st_ino for stat in before.values()] == [(narrow / path).stat().st_ino for path in before]


def test_volumes_are_known_again_after_a_restart(make_driver: MakeDriver, registry: FakeRegistry) -> None:
    """Without its database too: the same publish is fine, other attributes are ALREADY_EXISTS."""
    driver = make_driver()
    model = push(registry.content, "choose/again", files("again"))
    chosen = model.volume(registry.host, "again", subPath="onnx", exclude="fp16", layout="huggingface-hub")
    published(driver, chosen)
    driver.stop()
    for path in Path(driver.root_dir).glob("state.db*"):
        path.unlink()
    driver.start()
    gets = registry.blob_gets.total()
    plain = PodVolume(chosen.pod, {key: value for key, value in chosen.attributes.items() if key != "layout"})
    answers = [driver.kubelet.publish(volume).code for volume in (plain, chosen, plain)]

    assert [Code.ALREADY_EXISTS, Code.OK, Code.ALREADY_EXISTS] == answers
    assert gets == registry.blob_gets.total()
