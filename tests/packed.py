"""What `modelcsi pack` makes of a small model, in each of its formats."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from modelcsi.artifact.layer import RAW, TAR, TAR_GZIP, TAR_ZSTD, Codec
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import open_layout
from modelcsi.pack.pack import PackSettings, pack
from modelcsi.pack.walk import walk
from tests.product import Layer, Product

_REFERENCE = Reference.parse("registry.test/models/tiny:v1")
_FILES = {
    "d/model.safetensors": (b"weights" * 100, 0o600),
    "config.json": (b"{}", 0o644),
    "scripts/run.py": (b"print()\n", 0o755),
}


def _packed(codec: Codec) -> Product:
    with TemporaryDirectory() as scratch:
        model, output = Path(scratch) / "model", Path(scratch) / "packed.oci"
        for path, (content, mode) in _FILES.items():
            (model / path).parent.mkdir(parents=True, exist_ok=True)
            (model / path).write_bytes(content)
            (model / path).chmod(mode)
        pack(walk(model), output, PackSettings(_REFERENCE, codec))
        packed = open_layout(output, _REFERENCE)
        manifest = json.loads(packed.content)
        blobs = {str(blob.digest): packed.blob(blob.digest).read_bytes() for blob in packed.blobs}
    return Product(
        *("modelcsi", "`pack`, all formats", "modelpack"),
        tuple(Layer(blobs[layer["digest"]], layer["mediaType"], layer["annotations"]) for layer in manifest["layers"]),
        artifact_type=manifest["artifactType"],
        config_type=manifest["config"]["mediaType"],
        config=blobs[manifest["config"]["digest"]],
        annotations=manifest["annotations"],
        files={path: content for path, (content, _) in _FILES.items()},
        modes={path: mode & 0o555 | 0o444 for path, (_, mode) in _FILES.items()},
    )


PACKED = tuple(map(_packed, (RAW, TAR, TAR_GZIP, TAR_ZSTD)))
