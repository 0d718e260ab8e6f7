from __future__ import annotations

import pytest

from modelcsi.artifact.selection import has_weight_name
from modelcsi.pack.classify import _SUFFIXES, FileClass, class_of_media_type, classify

MIB = 1 << 20


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model-00001-of-00002.safetensors", FileClass.WEIGHT),
        ("onnx/model.onnx_data", FileClass.WEIGHT),
        ("license_plates.safetensors", FileClass.WEIGHT),
        ("data/model.gguf", FileClass.WEIGHT),
        ("model.safetensors.index.json", FileClass.WEIGHT_CONFIG),
        ("config.json", FileClass.WEIGHT_CONFIG),
        ("1_Pooling/config.json", FileClass.WEIGHT_CONFIG),
        ("tokenizer.model", FileClass.WEIGHT_CONFIG),
        ("tokenizer.model.v3", FileClass.WEIGHT_CONFIG),
        ("sentencepiece.bpe.model", FileClass.WEIGHT_CONFIG),
        ("merges.txt", FileClass.WEIGHT_CONFIG),
        ("vocab.txt", FileClass.WEIGHT_CONFIG),
        ("chat_template.jinja", FileClass.WEIGHT_CONFIG),
        ("training_args.bin", FileClass.WEIGHT_CONFIG),
        ("LICENSE", FileClass.DOC),
        ("README.md", FileClass.DOC),
        ("LICENSE.json", FileClass.DOC),
        ("assets/logo.PNG", FileClass.DOC),
        ("modeling_x.py", FileClass.CODE),
        ("requirements.txt", FileClass.CODE),
        ("pyproject.toml", FileClass.CODE),
        ("train.parquet", FileClass.DATASET),
        ("data/labels.json", FileClass.DATASET),
        ("datasets/a/b.png", FileClass.DATASET),
        ("data/load.py", FileClass.CODE),
        ("data/README.md", FileClass.DOC),
        ("data", FileClass.WEIGHT_CONFIG),
        ("strange", FileClass.WEIGHT_CONFIG),
        ("strange.xyz", FileClass.WEIGHT_CONFIG),
    ],
)
def test_class_is_told_by_the_name(path: str, expected: FileClass) -> None:
    """Names say what a file is to a model."""
    assert expected is classify(path, 1000)


def test_large_file_of_unknown_kind_is_a_weight() -> None:
    """What nobody knows and is large is weights."""
    assert FileClass.WEIGHT is classify("strange.xyz", 10 * MIB)


def test_suffix_belongs_to_one_class() -> None:
    """The table does not contradict itself."""
    suffixes = [suffix for group in _SUFFIXES.values() for suffix in group]

    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize(
    "name", ["a.safetensors", "a.gguf", "a.pt", "a.pth", "a.onnx", "a.h5", "a.msgpack", "a.tflite"]
)
def test_what_a_selection_calls_a_weight_is_packed_as_one(name: str) -> None:
    """`excludeModelWeights` leaves the same files out, whether by name or by type."""
    assert has_weight_name(name)
    assert FileClass.WEIGHT is classify(name, 1)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/vnd.cncf.model.weight.config.v1.tar+zstd", FileClass.WEIGHT_CONFIG),
        ("application/vnd.cnai.model.weight.v1.raw", FileClass.WEIGHT),
        ("application/vnd.cncf.model.dataset.v1.tar", FileClass.DATASET),
        ("application/octet-stream", None),
    ],
)
def test_class_of_media_type(media_type: str, expected: FileClass | None) -> None:
    """Layers of other producers have classes, too."""
    assert expected is class_of_media_type(media_type)
