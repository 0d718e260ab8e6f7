"""What is fuzzed: a name, a function that takes any bytes, and the seeds from which the fuzzer starts.

A target calls our code as the driver does, catches the kinds of error that the code promises, and asserts what must hold of every
answer. Anything else that it raises is a finding. To add one, write the function and its line in `TARGETS`.
"""

from __future__ import annotations

import atexit
import json
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from modelcsi.artifact.artifact import Artifact, recognise, wanted_config
from modelcsi.artifact.facts import model_facts, producer_of
from modelcsi.artifact.gitignore import PatternList
from modelcsi.artifact.image_tree import concerns, image_reading, settled
from modelcsi.artifact.index import Platform, walk
from modelcsi.artifact.layer import TAR, Layer, sniff_codec
from modelcsi.artifact.members import Member, MemberType, Reading
from modelcsi.artifact.paths import normalise_path
from modelcsi.artifact.patterns import NameList, judge
from modelcsi.artifact.selection import Selection
from modelcsi.artifact.tar import Data, Start, TarParser
from modelcsi.artifact.tree import EntryType, FileTree, build_tree, wanted_layers
from modelcsi.config.file import load_config
from modelcsi.errors import CorruptContent, InvalidRequest, ModelCsiError, UnsupportedArtifact
from modelcsi.mount import wire as holding
from modelcsi.oci.descriptor import Descriptor
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_json_object, parse_manifest
from modelcsi.oci.reference import Reference
from modelcsi.pack.facts import read_facts
from modelcsi.pack.walk import walk as walk_files
from modelcsi.packets import encode
from modelcsi.pull.decode import decode
from modelcsi.registry.challenge import parse_challenges
from modelcsi.registry.docker_config import matching, parse_json
from modelcsi.registry.hosts_toml import read_hosts
from modelcsi.view import wire as demands
from modelcsi.volume.spec import VolumeSpec, parse_spec
from tests.fuzz import seeds
from tests.fuzz.archives import seed_tars

_NODE = Platform("linux", "amd64")
_REFERENCE = Reference.parse("registry.example.com/team/model:v1")
_SELECTIONS = (Selection(), Selection(exclude_weights=True), Selection(include=("*.json",)), Selection(sub_path="a"))
_SHOWN_OF_IMAGES = (Selection(), Selection(sub_path="."), Selection(sub_path="a"), Selection(exclude=("*.txt",)))
_MAX_DECODED_BYTES = 1 << 20


@dataclass(frozen=True)
class Target:
    """Something that reads bytes which others wrote."""

    run: Callable[[bytes], None]
    """Returns for whatever is read or refused; raises for a finding."""
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[str, ...] = ()
    """What the fuzzer puts in besides single bytes."""


def manifest(data: bytes) -> None:
    """From the bytes that a registry serves to the tree of what need not be fetched for it."""
    with suppress(UnsupportedArtifact, CorruptContent):
        parsed = parse_manifest(data)
        if isinstance(parsed, Index):
            return
        wanted_config(parsed)
        producer_of(parsed, {})
        model_facts({}, parsed.annotations)
        _judge(recognise(parsed, Digest.of(data)))


def index(data: bytes) -> None:
    """Which entry of an index is meant, whatever its entries turn out to be."""
    children = seeds.manifests()

    def read(entry: Descriptor) -> Manifest | Index:
        return parse_manifest(children[int(entry.digest.hex[:2], 16) % len(children)])

    with suppress(UnsupportedArtifact):
        parsed = parse_manifest(data)
        if isinstance(parsed, Index):
            assert list(walk(parsed, _NODE, read))


def config(data: bytes) -> None:
    """What a config tells about a model."""
    with suppress(UnsupportedArtifact):
        document = parse_json_object(data, "the config", MAX_MANIFEST_BYTES)
        facts = model_facts(document, {})
        producer_of(_modelkit(data), document)
        json.dumps(facts).encode()


def kitfile(data: bytes) -> None:
    """The config of a ModelKit, which says where its layers go, and the same text as an annotation."""
    manifest = _modelkit(data)
    with suppress(UnsupportedArtifact, CorruptContent):
        model_facts({}, {"ml.kitops.modelkit.kitfile": data.decode("utf-8", "replace")})
        _judge(recognise(manifest, Digest.of(data), data))


