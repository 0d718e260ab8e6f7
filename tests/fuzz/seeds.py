"""What fuzzing starts from: the examples of tests/artifacts, small documents, tars of every form, and tests/fuzz/corpus/TARGET."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import zstandard

from modelcsi.oci.digest import Digest
from tests.fuzz.archives import seed_tars

CORPUS = Path(__file__).parent / "corpus"
_ARTIFACTS = Path(__file__).parent.parent / "artifacts"

MANIFEST_WORDS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.cncf.model.manifest.v1+json",
    "application/vnd.cncf.model.weight.v1.tar",
    "application/vnd.kitops.modelkit.model.v1.tar+gzip",
    "application/vnd.docker.ai.gguf.v3",
    "application/vnd.ollama.image.model",
    "application/vnd.dev.cosign.artifact.sig.v1+json",
    "org.cncf.model.filepath",
    "org.cncf.model.file.metadata+json",
    "org.opencontainers.image.title",
    "io.deis.oras.content.unpack",
    "artifactType",
    "annotations",
    "platform",
    "manifests",
    "../",
    "\\ud800",
)
CONFIG_WORDS = (
    "model",
    "parts",
    "path",
    "digest",
    "code",
    "datasets",
    "docs",
    "package",
    "license",
    "../",
    "\\ud800",
    "1e999",
)
TAR_WORDS = (
    "ustar\\x0000",
    "ustar  \\x00",
    "GNU.sparse.",
    "path=",
    "linkpath=",
    "size=",
    "mtime=",
    "../",
    "\\x80\\xff",
)
"""As libFuzzer's dictionaries spell bytes."""


def kept(target: str) -> list[bytes]:
    """What once was a finding, or reached far."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]


def example(name: str) -> bytes:
    """The manifest of an example."""
    return (_ARTIFACTS / name / "manifest.json").read_bytes()


@cache
def manifests() -> tuple[bytes, ...]:
    """Of all examples."""
    return tuple(path.read_bytes() for path in sorted(_ARTIFACTS.glob("*/manifest.json")))


def indexes() -> list[bytes]:
    """The examples that are some, and one by platform."""
    children = [example("olot-modelpack"), example("ollama")]
    platforms = [{"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64", "variant": "v8"}]
    entries = [
        _descriptor("application/vnd.oci.image.manifest.v1+json", child) | {"platform": platform}
        for child, platform in zip(children, platforms, strict=True)
    ]
    return [example("olot-index"), _json({"schemaVersion": 2, "manifests": entries})]


def configs() -> list[bytes]:
    """Every JSON object among the examples' blobs."""
    blobs = (path.read_bytes() for path in sorted(_ARTIFACTS.glob("blobs/*/*")))
    return [content for content in blobs if content.startswith(b"{")]


def kitfiles() -> list[bytes]:
    """Of all three ages of KitOps."""
    parts = [{"path": "tokenizer.json", "name": "tokenizer"}, {"path": "../up.json"}]
    old = {
        "manifestVersion": "1.0.0",
        "package": {"name": "m", "version": "1", "authors": ["a"]},
        "model": {"name": "m", "path": "models/model.safetensors", "parts": parts, "license": "MIT"},
        "code": [{"path": "src/app.py"}, {"path": "."}],
        "datasets": [{"path": "data/train.csv", "remotePath": "s3://bucket/x"}],
        "docs": [{"path": "README.md"}],
    }
    layers = json.loads(example("kitops-modelkit-tar"))["layers"]
    digests = [layer["digest"] for layer in layers]
    new = old | {
        "code": [{"path": "src", "digest": digests[2]}],
        "docs": [{"path": "d", "digest": digests[3]}],
        "datasets": [],
    }
    return [_json(old), _json(new), _json({"model": {"path": "registry.example.com/a/b:v1"}}), *configs()]


def cut_tars() -> list[bytes]:
    """The tars, plain and compressed, behind the byte that says how they are cut."""
    tars = seed_tars()
    packed = [gzip.compress(tars[0], 9, mtime=0), zstandard.compress(tars[1])]
    return [bytes([number * 37 % 256]) + stream for number, stream in enumerate([*tars, *packed])]


