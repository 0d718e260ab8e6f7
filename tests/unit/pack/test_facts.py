from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from modelcsi.pack.facts import ModelFacts, format_count, read_facts
from modelcsi.pack.walk import walk
from tests.unit.pack.conftest import gguf, safetensors, write

GGUF: dict[str, Any] = {"general.architecture": "qwen3", "general.file_type": 15, "general.license": "mit"}

HUGE = json.dumps({"w": {"dtype": "F32", "shape": [99_999_999_999] * 6000}}).encode()
"""As many parameters as no text of Python's has digits for."""


def facts(directory: Path) -> ModelFacts:
    """What the files of a directory tell."""
    return read_facts(walk(directory).files)


def write_config(directory: Path, **fields: Any) -> None:
    """A config.json."""
    write(directory, "config.json", json.dumps(fields).encode())


def test_transformer_tells_everything(tmp_path: Path) -> None:
    """A usual model's config.json and headers give every field."""
    write_config(tmp_path, model_type="qwen3", architectures=["Qwen3ForCausalLM"], torch_dtype="float32")
    write(tmp_path, "model-00001-of-00002.safetensors", safetensors([1000, 700], name="a"))
    write(tmp_path, "model-00002-of-00002.safetensors", safetensors([1000, 500], name="b"))

    assert ModelFacts("qwen3", "transformer", "safetensors", "bf16", "", "1.2m") == facts(tmp_path)


def test_tensor_that_two_files_hold_counts_once(tmp_path: Path) -> None:
    """Some repositories carry the same weights in two files."""
    write(tmp_path, "model.safetensors", safetensors([5000]))
    write(tmp_path, "model.fp16.safetensors", safetensors([5000]))
    write(tmp_path, "other/model.safetensors", safetensors([5000]))

    assert "10k" == facts(tmp_path).parameter_size


def test_quantized_tensors_are_not_counted(tmp_path: Path) -> None:
    """Packed numbers are no parameters."""
    write_config(tmp_path, quantization_config={"quant_method": "awq"})
    write(tmp_path, "model.safetensors", safetensors([5000], "I32"))

    assert ("awq", "") == (facts(tmp_path).quantization, facts(tmp_path).parameter_size)


def test_convolutional_network_is_no_transformer(tmp_path: Path) -> None:
    """The library is called transformers, not everything in it is one."""
    write_config(tmp_path, model_type="resnet", transformers_version="4.50.0")

    assert "cnn" == facts(tmp_path).architecture


def test_without_headers_config_tells_the_precision(tmp_path: Path) -> None:
    """Other formats have no header that is read."""
    write_config(tmp_path, dtype="bfloat16")
    write(tmp_path, "pytorch_model.bin")

    assert ("bf16", "pytorch") == (facts(tmp_path).precision, facts(tmp_path).format)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": {}}',
        struct.pack("<Q", 40) + b'{"a": {"dtype": "F32", "shape": [-1, 1]}}',
        struct.pack("<Q", 4000) + b"[" * 4000,
        struct.pack("<Q", len(HUGE)) + HUGE,
    ],
)
def test_malformed_header_tells_nothing(tmp_path: Path, content: bytes) -> None:
    """Facts inform; a file that is not what it is called is packed all the same."""
    write(tmp_path, "model.safetensors", content)

    assert ModelFacts(format="safetensors") == facts(tmp_path)


@pytest.mark.parametrize("content", [b"nope", b"[]", b"[" * 5000, b'{"model_type": 7, "quantization_config": []}'])
def test_malformed_config_tells_nothing(tmp_path: Path, content: bytes) -> None:
    """The same for config.json."""
    write(tmp_path, "config.json", content)

    assert ModelFacts() == facts(tmp_path)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, ""),
        (999, ""),
        (1000, "1k"),
        (22_713_216, "22.7m"),
        (596_049_920, "596m"),
        (6_700_000_000, "6.7b"),
        (10**12, "1t"),
    ],
)
def test_count_is_written_as_the_specification_does(count: int, expected: str) -> None:
    """At most one decimal and a scale; as many digits as a person reads."""
    assert expected == format_count(count)


