"""What a model's own files tell cheaply about it: the fields of the ModelPack config (model-spec, config.md).

Read are config.json (of adapters and pipelines: their own), the heads of safetensors and GGUF files, and the front matter of
the README, never a weight. Whatever cannot be understood is left out: the facts inform people, and no artifact is refused for
want of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelcsi.pack.classify import FileClass, classify
from modelcsi.pack.gguf import GgufHead, read_gguf
from modelcsi.pack.licenses import read_licenses
from modelcsi.pack.safetensors import SafetensorsHead, read_safetensors
from modelcsi.pack.walk import SourceFile

_MAX_CONFIG_BYTES = 1 << 20
_MAX_TEXT = 200

_FORMATS = {
    "safetensors": "safetensors",
    "gguf": "gguf",
    "onnx": "onnx",
    "onnx_data": "onnx",
    "bin": "pytorch",
    "pt": "pytorch",
    "pth": "pytorch",
    "h5": "tensorflow",
    "pb": "tensorflow",
    "tflite": "tflite",
    "keras": "keras",
}
# As the specification's examples write them.
_PRECISIONS = {
    "F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8", "U8": "uint8",
    "float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8", "int8": "int8",
    "MXFP4": "fp4",
}  # fmt: skip
# Of the families in the transformers library, which writes the same config.json for all; and in llama.cpp.
_NO_TRANSFORMERS = {
    "bit": "cnn",
    "convnext": "cnn",
    "convnextv2": "cnn",
    "efficientnet": "cnn",
    "mobilenet_v1": "cnn",
    "mobilenet_v2": "cnn",
    "regnet": "cnn",
    "resnet": "cnn",
    "mamba": "ssm",
    "mamba2": "ssm",
    "rwkv": "rnn",
    "rwkv6": "rnn",
    "rwkv7": "rnn",
}
_PLAIN_FILE_TYPES = frozenset({"F64", "F32", "F16", "BF16"})
_PARTS = frozenset({"adapter", "mmproj", "imatrix"})
"""What a GGUF file may be instead of a model (`general.type`): beside one, it does not count."""
_SCALES = (("q", 10**15), ("t", 10**12), ("b", 10**9), ("m", 10**6), ("k", 10**3))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Empty where nothing is known."""

    family: str = ""
    architecture: str = ""
    format: str = ""
    precision: str = ""
    quantization: str = ""
    parameter_size: str = ""
    """Such as `22.7m`."""
    licenses: tuple[str, ...] = ()
    """SPDX expressions."""

    def config(self) -> dict[str, str]:
        """The `config` object of the artifact's config; absent means unknown."""
        fields = {
            "architecture": self.architecture,
            "format": self.format,
            "precision": self.precision,
            "quantization": self.quantization,
            "paramSize": self.parameter_size,
        }
        return {key: value for key, value in fields.items() if value}


def read_facts(files: Sequence[SourceFile]) -> ModelFacts:
    """The facts that these files of one model tell."""
    weights = _read_weights(files)
    by_path = {file.path: file for file in files}
    config, adapter, pipeline = (
        _read_json(by_path.get(name)) for name in ("config.json", "adapter_config.json", "model_index.json")
    )
    quantization = _text(config.get("quantization_config"), "quant_method")
    is_counted = not quantization or bool(weights.ggufs)  # packed tensors hold several parameters in one number
    return ModelFacts(
        family=_text(config, "model_type") or _gguf_family(weights),
        architecture=_architecture(config, adapter, pipeline) or _gguf_architecture(weights),
        format=_format(files),
        precision=_precision(weights, config),
        quantization=quantization or _gguf_quantization(weights),
        parameter_size=format_count(weights.tensors.total()) if is_counted else "",
        licenses=read_licenses(files, _told_licenses(weights, config)),
    )


def format_count(count: int) -> str:
    """A number of parameters as the specification writes it: at most one decimal, and a scale."""
    for letter, scale in _SCALES:
        if count >= scale:
            tenths = count * 10 // scale
            return f"{tenths // 10}{letter}" if tenths % 10 == 0 or tenths >= 1000 else f"{tenths / 10}{letter}"
    return ""


@dataclass(frozen=True, slots=True)
class _Weights:
    """What the heads of the weights say together."""

    tensors: Counter[str]
    """Elements by type; a tensor that one directory holds twice (in two precisions, say) counts once."""
    ggufs: tuple[GgufHead, ...]
    """Of the model itself, where there is one."""
    safetensors: tuple[SafetensorsHead, ...]


