from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from modelcsi.artifact.artifact import recognise
from modelcsi.artifact.facts import model_facts, producer_of
from modelcsi.artifact.layer import RAW, TAR, TAR_GZIP, TAR_ZSTD, Codec, Layer
from modelcsi.artifact.members import Member
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tree import EntryType, build_tree
from modelcsi.errors import InvalidRequest
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import PackedArtifact
from modelcsi.pack.pack import PackSettings, pack
from modelcsi.pack.walk import walk
from modelcsi.pull.decode import decode
from tests.unit.artifact.builders import feed
from tests.unit.pack.conftest import FILES, MTIME_NS, Packer, manifest_of, write

CODECS = (RAW, TAR, TAR_GZIP, TAR_ZSTD)
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"


def decoded(artifact: PackedArtifact, layer: Layer) -> bytes:
    """A layer's bytes without compression."""
    content = artifact.blob(layer.digest).read_bytes()
    return b"".join(decode(layer.codec.compression, iter([content]), "layer"))


def content_of(artifact: PackedArtifact, layer: Layer) -> tuple[Member | None, bytes]:
    """The file in a layer, and its member's header."""
    content = decoded(artifact, layer)
    if not layer.codec.is_tar:
        return None, content
    (only,), _ = feed(content)
    return only


def config_of(artifact: PackedArtifact) -> dict[str, dict[str, object]]:
    """The config's document."""
    config = manifest_of(artifact).config
    assert config is not None
    document: dict[str, dict[str, object]] = json.loads(artifact.blob(config.digest).read_bytes())
    return document


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_packed_mounts_bit_for_bit(model: Path, packed: Packer, codec: Codec) -> None:
    """Every format gives back the files, what is shown of their modes, and where they are kept their times in whole seconds."""
    artifact = packed(model, codec, keeps_times=True)
    recognised = recognise(manifest_of(artifact), artifact.digest)
    contents = {layer.digest: content_of(artifact, layer) for layer in recognised.layers}
    members = {digest: [member] for digest, (member, _) in contents.items() if member is not None}
    tree = build_tree(recognised, members, Selection())

    expected = {path: (content, mode & 0o555 | 0o444) for path, (content, mode) in FILES.items()}
    files = [entry for entry in tree.entries if entry.type is EntryType.FILE and entry.layer]
    found = {entry.path: (contents[entry.layer][1], entry.mode) for entry in files if entry.layer}
    assert (model / "model.safetensors").read_bytes() == found.pop("model.safetensors")[0]
    assert expected == found
    assert {MTIME_NS // 10**9 * 10**9} == {entry.mtime_ns for entry in files}


@pytest.mark.parametrize("codec", CODECS)
def test_same_input_gives_the_same_digest(model: Path, packed: Packer, tmp_path: Path, codec: Codec) -> None:
    """Nothing of the place, the owner or the moment goes into an artifact, nor what the order of a directory is."""
    copy = tmp_path / "elsewhere" / "copy"
    for path in sorted(model.rglob("*"), reverse=True):
        if path.is_file():
            target = copy / path.relative_to(model)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)  # without the time

    assert packed(model, codec).digest == packed(copy, codec, output="again.oci").digest


def test_a_mode_is_part_of_the_input(model: Path, packed: Packer) -> None:
    """An artifact of other modes is another one."""
    before = packed(model).digest
    (model / "run.py").chmod(0o644)

    assert before != packed(model, output="again.oci").digest


@pytest.mark.parametrize(
    ("epoch", "keeps_times", "expected"),
    [
        (None, False, "1970-01-01T00:00:00Z"),
        (1_600_000_000, False, "2020-09-13T12:26:40Z"),
        (None, True, "2023-11-14T22:13:20Z"),
        (1_600_000_000, True, "2020-09-13T12:26:40Z"),
        (1_800_000_000, True, "2023-11-14T22:13:20Z"),
    ],
)
def test_time_of_a_file(model: Path, packed: Packer, epoch: int | None, expected: str, *, keeps_times: bool) -> None:
    """1970, or SOURCE_DATE_EPOCH, or its own where that is wanted, and then SOURCE_DATE_EPOCH is the latest."""
    layers = manifest_of(packed(model, epoch=epoch, keeps_times=keeps_times)).layers
    times = {json.loads(layer.annotations["org.cncf.model.file.metadata+json"])["mtime"] for layer in layers}

    assert {expected} == times


def test_moment_is_said_only_when_it_is_given(model: Path, packed: Packer) -> None:
    """createdAt is SOURCE_DATE_EPOCH's, or absent."""
    silent, dated = packed(model), packed(model, epoch=1_600_000_000, output="dated.oci")

    assert (None, "2020-09-13T12:26:40Z") == tuple(
        config_of(artifact)["descriptor"].get("createdAt") for artifact in (silent, dated)
    )


@pytest.mark.parametrize("codec", CODECS)
def test_diff_ids_are_of_the_uncompressed_layers(model: Path, packed: Packer, codec: Codec) -> None:
    """model-spec, config.md: in the order of the layers."""
    artifact = packed(model, codec)
    layers = recognise(manifest_of(artifact), artifact.digest).layers

    assert [f"sha256:{hashlib.sha256(decoded(artifact, layer)).hexdigest()}" for layer in layers] == config_of(
        artifact
    )["modelfs"]["diffIds"]