def tar(data: bytes) -> None:
    """A tar, compressed or not, that arrives in pieces of any size: the first byte says of which."""
    size = data[0] + 1 if data else 1
    stream = data[1:]
    pieces = (stream[start : start + size] for start in range(0, len(stream), size))
    codec = sniff_codec(TAR, stream[:512])
    parser, members, decoded = TarParser("the tar"), list[Member](), 0
    with suppress(UnsupportedArtifact):
        for piece in decode(codec.compression, pieces, "the tar"):
            for event in parser.feed(memoryview(piece)):
                if isinstance(event, Start):
                    members.append(event.member)
                else:
                    assert not isinstance(event, Data) or members
            decoded += len(piece)
            if decoded > _MAX_DECODED_BYTES:
                return
        parser.finish()
    _check_members(members)
    with suppress(UnsupportedArtifact):
        _check_tree(build_tree(_ONE_TAR, {_ONE_TAR.layers[0].digest: members}, Selection()))


def image(data: bytes) -> None:
    """The same bytes as a layer over an honest one, and over itself; the first byte says what of the image is shown."""
    selection = _SHOWN_OF_IMAGES[data[0] % len(_SHOWN_OF_IMAGES)] if data else Selection()
    base, top = seed_tars()[0], data[1 : _MAX_DECODED_BYTES + 1]
    layers = tuple(
        Layer(
            Descriptor("application/vnd.oci.image.layer.v1.tar", Digest.of(content), len(content)), TAR, is_image=True
        )
        for content in (base, top, top)
    )

    def read(asked: Selection) -> dict[Digest, list[Member]]:
        reading = image_reading(asked)
        return {
            layer.digest: _image_members(stream, reading)
            for layer, stream in zip(layers, (base, top, top), strict=True)
        }

    with suppress(UnsupportedArtifact):
        found = settled(layers, selection, read)
        _check_tree(build_tree(Artifact(Digest.of(data), "image", layers, overlay=True), read(found), found))


def _image_members(stream: bytes, reading: Reading) -> list[Member]:
    parser = TarParser("the layer", partial(concerns, reading))
    members = [event.member for event in parser.feed(memoryview(stream)) if isinstance(event, Start)]
    parser.finish()
    _check_members(members)
    return members


def docker_config(data: bytes) -> None:
    """A pull secret, and what a registry asks for."""
    with suppress(InvalidRequest):
        document = parse_json(data, "the secret")
        for credentials in matching(document.get("auths", document), _REFERENCE, "the secret"):
            assert "\n" not in credentials.basic
            credentials.redact(credentials.fingerprint(b"salt"))
    parse_challenges(data.decode("latin-1").splitlines())


def hosts(data: bytes) -> None:
    """containerd's hosts.toml, which an administrator wrote."""
    with suppress(InvalidRequest):
        read_hosts(_in_a_file("hosts.toml", data))


def driver_config(data: bytes) -> None:
    """The driver's own YAML."""
    with suppress(InvalidRequest):
        load_config(_in_a_file("config.yaml", data) / "config.yaml", {})


def model_headers(data: bytes) -> None:
    """What `modelcsi pack` reads of a model: config.json and the headers of weights, all with these bytes."""
    directory = _in_a_file("config.json", data)
    for name in ("model.safetensors", "model.gguf", "README.md", "LICENSE"):
        shutil.copyfile(directory / "config.json", directory / name)
    with suppress(ModelCsiError):
        files = walk_files(directory).files
        json.dumps(read_facts(files).config()).encode()
        read_facts([file for file in files if file.path != "config.json"])


def patterns(data: bytes) -> None:
    """Patterns of both kinds, one a line, and the path that the last line is."""
    *lines, path = data[:2000].decode("utf-8", "surrogateescape").split("\n")
    PatternList(lines).names(path)
    for pattern in lines:
        judge(pattern, path.split("/"))
    NameList(lines).judge(path.rpartition("/")[2])
    with suppress(UnsupportedArtifact):
        normalised = normalise_path(path, "the path")
        assert normalised == normalise_path(normalised, "the path")


def attributes(data: bytes) -> None:
    """A pod's volume attributes."""
    with suppress(InvalidRequest):
        values = parse_json(data, "the attributes")
        if all(isinstance(value, str) for value in values.values()):
            spec = parse_spec("csi-1", "/var/lib/kubelet/target", values, {}, "model.csi.modelpack.org")
            if isinstance(spec, VolumeSpec):
                assert spec.selection == Selection.from_key(spec.selection.key())


