"""What producers also write, and may: each as the rules of docs/artifacts.md have it."""

from __future__ import annotations

import gzip
import json
import tarfile

import pytest

from modelcsi.artifact.selection import Selection
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.pull.puller import Puller
from tests import images
from tests.fakes.registry import FakeRegistry
from tests.producers import CNAI, CNCF, DOCKER, IMAGE_CONFIG, KIT
from tests.product import EMPTY, Layer, Product
from tests.unit.artifact.builders import FILEPATH, IMAGE_LAYER, METADATA, TITLE, files_tar, tar_info, tar_of
from tests.unit.pull.conftest import Pod, tree_of

_UNPACK = "io.deis.oras.content.unpack"
_NO_WEIGHTS = Selection(exclude_weights=True)
_NOTHING = Selection()
_WEIGHT, _DOC, _CODE = f"{CNCF}.weight.v1", f"{CNCF}.doc.v1", f"{CNCF}.code.v1"
_README = Layer(b"# model\n", f"{_DOC}.raw", {FILEPATH: "README.md"})
_A_TAR = files_tar({"d/x": b"1"})
_A_DIRECTORY = tar_of(
    (tar_info(".", type=tarfile.DIRTYPE), b""),
    (tar_info("./d/x", b"1"), b"1"),
    (tar_info("./d/l", type=tarfile.SYMTYPE, target="x"), b""),
)


def modelpack(*layers: Layer) -> Product:
    """An artifact of modctl."""
    return Product("", "", "modelpack", layers, f"{CNCF}.manifest.v1+json")


def generic(*layers: Layer) -> Product:
    """An artifact of ORAS."""
    return Product("", "", "generic", layers, "application/vnd.unknown.artifact.v1")


def kit(kitfile: object, *layers: Layer) -> Product:
    """A ModelKit of KitOps 1.10."""
    config = json.dumps(kitfile).encode()
    return Product("", "", "modelkit", layers, f"{KIT}.manifest.v1+json", f"{KIT}.config.v1+json", config)


def image(*layers: images.Layer) -> Product:
    """A container image."""
    packed = (Layer(gzip.compress(images.tar(layer)), f"{IMAGE_LAYER}+gzip") for layer in layers)
    return Product("", "", "image", tuple(packed), config_type=IMAGE_CONFIG)


