"""What a model's own files tell cheaply about it: the fields of the ModelPack config (model-spec, config.md).

Read are config.json and the headers of safetensors files, never a weight. Whatever cannot be understood is left out: the
facts inform people, and no artifact is refused for want of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from modelcsi.pack.classify import FileClass, classify
from modelcsi.pack.walk import SourceFile

_MAX_CONFIG_BYTES = 1 << 20
_MAX_DIMENSIONS = 32
"""Of one tensor; frameworks have 8 or fewer. The product of a million large ones would take hours."""
_MAX_HEADER_BYTES = 32 << 20
"""Of one safetensors file; its own limit is 100 MB, and the largest that was met has 0.4."""

_FORMATS = {
    "safetensors": "safetensors",
    "gguf": "gguf",
    "onnx": "onnx",
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
}  # fmt: skip
# Of the families in the transformers library, which writes the same config.json for all.
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
}
_SCALES = (("t", 10**12), ("b", 10**9), ("m", 10**6), ("k", 10**3))


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
    config = _read_model_config(files)
    quantization = _text(config.get("quantization_config"), "quant_method")
    tensors = _count_tensors(file for file in files if file.path.endswith(".safetensors"))
    return ModelFacts(
        family=_text(config, "model_type"),
        architecture=_architecture(config),
        format=_format(files),
        precision=_precision(tensors, config),
        quantization=quantization,
        # Quantized tensors are packed, several parameters in one number.
        parameter_size="" if quantization else format_count(tensors.total()),
    )


def format_count(count: int) -> str:
    """A number of parameters as the specification writes it: at most one decimal, and a scale."""
    for letter, scale in _SCALES:
        if count >= scale:
            tenths = count * 10 // scale
            return f"{tenths // 10}{letter}" if tenths % 10 == 0 or tenths >= 1000 else f"{tenths / 10}{letter}"
    return ""


def _read_model_config(files: Sequence[SourceFile]) -> dict[str, Any]:
    file = next((file for file in files if file.path == "config.json"), None)
    if file is None or file.size > _MAX_CONFIG_BYTES:
        return {}
    try:
        value = json.loads(file.source.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _architecture(config: dict[str, Any]) -> str:
    if not config.keys() & {"transformers_version", "architectures"}:
        return ""
    return _NO_TRANSFORMERS.get(_text(config, "model_type"), "transformer")


def _format(files: Sequence[SourceFile]) -> str:
    """That of most of the weights' bytes."""
    sizes: Counter[str] = Counter()
    for file in files:
        if classify(file.path, file.size) is FileClass.WEIGHT:
            sizes[_FORMATS.get(file.path.rpartition(".")[2].lower(), "")] += file.size
    return sizes.most_common(1)[0][0] if sizes else ""


def _precision(tensors: Counter[str], config: dict[str, Any]) -> str:
    if tensors:
        return _PRECISIONS.get(tensors.most_common(1)[0][0], "")
    return _PRECISIONS.get(_text(config, "torch_dtype") or _text(config, "dtype"), "")


def _count_tensors(files: Iterable[SourceFile]) -> Counter[str]:
    """Elements by data type; a tensor that one directory holds twice counts once."""
    counts: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for file in files:
        directory = file.path.rpartition("/")[0]
        for name, tensor in _read_header(file).items():
            if name != "__metadata__" and (directory, name) not in seen and _is_tensor(tensor):
                seen.add((directory, name))
                counts[tensor["dtype"]] += math.prod(tensor["shape"])
    return counts


def _read_header(file: SourceFile) -> dict[str, Any]:
    """A safetensors file begins with the length of its header, 8 bytes in little-endian order, and the header, JSON."""
    try:
        with file.source.open("rb") as source:
            length = int.from_bytes(source.read(8), "little")
            value = json.loads(source.read(length)) if length <= min(_MAX_HEADER_BYTES, file.size) else None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_tensor(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str):
        return False
    shape = value.get("shape")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        return False
    return all(type(item) is int and 0 <= item < 1 << 40 for item in shape)


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