def _read_weights(files: Sequence[SourceFile]) -> _Weights:
    places: list[tuple[str, Mapping[str, tuple[str, int]]]] = []
    ggufs: list[tuple[str, GgufHead]] = []
    safetensors: list[SafetensorsHead] = []
    for file in files:
        directory, suffix = file.path.rpartition("/")[0], file.path.rpartition(".")[2].lower()
        if suffix == "safetensors":
            safetensors.append(read_safetensors(file.source, file.size))
            places.append((directory, safetensors[-1].tensors))
        elif suffix == "gguf":
            ggufs.append((directory, read_gguf(file.source, file.size)))
    models = [(directory, head) for directory, head in ggufs if head.text("general.type") not in _PARTS] or ggufs
    places += [(directory, head.tensors) for directory, head in models]
    counts: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for directory, tensors in places:
        for name, (kind, count) in tensors.items():
            if (directory, name) not in seen:
                seen.add((directory, name))
                counts[kind] += count
    return _Weights(counts, tuple(head for _, head in models), tuple(safetensors))


def _read_json(file: SourceFile | None) -> dict[str, Any]:
    if file is None or file.size > _MAX_CONFIG_BYTES:
        return {}
    try:
        value = json.loads(file.source.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _architecture(config: dict[str, Any], adapter: dict[str, Any], pipeline: dict[str, Any]) -> str:
    """1. a pipeline of diffusers, 2. a model of transformers, 3. an adapter for one (PEFT adapts nothing else by a task)."""
    if "_diffusers_version" in pipeline:
        return "diffusion"
    if config.keys() & {"transformers_version", "architectures"}:
        return _NO_TRANSFORMERS.get(_text(config, "model_type"), "transformer")
    return "transformer" if _text(adapter, "peft_type") and _text(adapter, "task_type") else ""


def _gguf_family(weights: _Weights) -> str:
    return next(filter(None, (head.text("general.architecture") for head in weights.ggufs)), "")[:_MAX_TEXT]


def _gguf_architecture(weights: _Weights) -> str:
    family = _gguf_family(weights)
    return _NO_TRANSFORMERS.get(family, "transformer") if family else ""


def _gguf_quantization(weights: _Weights) -> str:
    """Empty where several files are quantized in several ways, or none is."""
    schemes = {head.file_type for head in weights.ggufs if head.tensors}
    return schemes.pop() if len(schemes) == 1 and not schemes & _PLAIN_FILE_TYPES else ""


def _told_licenses(weights: _Weights, config: dict[str, Any]) -> list[str]:
    told = [head.text("general.license") for head in weights.ggufs]
    told += [head.metadata.get("license", "") for head in weights.safetensors]
    return [*filter(None, told), _text(config, "license")]


def _format(files: Sequence[SourceFile]) -> str:
    """That of most of the weights' bytes."""
    sizes: Counter[str] = Counter()
    for file in files:
        if classify(file.path, file.size) is FileClass.WEIGHT:
            sizes[_FORMATS.get(file.path.rpartition(".")[2].lower(), "")] += file.size
    return sizes.most_common(1)[0][0] if sizes else ""


def _precision(weights: _Weights, config: dict[str, Any]) -> str:
    """1. what a quantization says, 2. the type of most elements, 3. the type that the config names."""
    bits = _quantized_bits(config.get("quantization_config"))
    if bits:
        return bits
    kinds = weights.tensors.most_common(1)
    if kinds:
        return _PRECISIONS.get(kinds[0][0], "") or _integer(kinds[0][0])
    named = (_text(part, key) for part in (config, config.get("text_config")) for key in ("torch_dtype", "dtype"))
    return _PRECISIONS.get(next(filter(None, named), ""), "")


def _quantized_bits(quantization: object) -> str:
    if not isinstance(quantization, dict):
        return ""
    if quantization.get("quant_method") == "fp8":
        return "fp8"
    bits = quantization.get("bits")
    return f"int{bits}" if type(bits) is int and 1 <= bits <= 8 else ""


def _integer(kind: str) -> str:
    """GGUF's block types by their bits: `Q4_K` and `IQ4_XS` are int4."""
    bits = kind.removeprefix("I").removeprefix("Q")[:1]
    return f"int{bits}" if kind.startswith(("Q", "IQ")) and bits.isdigit() else ""


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