MOUNTED: dict[str, tuple[Product, Selection, dict[str, bytes]]] = {
    "an empty tar": (modelpack(Layer(bytes(1024), f"{_CODE}.tar"), _README), _NOTHING, {"README.md": b"# model\n"}),
    "a tar of no bytes": (modelpack(Layer(b"", f"{_CODE}.tar"), _README), _NOTHING, {"README.md": b"# model\n"}),
    "a tar that calls itself compressed": (modelpack(Layer(_A_TAR, f"{_CODE}.tar+zstd")), _NOTHING, {"d/x": b"1"}),
    "gzip in two members": (
        modelpack(Layer(gzip.compress(_A_TAR[:700]) + gzip.compress(_A_TAR[700:]), f"{_CODE}.tar+gzip")),
        _NOTHING,
        {"d/x": b"1"},
    ),
    "a raw file that is compressed": (
        modelpack(Layer(gzip.compress(b"x", mtime=0), f"{_DOC}.raw", {FILEPATH: "x.gz"})),
        _NOTHING,
        {"x.gz": gzip.compress(b"x", mtime=0)},
    ),
    "an empty file of an image layer's type": (
        modelpack(Layer(b"", IMAGE_LAYER, {TITLE: "__init__.py"})),
        _NOTHING,
        {"__init__.py": b""},
    ),
    "dots that mean nothing": (
        modelpack(
            Layer(b"1", f"{_DOC}.raw", {FILEPATH: "a/../model..v2.bin"}),
            Layer(b"2", f"{_DOC}.raw", {FILEPATH: ".//..hidden"}),
        ),
        _NOTHING,
        {"model..v2.bin": b"1", "..hidden": b"2"},
    ),
    "an empty path beside a title": (
        modelpack(Layer(b"1", f"{_DOC}.raw", {FILEPATH: "", TITLE: "t"})),
        _NOTHING,
        {"t": b"1"},
    ),
    "a name in the metadata only": (
        modelpack(Layer(b"1", f"{_DOC}.raw", {METADATA: '{"name":"d/x","mode":0,"mtime":"0001-01-01T00:00:00Z"}'})),
        _NOTHING,
        {"d/x": b"1"},
    ),
    "a file that nobody named": (
        modelpack(Layer(b"1", f"{_DOC}.raw")),
        _NOTHING,
        {f"sha256-{Digest.of(b'1').hex}": b"1"},
    ),
    "types that no tool writes": (
        modelpack(
            Layer(gzip.compress(_A_TAR), "application/vnd.cncf.modelpack.model.layer.v1.tar+gzip"),
            Layer(b"1", f"{CNAI}.unknown.v1.raw", {"org.cnai.model.filepath": "u"}),
        ),
        _NOTHING,
        {"d/x": b"1", "u": b"1"},
    ),
    "an annotation that is null": (
        modelpack(Layer(b"1", f"{_DOC}.raw", fields={"annotations": {FILEPATH: "a", TITLE: None}})),
        _NOTHING,
        {"a": b"1"},
    ),
    "content in its descriptor, and elsewhere": (
        modelpack(Layer(b"e30", f"{_DOC}.raw", {FILEPATH: "a"}, {"data": "ZTMw", "urls": ["http://169.254.169.254/"]})),
        _NOTHING,
        {"a": b"e30"},
    ),
    "weights of other formats": (
        modelpack(
            Layer(b"1", f"{KIT}.modelpart.v1.raw", {FILEPATH: "a.dat"}),
            Layer(b"2", f"{DOCKER}.gguf.v3", {FILEPATH: "b.dat"}),
            _README,
        ),
        _NO_WEIGHTS,
        {"README.md": b"# model\n"},
    ),
    "a model's directory without its weights": (
        modelpack(Layer(files_tar({"m.safetensors": b"1", "m.json": b"2"}), f"{_WEIGHT}.tar", {FILEPATH: "."})),
        _NO_WEIGHTS,
        {"m.json": b"2"},
    ),
    "a directory of ORAS that is the root": (
        generic(Layer(gzip.compress(_A_DIRECTORY), f"{IMAGE_LAYER}+gzip", {TITLE: ".", _UNPACK: "true"})),
        _NOTHING,
        {"d/x": b"1", "d/l": b"1"},
    ),
    "a tar that is not to be unpacked": (
        generic(Layer(gzip.compress(_A_TAR, mtime=0), "application/x.tar+gzip", {TITLE: "q", _UNPACK: "false"})),
        _NOTHING,
        {"q": gzip.compress(_A_TAR, mtime=0)},
    ),
    "a file that has its directory's name": (
        kit(
            {"code": [{"path": "foo", "digest": f"sha256:{'a' * 64}"}]},
            Layer(files_tar({"foo/foo": b"1"}), f"{KIT}.code.v1.tar", {FILEPATH: "foo"}),
        ),
        _NOTHING,
        {"foo/foo": b"1"},
    ),
    "a bundle of MCP": (
        kit({}, Layer(b"zip", f"{KIT}.mcpb.v1.raw", {FILEPATH: "server.mcpb"})),
        _NOTHING,
        {"server.mcpb": b"zip"},
    ),
    "an image whose /models is a link": (
        image(
            [images.directory("opt/models"), images.file("opt/models/m.gguf", b"1")],
            [images.symlink("models", "/opt/models")],
        ),
        _NOTHING,
        {"m.gguf": b"1"},
    ),
    "an image that made /models anew": (
        image([images.file("models/old", b"1")], [images.whiteout("models"), images.file("models/new", b"2")]),
        _NOTHING,
        {"new": b"2"},
    ),
    "an image that emptied /models": (
        image([images.file("models/x", b"1")], [images.whiteout("models/x"), images.file("model/y", b"2")]),
        _NOTHING,
        {"y": b"2"},
    ),
    "an image with a device that nobody wants": (
        image([images.Change("models/null", tarfile.FIFOTYPE), images.file("models/a", b"1")]),
        Selection(exclude=("null",)),
        {"a": b"1"},
    ),
}

REFUSED: dict[str, tuple[Product, str]] = {
    "nothing but an empty tar": (modelpack(Layer(bytes(1024), f"{_CODE}.tar")), "no content"),
    "no layers": (generic(), "no content"),
    "the empty layer": (generic(Layer(b"{}", EMPTY)), "no content"),
    "an encrypted layer": (modelpack(Layer(b"1", f"{_WEIGHT}.tar+encrypted", {FILEPATH: "x"})), "is encrypted"),
    "a kit on a kit named by its digest": (
        kit(
            {"model": {"path": f"registry.test/base@sha256:{'a' * 64}"}, "docs": [{"path": "R"}]},
            Layer(b"R", f"{KIT}.docs.v1.raw", {FILEPATH: "R"}),
        ),
        "in another ModelKit",
    ),
    "a signature of cosign": (
        Product("", "", "", (Layer(b"{}", "application/vnd.dev.cosign.simplesigning.v1+json"),), "", IMAGE_CONFIG),
        "a signature, not a model",
    ),
    "a signature of notation": (
        Product("", "", "", (Layer(b"{}", "application/jose+json"),), "", "application/vnd.cncf.notary.signature"),
        "a signature, not a model",
    ),
}


@pytest.mark.parametrize("name", MOUNTED)
def test_what_may_be_written_mounts(puller: Puller, fake: FakeRegistry, name: str) -> None:
    """All files at their places, and no others."""
    product, selection, files = MOUNTED[name]
    product.push(fake.content, "models/odd", "v1")

    assert files == tree_of(Pod(puller, f"{fake.host}/models/odd:v1", selection=selection).pull().path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_is_refused(puller: Puller, fake: FakeRegistry, name: str) -> None:
    """With the reason."""
    product, reason = REFUSED[name]
    product.push(fake.content, "models/odd", "v1")
    with pytest.raises(UnsupportedArtifact, match=reason):
        Pod(puller, f"{fake.host}/models/odd:v1").pull()