def test_gguf_tells_everything(tmp_path: Path) -> None:
    """Metadata and tensors of several shards, as of a model that was split."""
    write(tmp_path, "m-00001-of-00002.gguf", gguf(GGUF, {"a": ([1000, 32], 12)}))
    write(tmp_path, "m-00002-of-00002.gguf", gguf({}, {"b": ([1000, 64], 12), "c": ([100], 0)}))

    assert ModelFacts("qwen3", "transformer", "gguf", "int4", "", "96.1k", ("MIT",)) == facts(tmp_path)


def test_gguf_tells_how_it_is_quantized(tmp_path: Path) -> None:
    """By the name of the scheme; weights that are not quantized have a precision only."""
    write(tmp_path, "model.gguf", gguf(GGUF, {"a": ([1000, 32], 12)}))
    assert ("Q4_K_M", "int4") == (facts(tmp_path).quantization, facts(tmp_path).precision)
    write(tmp_path, "model.gguf", gguf(GGUF | {"general.file_type": 1}, {"a": ([1000, 32], 1)}))

    assert ("", "fp16") == (facts(tmp_path).quantization, facts(tmp_path).precision)


def test_several_quantizations_are_one_model(tmp_path: Path) -> None:
    """Repositories offer one model in many sizes: its parameters count once, and no scheme is the model's."""
    write(tmp_path, "model-Q4_K_M.gguf", gguf(GGUF, {"a": ([1000, 32], 12)}))
    write(tmp_path, "model-Q8_0.gguf", gguf(GGUF | {"general.file_type": 7}, {"a": ([1000, 32], 8)}))

    assert ("", "32k") == (facts(tmp_path).quantization, facts(tmp_path).parameter_size)


def test_projector_beside_a_model_is_not_counted(tmp_path: Path) -> None:
    """`mmproj` and adapters are of GGUF, too; alone they are what there is."""
    write(
        tmp_path, "a-mmproj.gguf", gguf({"general.type": "mmproj", "general.architecture": "clip"}, {"v": ([5000], 1)})
    )
    assert ("clip", "5k") == (facts(tmp_path).family, facts(tmp_path).parameter_size)
    write(tmp_path, "model.gguf", gguf(GGUF, {"a": ([1000, 32], 12)}))

    assert ("qwen3", "32k", "Q4_K_M") == (
        facts(tmp_path).family,
        facts(tmp_path).parameter_size,
        facts(tmp_path).quantization,
    )


def test_state_space_model_is_no_transformer(tmp_path: Path) -> None:
    """llama.cpp runs others, too."""
    write(tmp_path, "model.gguf", gguf({"general.architecture": "mamba"}, {}))

    assert ("mamba", "ssm") == (facts(tmp_path).family, facts(tmp_path).architecture)


def test_adapter_of_peft(tmp_path: Path) -> None:
    """LoRA weights have no config.json."""
    write(tmp_path, "adapter_config.json", b'{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8}')
    write(tmp_path, "adapter_model.safetensors", safetensors([1000, 8]))

    assert ModelFacts("", "transformer", "safetensors", "bf16", "", "8k") == facts(tmp_path)


def test_pipeline_of_diffusers(tmp_path: Path) -> None:
    """The weights of all its parts count, the architecture is its own."""
    write(tmp_path, "model_index.json", b'{"_class_name": "FluxPipeline", "_diffusers_version": "0.30.0"}')
    write(tmp_path, "vae/diffusion_pytorch_model.safetensors", safetensors([1000, 3]))
    write(tmp_path, "transformer/diffusion_pytorch_model.safetensors", safetensors([1000, 5]))

    assert ("diffusion", "8k") == (facts(tmp_path).architecture, facts(tmp_path).parameter_size)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "int4"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"bits": "4"}, "dtype": "float16"}, "fp16"),
        ({"text_config": {"torch_dtype": "bfloat16"}}, "bf16"),
        ({"quantization_config": [], "text_config": 7}, ""),
    ],
)
def test_precision_of_the_config(tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    """That of a quantization, else of the model or of its part for text."""
    write_config(tmp_path, **config)

    assert expected == facts(tmp_path).precision


def test_licence_of_the_model_card(tmp_path: Path) -> None:
    """It goes into the config as SPDX writes it."""
    write(tmp_path, "README.md", b"---\nlicense: apache-2.0\n---\n")
    write(tmp_path, "model.safetensors", safetensors([10]))

    assert ("Apache-2.0",) == facts(tmp_path).licenses