def test_layers_come_in_the_order_of_modctl(model: Path, packed: Packer) -> None:
    """Configuration, weights, code, documentation, then data; by path within a class."""
    write(model, "train.parquet")
    types = [layer.media_type.split("model.")[1] for layer in manifest_of(packed(model)).layers]
    paths = [layer.annotations["org.cncf.model.filepath"] for layer in manifest_of(packed(model)).layers]

    assert [
        *["weight.config.v1.raw"] * 2, *["weight.v1.raw"] * 2, "code.v1.raw", *["doc.v1.raw"] * 2, "dataset.v1.raw",
    ] == types  # fmt: skip
    assert ["config.json", "tokenizer_é.json"] == paths[:2]
    assert ["README.md", "empty.txt", "train.parquet"] == paths[5:]


def test_layer_is_annotated_as_modctl_does(model: Path, packed: Packer) -> None:
    """Path, and the metadata with the fields that modctl reads; the title is for other tools."""
    layer = next(layer for layer in manifest_of(packed(model)).layers if layer.media_type.endswith(".code.v1.raw"))
    metadata = json.loads(layer.annotations["org.cncf.model.file.metadata+json"])

    assert {
        "name": "run.py", "mode": 0o755, "uid": 0, "gid": 0, "size": 520, "mtime": "1970-01-01T00:00:00Z", "typeflag": 0,
    } == metadata  # fmt: skip
    assert ("run.py", "run.py") == tuple(
        layer.annotations[key] for key in ("org.cncf.model.filepath", "org.opencontainers.image.title")
    )


def test_tar_has_no_title(model: Path, packed: Packer) -> None:
    """Tools that name a blob by its title would give the tar the name of the file in it."""
    layers = manifest_of(packed(model, TAR)).layers

    assert {False} == {"org.opencontainers.image.title" in layer.annotations for layer in layers}


def test_config_tells_what_the_model_tells(model: Path, packed: Packer) -> None:
    """Name of the repository, family and technical facts."""
    artifact = packed(model)
    config = config_of(artifact)

    assert {"name": "tiny", "family": "tiny"} == config["descriptor"]
    assert {"architecture": "transformer", "format": "pytorch", "precision": "bf16", "paramSize": "1k"} == config[
        "config"
    ]
    assert CONFIG_TYPE == getattr(manifest_of(artifact).config, "media_type", None)
    assert "application/vnd.cncf.model.manifest.v1+json" == manifest_of(artifact).artifact_type


def test_equal_files_are_one_blob(tmp_path: Path, packed: Packer) -> None:
    """Two paths, two layers, the bytes once."""
    write(tmp_path, "model/a.bin")
    write(tmp_path, "model/b.bin")
    artifact = packed(tmp_path / "model")

    assert (2, 2) == (len(manifest_of(artifact).layers), len(artifact.blobs))  # one of the two blobs is the config


def test_later_edit_does_not_reach_the_layout(model: Path, packed: Packer) -> None:
    """Blobs are copies: a layout stays what its digests say."""
    artifact = packed(model)
    with (model / "README.md").open("r+b") as file:
        file.write(b"! edited")

    assert all(blob.digest.matches(artifact.blob(blob.digest).read_bytes()) for blob in artifact.blobs)


@pytest.mark.parametrize("content", [b"shorter", b"# tin\n!", b"and now it is much longer"])
def test_file_that_changes_meanwhile_is_refused(model: Path, tmp_path: Path, content: bytes) -> None:
    """A mixture of two versions is never packed, and nothing is left of the attempt."""
    walked = walk(model)
    (model / "README.md").write_bytes(content)

    with pytest.raises(InvalidRequest, match=r"'README.md' changed while it was packed"):
        pack(walked, tmp_path / "x.oci", PackSettings(Reference.parse("a.test/b:c"), TAR_ZSTD))
    assert [model] == list(tmp_path.iterdir())


def test_reference_with_a_digest_is_refused(model: Path, tmp_path: Path) -> None:
    """Only packing tells the digest."""
    with pytest.raises(InvalidRequest, match="has a digest"):
        pack(walk(model), tmp_path / "x.oci", PackSettings(Reference.parse(f"a.test/b@sha256:{'0' * 64}"), RAW))


def test_progress_counts_the_bytes_of_the_files(model: Path, tmp_path: Path) -> None:
    """What is told while packing adds up to the files' sizes, whatever the format."""
    told: list[int] = []
    walked = walk(model)
    pack(walked, tmp_path / "x.oci", PackSettings(Reference.parse("a.test/b:c"), TAR_GZIP), told.append)

    assert sum(file.size for file in walked.files) == sum(told)


def test_gzip_says_nothing_of_the_moment(model: Path, packed: Packer) -> None:
    """RFC 1952: no time and no file name in the header."""
    artifact = packed(model, TAR_GZIP)

    assert {b"\x1f\x8b\x08\x00\x00\x00\x00\x00"} == {
        artifact.blob(layer.digest).read_bytes()[:8] for layer in manifest_of(artifact).layers
    }


def test_tar_layers_are_read_by_the_standard_library(model: Path, packed: Packer) -> None:
    """Any tar reader unpacks them."""
    artifact = packed(model, TAR)
    names = set()
    for layer in manifest_of(artifact).layers:
        with tarfile.open(artifact.blob(layer.digest)) as archive:
            names.update(archive.getnames())

    assert {*FILES, "model.safetensors"} == names


def test_artifact_names_its_producer_and_its_licence(model: Path, packed: Packer) -> None:
    """`modelcsi inspect` knows its own, and reads the licence where it was written."""
    write(model, "README.md", b"---\nlicense: apache-2.0\n---\n")
    artifact = packed(model)

    assert "modelcsi" == producer_of(manifest_of(artifact), config_of(artifact))
    assert ["Apache-2.0"] == model_facts(config_of(artifact), manifest_of(artifact).annotations)["licenses"]
