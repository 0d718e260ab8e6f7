"""What a file is to a model, in the ModelPack specification's five classes, as far as its name and size tell.

model-spec, `mediatype.go`: weights; their configuration "like tokenizer.json, config.json"; documentation "like README.md,
LICENSE"; code; datasets. The class decides what a pod leaves out with `excludeModelWeights`, and nothing else: a wrong guess
costs a file in the wrong filter, never a file.
"""

from __future__ import annotations

import enum
import fnmatch
import re

from modelcsi.artifact.paths import base_name


class FileClass(enum.Enum):
    """The value is the part of the media type; the order is that of layers in a manifest (modctl's, then datasets)."""

    WEIGHT_CONFIG = "weight.config"
    WEIGHT = "weight"
    CODE = "code"
    DOC = "doc"
    DATASET = "dataset"


_MEDIA_TYPE = re.compile(r"application/vnd\.(?:cncf|cnai)\.model\.(weight\.config|weight|code|doc|dataset)\.v1\.")

_LARGE_BYTES = 10 << 20
"""Unknown files from this size on are weights; AIKit draws the line here, too."""

# Names that say more than their suffix. Lower case.
_WEIGHT_CONFIG_NAMES = (
    "*tokenizer*.model*", "*spiece*.model", "*sentencepiece*.model", "*tokenizer*.txt", "*vocab*.txt", "merges*.txt",
    "training_args.bin",
)  # fmt: skip
_DOC_NAMES = ("readme*", "license*", "licence*", "copying*", "notice*", "changelog*", "authors*", "citation*")
_CODE_NAMES = (
    "requirements*.txt", "pyproject.toml", "setup.cfg", "makefile", "cmakelists.txt", "dockerfile*", "modelfile",
)  # fmt: skip

_SUFFIXES: dict[FileClass, frozenset[str]] = {
    FileClass.WEIGHT: frozenset(
        {
            "safetensors", "gguf", "ggml", "dduf", "bin", "pt", "pth", "pt2", "pte", "ptl", "ckpt", "mar", "nemo", "onnx",
            "onnx_data", "h5", "hdf5", "keras", "pb", "tflite", "msgpack", "npy", "npz", "pkl", "pickle", "joblib", "mlmodel",
            "caffemodel", "pdparams", "pdiparams", "engine", "trt", "plan", "llamafile", "model", "weights", "distcp",
        }
    ),
    FileClass.WEIGHT_CONFIG: frozenset(
        {
            "json", "json5", "jsonc", "yaml", "yml", "toml", "ini", "cfg", "conf", "config", "properties", "xml", "jinja",
            "jinja2", "tiktoken", "spm", "bpe", "vocab", "prototxt", "pbtxt", "mvm",
        }
    ),
    FileClass.CODE: frozenset(
        {
            "py", "pyi", "ipynb", "sh", "bash", "c", "h", "cc", "cpp", "cxx", "hpp", "cu", "cuh", "go", "rs", "java", "js",
            "ts", "mjs", "rb", "swift", "kt", "lua", "r", "jl", "m", "sql", "patch", "mk", "cmake", "so", "dll", "dylib", "whl",
        }
    ),
    FileClass.DOC: frozenset(
        {
            "md", "rst", "txt", "pdf", "html", "htm", "tex", "bib", "docx", "odt", "rtf", "png", "jpg", "jpeg", "gif", "svg",
            "webp", "bmp", "ico", "mp4", "webm", "mov", "log",
        }
    ),
    FileClass.DATASET: frozenset(
        {"parquet", "arrow", "feather", "avro", "orc", "tfrecord", "tfrecords", "jsonl", "ndjson", "csv", "tsv", "lance"}
    ),
}  # fmt: skip
_CLASS_OF_SUFFIX = {suffix: file_class for file_class, suffixes in _SUFFIXES.items() for suffix in suffixes}

_DATASET_DIRECTORIES = frozenset({"data", "dataset", "datasets"})


def classify(path: str, size: int) -> FileClass:
    """The class of the file with a normalised relative path; every file has one."""
    name = base_name(path).lower()
    _, dot, suffix = name.rpartition(".")
    by_suffix = _CLASS_OF_SUFFIX.get(suffix) if dot else None
    if _matches(name, _WEIGHT_CONFIG_NAMES):
        return FileClass.WEIGHT_CONFIG
    # The suffix first: `license_plates.safetensors` is no licence.
    if by_suffix in {FileClass.WEIGHT, FileClass.DATASET}:
        return by_suffix
    if _matches(name, _DOC_NAMES):
        return FileClass.DOC
    if by_suffix is FileClass.CODE or _matches(name, _CODE_NAMES):
        return FileClass.CODE
    # In a directory of data, what would else be configuration or a picture of the model card is data: labels, samples.
    if path.partition("/")[0].lower() in _DATASET_DIRECTORIES and "/" in path:
        return FileClass.DATASET
    if by_suffix is not None:
        return by_suffix
    return FileClass.WEIGHT if size >= _LARGE_BYTES else FileClass.WEIGHT_CONFIG


def class_of_media_type(media_type: str) -> FileClass | None:
    """The class that a ModelPack layer's type tells, current or legacy; None for other types."""
    match = _MEDIA_TYPE.match(media_type.lower())
    return FileClass(match[1]) if match else None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