def docker_configs() -> list[bytes]:
    """Entries as the tools write them."""
    auth = base64.b64encode(b"alice:s3cret").decode()
    entries: list[dict[str, object]] = [
        {"auths": {"registry.example.com": {"auth": auth}}},
        {"auths": {"https://registry.example.com/v2/team": {"username": "a", "password": "b"}, "*.example.com": {}}},
        {"registry.example.com": {"auth": auth, "identitytoken": "t", "registrytoken": "u"}},
        {"auths": {"[::1]:5000/x": {"auth": None}, "docker.io": {"auth": "="}}, "credHelpers": {"a": "b"}},
    ]
    challenge = (
        b'Bearer realm="https://registry.example.com/token",service="r",scope="repository:a/b:pull"\nBasic realm=x'
    )
    return [*map(_json, entries), challenge]


def hosts() -> list[bytes]:
    """As containerd's documentation has them."""
    return [
        (
            b'server = "https://registry.example.com"\n[host."https://mirror.example.com"]\n'
            b'  capabilities = ["pull", "resolve"]\n  ca = ["ca.pem"]\n  client = [["a.pem", "a.key"], "b.pem"]\n'
            b'  override_path = true\n  x-modelcsi-checks-rights = true\n[host."https://mirror.example.com".header]\n  x-a = ["1", "2"]\n'
        ),
        b'ca = "/etc/ca.pem"\nskip_verify = true\n[host."http://127.0.0.1:5000"]\n',
    ]


def driver_configs() -> list[bytes]:
    """Keys of every type, and what YAML has besides."""
    return [
        (
            b"service_name: model.csi.modelpack.org\nroot_dir: /var/lib/modelcsi\ncsi_endpoint: unix:///csi/$NAME\n"
            b"features:\n  check_disk_quota: true\n  disk_usage_limit: 10TiB\n"
        ),
        b"a: &a {b: [1, 2.5, null, ~, 0x1f, 1e3, 2001-01-01]}\nb: *a\nc: !!binary aGk=\n<<: *a\n? [k]\n: v\n",
        b"root_dir: |\n  x\n  y\npull_config: {docker_config_dir: '', proxy_url: \"\\u0000\"}\n---\n",
    ]


def model_headers() -> list[bytes]:
    """A model's config.json; headers of safetensors and GGUF."""
    tensors = {"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, "__metadata__": {"format": "pt"}}
    header = _json(tensors)
    key, text = b"general.architecture", b"llama"
    metadata = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(text)) + text
    numbers = struct.pack("<Q", 3) + b"a.b" + struct.pack("<IIQ3I", 9, 4, 3, 1, 2, 3)
    tensor = struct.pack("<Q", 1) + b"w" + struct.pack("<IQQIQ", 2, 4, 8, 1, 0)
    return [
        _json({"model_type": "llama", "architectures": ["A"], "torch_dtype": "bfloat16", "quantization_config": {}}),
        len(header).to_bytes(8, "little") + header + bytes(12),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + metadata + numbers + tensor + bytes(64),
    ]


def patterns() -> list[bytes]:
    """A list and a path."""
    return [
        b"*.bin\n!model.bin\n/a/**/b\n[!a-z]*\n[[:digit:]x]?\\\\\na/c/d/b",
        b"a**b/\n**/x\n\\!y\n#z\n \n a \\ \na/x/y",
    ]


def packets() -> list[bytes]:
    """One of each form that processes of a node say to each other."""
    view = "0123456789abcdef" * 4
    asked = {"view": view, "file": 3, "start": 0, "end": 1 << 20}
    records: list[dict[str, object]] = [
        {"op": "hello", "pid": 7, "adapter": "passthrough", "born": 1.5},
        {"op": "want", "id": 1, "verified": True, **asked},
        {"op": "ahead", **asked},
        {"op": "failed", "id": 1, "errno": 5, "why": "gone"},
        {"op": "changed", "view": view, "files": [1, 2, 3]},
        {"op": "hold", "view": view, "adapter": "pyfuse3", "device": "0:47"},
        {"op": "orphan", "pid": 8, "adapter": "passthrough"},
        {"op": "ping"},
    ]
    return [_json(record) for record in records]


def attributes() -> list[bytes]:
    """What pods write."""
    return [
        _json(
            {
                "modelRef": "registry.example.com/a/b:v1",
                "include": '["*.json", "!x"]',
                "exclude": "a,b",
                "subPath": "a/b",
            }
        ),
        _json({"modelRef": f"a/b@sha256:{'0' * 64}", "excludeModelWeights": "true", "excludeFilePatterns": '["*"]'}),
        _json({"modelRef": "a/b", "layout": "huggingface-hub", "modelName": "org/name", "pullPolicy": "Always"}),
    ]


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def write(directory: Path, contents: Iterable[bytes]) -> None:
    """One file for each."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        (directory / f"seed-{number:03d}").write_bytes(content)