def packets(data: bytes) -> None:
    """What another process of the node says on a socket: a message, which says the same again, or ValueError."""
    for read in (demands.read_by_driver, demands.read_by_server, holding.read_by_server, holding.read_from_peer):
        with suppress(ValueError):
            message = read(data)
            assert message == read(encode(message)), message


TARGETS: Mapping[str, Target] = {
    "manifest": Target(manifest, seeds.manifests, seeds.MANIFEST_WORDS),
    "index": Target(index, seeds.indexes, seeds.MANIFEST_WORDS),
    "config": Target(config, seeds.configs, seeds.CONFIG_WORDS),
    "kitfile": Target(kitfile, seeds.kitfiles, seeds.CONFIG_WORDS),
    "tar": Target(tar, seeds.cut_tars, seeds.TAR_WORDS),
    "image": Target(image, seeds.cut_tars, (*seeds.TAR_WORDS, ".wh.", ".wh..wh..opq", "models/")),
    "docker-config": Target(
        docker_config, seeds.docker_configs, ("auths", "auth", "identitytoken", "registry.example.com")
    ),
    "hosts": Target(hosts, seeds.hosts, ("[host.", "server", "capabilities", "[[[[[[", "{a={a={a=")),
    "driver-config": Target(
        driver_config, seeds.driver_configs, ("? ", "- ", "&a", "*a", "<<: ", "!!", "{{{{", "[[[[")
    ),
    "model-headers": Target(model_headers, seeds.model_headers, ("shape", "dtype", "GGUF", "general.architecture")),
    "packets": Target(packets, seeds.packets, ("op", "want", "hold", "changed", "verified", "1e999", "NaN")),
    "patterns": Target(patterns, seeds.patterns, ("**", "/**/", "[!", "[[:alpha:]]", "\\")),
    "attributes": Target(attributes, seeds.attributes, ("modelRef", "include", "exclude", "subPath", "layout", "..")),
}


def _only_tar() -> Artifact:
    layer = Descriptor("application/vnd.cncf.model.weight.v1.tar", Digest.of(b"tar"), 1)
    parsed = Manifest("", "application/vnd.cncf.model.manifest.v1+json", None, (layer,), {})
    return recognise(parsed, Digest.of(b"manifest"))


_ONE_TAR = _only_tar()


def _modelkit(config_data: bytes) -> Manifest:
    """The example of a ModelKit with another config."""
    document: dict[str, Any] = json.loads(seeds.example("kitops-modelkit-tar"))
    document["config"] |= {"digest": str(Digest.of(config_data)), "size": len(config_data)}
    parsed = parse_manifest(json.dumps(document).encode())
    assert isinstance(parsed, Manifest)
    return parsed


def _judge(artifact: Artifact) -> None:
    """Every selection's tree of an artifact whose tars hold one file each."""
    for layer in artifact.layers:
        for path in filter(None, (layer.path, layer.sole_member_path)):
            assert path == normalise_path(path, layer.where)
    file = Member("a/b", MemberType.FILE, 1, 0o4777, 1, sha256="00")
    for selection in _SELECTIONS:
        members = {layer.digest: [file] for layer in wanted_layers(artifact, selection) if layer.codec.is_tar}
        with suppress(UnsupportedArtifact):
            _check_tree(build_tree(artifact, members, selection))


def _check_members(members: Iterable[Member]) -> None:
    for member in members:
        assert not {"", ".", ".."} & set(member.path.split("/")), member
        assert 0 <= member.mode <= 0o777, member
        assert member.size >= 0, member


def _check_tree(tree: FileTree) -> None:
    """Each entry inside, below a directory, with no bit that a pod could be harmed by."""
    directories = {entry.path for entry in tree.entries if entry.type is EntryType.DIRECTORY} | {""}
    for entry in tree.entries:
        assert not {"", ".", ".."} & set(entry.path.split("/")), entry
        assert posixpath.dirname(entry.path) in directories, entry
        if entry.type is not EntryType.SYMLINK:
            assert entry.mode & 0o444 == 0o444, entry
            assert not entry.mode & ~0o555, entry
        else:
            assert not posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.target)).startswith(
                ("/", "..")
            ), entry


def _in_a_file(name: str, data: bytes) -> Path:
    """The directory, which no other target uses, of a file with these bytes."""
    directory = _scratch(name)
    (directory / name).write_bytes(data)
    return directory


@cache
def _scratch(name: str) -> Path:
    directory = tempfile.mkdtemp(prefix=f"modelcsi-fuzz-{name}-")
    atexit.register(shutil.rmtree, directory)
    return Path(directory)
