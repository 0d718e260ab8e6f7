"""Artifacts as other producers, versions and options make them than those of tests/artifacts, with the files that each must give.

They are built as the producers' sources build them; docs/artifacts.md has a row for each.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any

import zstandard

from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import ARTIFACT_MANIFEST, DOCKER_MANIFEST
from tests import images
from tests.packed import PACKED
from tests.product import EMPTY, Layer, Product
from tests.unit.artifact.builders import FILEPATH, IMAGE_LAYER, METADATA, TITLE, files_tar

CNCF = "application/vnd.cncf.model"
CNAI = "application/vnd.cnai.model"
KIT = "application/vnd.kitops.modelkit"
DOCKER = "application/vnd.docker.ai"
OLLAMA = "application/vnd.ollama.image"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

WEIGHTS = b"weights" * 100
FILES = {"d/model.safetensors": WEIGHTS, "config.json": b"{}", "README.md": b"# model\n"}


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def _modelpack(producer: str, version: str, *layers: Layer, files: Mapping[str, bytes], **fields: Any) -> Product:
    fields = {"artifact_type": f"{CNCF}.manifest.v1+json", "config_type": f"{CNCF}.config.v1+json"} | fields
    return Product(producer, version, "modelpack", layers, files=files, **fields)


def _aikit_tars(suffix: str, compress: Callable[[bytes], bytes]) -> Product:
    """A tar for each weight, whose member is the base name; one tar for all files of another class."""
    classes = {"src/run.py": b"run", "src/lib/x.py": b"x"}
    weight = {TITLE: "d/model.safetensors", FILEPATH: "d/model.safetensors"}
    code = {
        TITLE: "code",
        FILEPATH: "code",
        METADATA: json.dumps({"name": "code", "mode": 420, "typeflag": 0, "files": 2}),
    }
    tars = files_tar({"model.safetensors": WEIGHTS}), files_tar(classes)
    return _modelpack(
        *("AIKit", f"modelpack, {suffix}"),
        Layer(compress(tars[0]), f"{CNCF}.weight.v1.{suffix}", weight),
        Layer(compress(tars[1]), f"{CNCF}.code.v1.{suffix}", code),
        files={"d/model.safetensors": WEIGHTS, **classes},
    )


def _ramalama(path: str, content: bytes, media_type: str) -> Layer:
    metadata = {"name": path, "mode": 420, "mtime": "2026-01-01T00:00:00.123456Z", "typeflag": 48}
    annotations = {FILEPATH: path, TITLE: f"sha256-{Digest.of(content).hex}", METADATA: json.dumps(metadata)}
    return Layer(content, media_type, annotations)


def _kit(version: str, *layers: Layer, kitfile: Mapping[str, Any], **fields: Any) -> Product:
    config = json.dumps(kitfile).encode()
    return Product(
        *("KitOps ModelKit", version, "modelkit", layers), config_type=f"{KIT}.config.v1+json", config=config, **fields
    )


def _digests(*layers: Layer) -> list[str]:
    return [str(Digest.of(layer.content)) for layer in layers]


_MIDDLE_AGE = (
    Layer(files_tar({"d/model.safetensors": WEIGHTS}), f"{KIT}.model.v1.tar"),
    Layer(gzip.compress(files_tar({"src/run.py": b"run", "src/lib/x.py": b"x"})), f"{KIT}.code.v1.tar+gzip"),
)


def _raw_kit(version: str, suffix: str, compress: Callable[[bytes], bytes]) -> Product:
    layers = (
        Layer(compress(WEIGHTS), f"{KIT}.model.v1.raw{suffix}", {FILEPATH: "d/model.safetensors"}),
        Layer(compress(b"# model\n"), f"{KIT}.docs.v1.raw{suffix}", {FILEPATH: "README.md"}),
    )
    digests = _digests(*layers)
    return _kit(
        version,
        *layers,
        kitfile={
            "model": {"path": "d/model.safetensors", "digest": digests[0]},
            "docs": [{"path": "README.md", "digest": digests[1]}],
        },
        artifact_type=f"{KIT}.manifest.v1+json",
        files={"d/model.safetensors": WEIGHTS, "README.md": b"# model\n"},
    )


_BASE = (images.file("bin/sh", b"#!"), images.symlink("etc/mtab", "/proc/mounts"), images.hardlink("bin/ls", "bin/sh"))


def _image_layers(*layers: images.Layer, media_type: str = f"{IMAGE_LAYER}+gzip") -> tuple[Layer, ...]:
    return tuple(Layer(gzip.compress(images.tar(layer)), media_type) for layer in layers)


PRODUCTS: tuple[Product, ...] = (
    *PACKED,
    _modelpack(
        *("modctl", "v0.0.1-rc.1"),
        Layer(
            files_tar({"model.safetensors": WEIGHTS}),
            f"{CNAI}.weight.v1.tar",
            {"org.cnai.model.filepath": "d/model.safetensors"},
        ),
        Layer(
            files_tar({"config.json": b"{}"}),
            f"{CNAI}.weight.config.v1.tar",
            {"org.cnai.model.filepath": "config.json"},
        ),
        files={"d/model.safetensors": WEIGHTS, "config.json": b"{}"},
        artifact_type=f"{CNAI}.manifest.v1+json",
        config_type=f"{CNAI}.config.v1+json",
    ),
    _modelpack(
        *("modctl", "of November 2024"),
        *(
            Layer(
                files_tar({path: content}),
                IMAGE_LAYER,
                {f"org.cnai.model.{mark}": "true", "org.cnai.model.filepath": path},
                {"artifactType": f"{CNAI}.layer.v1.tar"},
            )
            for mark, path, content in (("model", "m.gguf", WEIGHTS), ("readme", "README.md", b"# model\n"))
        ),
        files={"m.gguf": WEIGHTS, "README.md": b"# model\n"},
        artifact_type="",
        config_type=IMAGE_CONFIG,
        annotations={"org.cnai.model.architecture": "transformer"},
    ),
    _modelpack(
        *("modctl", "`attach --destination-dir` to a legacy artifact"),
        Layer(files_tar({"a/x.bin": WEIGHTS}), f"{CNAI}.weight.v1.tar", {"org.cnai.model.filepath": "a/x.bin"}),
        Layer(files_tar({"foo.txt": b"foo"}), f"{CNCF}.doc.v1.tar", {FILEPATH: "docs/foo.txt"}),
        files={"a/x.bin": WEIGHTS, "docs/foo.txt": b"foo"},
        config_type=f"{CNAI}.config.v1+json",
    ),
    _aikit_tars("tar+gzip", gzip.compress),
    _aikit_tars("tar+zstd", _zstd),
    Product(
        *("AIKit", "generic, raw", "generic"),
        tuple(Layer(content, "application/octet-stream", {TITLE: path}) for path, content in FILES.items()),
        artifact_type="application/vnd.unknown.artifact.v1",
        files=FILES,
    ),
    Product(
        *("AIKit", "generic, tar+gzip", "generic"),
        (Layer(gzip.compress(files_tar(FILES), mtime=0), IMAGE_LAYER, {TITLE: "allfiles.tar.gz"}),),
        artifact_type="application/vnd.unknown.artifact.v1",
        files={"allfiles.tar.gz": gzip.compress(files_tar(FILES), mtime=0)},
    ),
    _modelpack(
        *("RamaLama", "artifact"),
        _ramalama("m.gguf", WEIGHTS, "application/octet-stream"),
        _ramalama("README.md", b"# model\n", "text/plain; charset=utf-8"),
        files={"m.gguf": WEIGHTS, "README.md": b"# model\n"},
        config_type=EMPTY,
    ),
    _modelpack(
        *("ORAS CLI", "`push --artifact-type` of ModelPack"),
        Layer(WEIGHTS, f"{CNCF}.weight.v1.raw", {TITLE: "d/model.safetensors"}),
        files={"d/model.safetensors": WEIGHTS},
        config_type=EMPTY,
    ),
    Product(
        *("ORAS CLI", "before 1.0, artifact manifest", "generic"),
        (Layer(WEIGHTS, "application/octet-stream", {TITLE: "m.gguf"}),),
        artifact_type="application/vnd.acme.model",
        media_type=ARTIFACT_MANIFEST,
        files={"m.gguf": WEIGHTS},
    ),
    Product(
        *("oras-py", "files and directories", "generic"),
        (
            Layer(b"{}", IMAGE_LAYER, {TITLE: "config.json"}),
            Layer(gzip.compress(files_tar({"sub/a": b"a", "sub/d/b": b"b"})), f"{IMAGE_LAYER}+gzip", {TITLE: "sub"}),
            Layer(gzip.compress(files_tar({"a": b"a"}), mtime=0), f"{IMAGE_LAYER}+gzip", {TITLE: "a.tar.gz"}),
        ),
        config_type="application/vnd.unknown.config.v1+json",
        config=b"",
        files={
            "config.json": b"{}",
            "sub/a": b"a",
            "sub/d/b": b"b",
            "a.tar.gz": gzip.compress(files_tar({"a": b"a"}), mtime=0),
        },
    ),
    _kit(
        "before 0.5",
        Layer(gzip.compress(files_tar({"llama/m.gguf": WEIGHTS})), f"{KIT}.model.v1.tar+gzip"),
        Layer(files_tar({"run.py": b"run"}), f"{KIT}.code.v1.tar"),
        Layer(files_tar({"lib/x.py": b"x"}), f"{KIT}.code.v1.tar"),
        kitfile={"model": {"path": "./models/llama"}, "code": [{"path": "src/run.py"}, {"path": "lib"}]},
        files={"models/llama/m.gguf": WEIGHTS, "src/run.py": b"run", "lib/x.py": b"x"},
    ),
    _kit(
        "0.5 to 1.9",
        *_MIDDLE_AGE,
        kitfile={
            "model": {"path": "d/model.safetensors", "digest": _digests(*_MIDDLE_AGE)[0]},
            "code": [{"path": "src", "digest": _digests(*_MIDDLE_AGE)[1]}],
        },
        annotations={"ml.kitops.modelkit.cli-version": "1.7.0"},
        files={"d/model.safetensors": WEIGHTS, "src/run.py": b"run", "src/lib/x.py": b"x"},
    ),
    _raw_kit("since 1.10, raw", "", bytes),
    _raw_kit("since 1.10, raw+gzip", "+gzip", gzip.compress),
    _raw_kit("since 1.10, raw+zstd", "+zstd", _zstd),
    _kit(
        "with its model in another ModelKit",
        Layer(files_tar({"run.py": b"run"}), f"{KIT}.code.v1.tar"),
        kitfile={"model": {"path": "registry.test/org/base:v1"}, "code": [{"path": "run.py"}]},
        refusal="another ModelKit: 'registry.test/org/base:v1'",
    ),
    _kit(
        "with a remote dataset",
        Layer(files_tar({"run.py": b"run"}), f"{KIT}.code.v1.tar"),
        kitfile={
            "datasets": [{"name": "d", "path": "data", "remotePath": "s3://bucket/d"}],
            "code": [{"path": "run.py"}],
        },
        refusal="at 's3://bucket/d'",
    ),
    Product(
        *("Docker Model Runner", "v0.1", "docker-model"),
        (
            Layer(WEIGHTS, f"{DOCKER}.gguf.v3"),
            Layer(WEIGHTS[1:], f"{DOCKER}.gguf.v3"),
            Layer(b"mm", f"{DOCKER}.mmproj"),
            Layer(b"MIT", f"{DOCKER}.license"),
            Layer(b"{{ x }}", f"{DOCKER}.chat.template.jinja"),
            Layer(files_tar({"tokenizer.json": b"{}"}), f"{DOCKER}.vllm.config.tar"),
            Layer(files_tar({"sub/x.json": b"1"}), f"{DOCKER}.dir.tar"),
        ),
        config_type=f"{DOCKER}.model.config.v0.1+json",
        files={
            "model-00001-of-00002.gguf": WEIGHTS,
            "model-00002-of-00002.gguf": WEIGHTS[1:],
            "model.mmproj": b"mm",
            "LICENSE": b"MIT",
            "template.jinja": b"{{ x }}",
            "tokenizer.json": b"{}",
            "sub/x.json": b"1",
        },
    ),
    _modelpack(
        *("Docker Model Runner", "CNCF form"),
        Layer(WEIGHTS, f"{CNCF}.weight.v1.gguf", {FILEPATH: "m.gguf"}),
        Layer(b"MIT", f"{CNCF}.doc.v1.raw", {FILEPATH: "LICENSE"}),
        files={"m.gguf": WEIGHTS, "LICENSE": b"MIT"},
        artifact_type="",
    ),
    Product(
        *("Ollama", "with every kind of layer", "ollama"),
        tuple(
            Layer(f"{kind} {number}".encode(), f"{OLLAMA}.{kind}")
            for number, kind in enumerate(
                (
                    "model",
                    "projector",
                    "adapter",
                    "template",
                    "system",
                    "params",
                    "messages",
                    "license",
                    "license",
                    "adapter",
                )
            )
        ),
        config_type=DOCKER_CONFIG,
        media_type=DOCKER_MANIFEST,
        files={
            "model.gguf": b"model 0",
            "projector.gguf": b"projector 1",
            "adapter.gguf": b"adapter 2",
            "template": b"template 3",
            "system": b"system 4",
            "params.json": b"params 5",
            "messages.json": b"messages 6",
            "LICENSE": b"license 7",
            "LICENSE.2": b"license 8",
            "adapter-2.gguf": b"adapter 9",
        },
    ),
    Product(
        *("Ollama", "with named layers", "ollama"),
        (
            Layer(WEIGHTS, f"{OLLAMA}.tensor", fields={"name": "model.embed_tokens.weight"}),
            Layer(b"{}", f"{OLLAMA}.json", fields={"name": "tokenizer/config.json"}),
            Layer(b"MIT", f"{OLLAMA}.license"),
        ),
        config_type=DOCKER_CONFIG,
        media_type=DOCKER_MANIFEST,
        files={"model.embed_tokens.weight": WEIGHTS, "tokenizer/config.json": b"{}", "LICENSE": b"MIT"},
    ),
    Product(
        *("KServe modelcar", "`FROM busybox`, `COPY data/ /models/`", "image"),
        _image_layers(_BASE, [images.directory("models"), images.file("models/d/model.safetensors", WEIGHTS)]),
        config_type=IMAGE_CONFIG,
        files={"d/model.safetensors": WEIGHTS},
    ),
    Product(
        *("RamaLama", "`--type car`, `raw`", "image"),
        _image_layers(
            _BASE,
            [
                images.directory("models"),
                images.file("models/tiny/tiny.gguf", WEIGHTS),
                images.symlink("models/model.file", "tiny/tiny.gguf"),
            ],
        ),
        config_type=IMAGE_CONFIG,
        config=b'{"config":{"Labels":{"org.containers.type":"ai.image.model.car"}}}',
        files={"tiny/tiny.gguf": WEIGHTS, "model.file": WEIGHTS},
    ),
    Product(
        *("any image builder", "Docker schema 2", "image"),
        _image_layers(
            [images.file("model/old.bin", b"1"), images.file("model/d/a", b"1")],
            [
                *(images.whiteout("model/old.bin"), images.opaque("model/d")),
                *(images.file("model/w", WEIGHTS), images.symlink("model/latest", "/model/w")),
            ],
            media_type="application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        config_type=DOCKER_CONFIG,
        media_type=DOCKER_MANIFEST,
        files={"w": WEIGHTS, "latest": WEIGHTS},
    ),
    Product(
        *("any image builder", "`FROM scratch`, the model at the root", "image"),
        _image_layers([images.file("model.safetensors", WEIGHTS), images.file("config.json", b"{}")]),
        config_type=IMAGE_CONFIG,
        files={"model.safetensors": WEIGHTS, "config.json": b"{}"},
    ),
    Product(
        *("any image builder", "an image without a model", "image"),
        _image_layers(_BASE),
        config_type=IMAGE_CONFIG,
        refusal="a container image without a model",
    ),
)
