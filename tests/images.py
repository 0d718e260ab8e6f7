"""Container images for tests: their layers as changes, as tars, and as a plain program would apply them."""

from __future__ import annotations

import gzip
import json
import random
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zstandard

from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import DOCKER_MANIFEST, OCI_MANIFEST
from tests.fakes.content import Content
from tests.unit.artifact.builders import tar_info, tar_of

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

CODECS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": lambda content: gzip.compress(content, 1, mtime=0),
    "zstd": lambda content: zstandard.compress(content, 1),
}


@dataclass(frozen=True)
class Change:
    """One member of a layer."""

    path: str
    type: bytes = tarfile.REGTYPE
    content: bytes = b""
    target: str = ""


Layer = Sequence[Change]
Tree = dict[str, bytes | str | None]
"""Path -> content of a file, target of a symbolic link, None of a directory."""


def file(path: str, content: bytes = b"content") -> Change:
    """A regular file."""
    return Change(path, content=content)


def directory(path: str) -> Change:
    """A directory."""
    return Change(path, tarfile.DIRTYPE)


def symlink(path: str, target: str) -> Change:
    """A symbolic link."""
    return Change(path, tarfile.SYMTYPE, target=target)


def hardlink(path: str, target: str) -> Change:
    """Another name of a file."""
    return Change(path, tarfile.LNKTYPE, target=target)


def whiteout(path: str) -> Change:
    """What the layers below have at a path is gone."""
    parent, _, name = path.rpartition("/")
    return Change(f"{parent}/.wh.{name}" if parent else f".wh.{name}")


def opaque(path: str) -> Change:
    """What the layers below have in a directory is gone."""
    return Change(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq")


def tar(layer: Layer) -> bytes:
    """A layer's tar."""
    return tar_of(
        *(
            (tar_info(change.path, change.content, type=change.type, target=change.target), change.content)
            for change in layer
        )
    )


def push_image(
    content: Content, repository: str, tag: str, *layers: Layer | bytes, codec: str = "gzip", docker: bool = False
) -> list[str]:
    """Put an image into a fake registry; the digests of its layers."""
    suffix = (f".{codec}" if docker else f"+{codec}") if codec else ""
    tars = [layer if isinstance(layer, bytes) else tar(layer) for layer in layers]
    blobs = [CODECS[codec](layer) for layer in tars]
    root = {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in tars]}
    document = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": root}
    config = content.add_blob(repository, json.dumps(document).encode())
    for blob in blobs:
        content.add_blob(repository, blob)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, str(config.digest), config.size),
        "layers": [
            _descriptor((DOCKER_LAYER if docker else OCI_LAYER) + suffix, str(Digest.of(blob)), len(blob))
            for blob in blobs
        ],
    }
    content.add_manifest(repository, manifest, tag, media_type)
    return [str(Digest.of(blob)) for blob in blobs]


def applied(layers: Sequence[Layer]) -> Tree:
    """The root of an image, by the shortest program that follows image-spec's words: a table of all paths."""
    tree: Tree = {}
    for layer in layers:
        for change in layer:
            parent, _, name = change.path.rpartition("/")
            if name == ".wh..wh..opq":
                _remove(tree, f"{parent}/" if parent else "")
            elif name.startswith(".wh."):
                hidden = f"{parent}/{name[4:]}" if parent else name[4:]
                tree.pop(hidden, None)
                _remove(tree, f"{hidden}/")
        for change in layer:
            if change.path.rpartition("/")[2].startswith(".wh."):
                continue
            parents = change.path.split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                above = "/".join(parents[:depth])
                if tree.get(above, b"") is not None:
                    tree[above] = None
            if change.type == tarfile.DIRTYPE:
                tree[change.path] = None
                continue
            _remove(tree, f"{change.path}/")
            content = change.target if change.type == tarfile.SYMTYPE else change.content
            tree[change.path] = tree[change.target] if change.type == tarfile.LNKTYPE else content
    return tree


def below(tree: Tree, root: str) -> Tree:
    """What is in a directory."""
    return {path.removeprefix(f"{root}/"): what for path, what in tree.items() if path.startswith(f"{root}/")}


def random_layers(rng: random.Random, count: int = 4) -> list[list[Change]]:
    """Layers as builders make them: a name is once in a layer, whiteouts hide what is there, links lead to what is there."""
    layers: list[list[Change]] = []
    for number in range(count):
        layer: list[Change] = []
        taken: dict[str, bool] = {}  # path -> whether it is a directory
        for _ in range(rng.randint(1, 8)):
            change = _random_change(rng, applied([*layers, layer]), f"{number}.{len(layer)}")
            if change is not None and _fits(change, taken):
                layer.append(change)
        layers.append(layer)
    return layers


def with_parents(layer: Layer) -> list[Change]:
    """The layer with a member for each directory that it takes for granted, as builders write it."""
    result: list[Change] = []
    written: set[str] = set()
    for change in layer:
        parts = change.path.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        result += [directory(path) for path in above if path not in written]
        written |= {*above, change.path}
        result += [] if change.type == tarfile.DIRTYPE and directory(change.path) in result else [change]
    return result


def _random_change(rng: random.Random, tree: Tree, content: str) -> Change | None:
    top = rng.choice(["models", "models", "models", "etc"])
    path = "/".join([top, *rng.choices("abc", k=rng.randint(1, 3))])
    files = [known for known, what in tree.items() if isinstance(what, bytes) and known.startswith("models/")]
    match rng.randrange(8):
        case 0 | 1 | 2:
            return file(path, content.encode())
        case 3:
            return directory(path)
        case 4:
            return symlink(path, rng.choice("abc"))
        case 5:
            return hardlink(path, rng.choice(files)) if files and top == "models" else None
        case 6:
            return whiteout(rng.choice(sorted(tree))) if tree else None
        case _:
            directories = [known for known, what in tree.items() if what is None]
            return opaque(rng.choice(sorted(directories))) if directories else None


def _fits(change: Change, taken: dict[str, bool]) -> bool:
    """Whether builders would write it beside the others of its layer: each path once, no file below a file, no whiteout of
    what the layer itself has.
    """
    parent, _, name = change.path.rpartition("/")
    path = change.path
    if name.startswith(".wh."):
        path = parent if name == ".wh..wh..opq" else "/".join(filter(None, [parent, name[4:]]))
        if any(f"{other}/".startswith(f"{path}/") for other in taken):
            return False
    if change.type == tarfile.LNKTYPE:
        if f"{path}/".startswith(f"{change.target}/") or f"{change.target}/".startswith(f"{path}/"):
            return False
        if any(f"{change.target}/".startswith(f"{other}/") for other in taken if other != change.target):
            return False
    above = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)]
    if path in taken or any(not taken.get(other, True) for other in above):
        return False
    if any(other.startswith(f"{path}/") for other in taken):
        return False
    taken |= {change.target: False} if change.type == tarfile.LNKTYPE else {}
    taken |= dict.fromkeys(above, True) | {path: change.type == tarfile.DIRTYPE}
    return True


def _remove(tree: Tree, prefix: str) -> None:
    for path in [path for path in tree if path.startswith(prefix)]:
        del tree[path]


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}
