"""The tree of a container image: layers over each other, and the directory of it that is shown.

The rules are image-spec's (layer.md, "Applying Changesets"), as text: names are looked up in the layers' own tables, never
on a disk, and no name is followed through a symbolic link. What is recorded of a layer is what may matter for the directory
that is shown; base layers have a hundred thousand other members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from modelcsi.artifact.layer import Layer
from modelcsi.artifact.members import AS_FILE, AS_TAR, MAX_MEMBERS, Form, Member, MemberType, Reading, numbered
from modelcsi.artifact.paths import MAX_DEPTH, base_name, shown
from modelcsi.artifact.selection import ROOT, Selection, has_weight_name
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest

MODEL_DIRECTORIES = ("models", "model")
"""The first that has files is shown; else the root."""
_WHITEOUT = ".wh."
_RESERVED = ".wh..wh."
_OPAQUE = ".wh..wh..opq"
_MAX_HOPS = 40
"""The kernel's own limit for one path (path_resolution(7))."""
_MAX_STEPS = 4_000_000
_MAX_ROUNDS = 5
"""A link that leads to a directory of which nothing is known has all layers read again."""
_MAX_NAME_CHARACTERS = 32 << 20
"""Of all names of an image: they stay in memory."""

# An operating system, and Python's packages, have files that are named like weights: `.pth`, `.npz`, `.bin`, `.pb`.
_SYSTEM = frozenset(
    {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr", "var"}
)
_PACKAGES = frozenset({"site-packages", "dist-packages", "node_modules"})
# Beside those of `has_weight_name`: what else a model at the root of an image may be.
_MODEL_SUFFIXES = (
    *(".bst", ".joblib", ".llamafile", ".mar", ".mnn", ".nemo", ".npy", ".ot", ".params", ".pdmodel", ".pickle"),
    *(".pkl", ".plan", ".pte", ".rknn", ".tfl", ".trt", ".weights"),
)
_UNMISTAKABLE = (".gguf", ".safetensors", ".dduf")


EVERYTHING = Reading(Form.IMAGE, ("",))


def reading_of(layer: Layer, selection: Selection) -> Reading:
    """How a layer has to be read for a selection."""
    if layer.codec.is_packed_file:
        return AS_FILE
    if not layer.is_image:
        return AS_TAR
    return image_reading(selection)


def image_reading(selection: Selection) -> Reading:
    """How the layers of an image have to be read for a selection."""
    return _around(*([selection.root] if selection.sub_path else MODEL_DIRECTORIES))


def concerns(reading: Reading, path: str) -> bool:
    """Whether a member at a path can change what is shown: it lies in one of the directories, or one of them in it.

    Members that are named like weights count as well: only they tell an image with a model at its root from others.
    """
    name = base_name(path)
    if name.startswith(_WHITEOUT):
        path = path.rpartition("/")[0]
        if name != _OPAQUE:
            path = f"{path}/{name[len(_WHITEOUT) :]}" if path else name[len(_WHITEOUT) :]
    return any(_is_related(path, directory) for directory in reading.directories) or _is_model_file(path)


def shown_path(path: str, selection: Selection) -> str | None:
    """Where a member is in the tree that is shown, as far as its layer tells; None: nowhere."""
    tops = (selection.root,) if selection.sub_path else MODEL_DIRECTORIES
    for top in tops:
        if not top or path.startswith(f"{top}/"):
            return path.removeprefix(f"{top}/") if top else path
    return None


def _around(*directories: str) -> Reading:
    return Reading(Form.IMAGE, tuple(sorted(directories)))


def _is_related(path: str, directory: str) -> bool:
    if not directory or not path or path == directory:
        return True
    return path.startswith(f"{directory}/") or directory.startswith(f"{path}/")


def _is_model_file(path: str) -> bool:
    name = path.lower()
    if not has_weight_name(name) and not name.endswith(_MODEL_SUFFIXES):
        return False
    if name.endswith(_UNMISTAKABLE):
        return True
    components = path.split("/")
    return (len(components) == 1 or components[0] not in _SYSTEM) and _PACKAGES.isdisjoint(components)


@dataclass(slots=True)
class ImageNode:
    """One entry of an image: where it came from, and, of a directory, what is in it."""

    layer: Layer
    member: Member
    number: int = -1
    """Among the members of the layer that has the bytes of a file."""
    children: dict[str, ImageNode] | None = None
    """None: no directory."""
    step: int = 0
    """Of the layer, in the image's order, that put it here or something into it."""


@dataclass(slots=True)
class _Objection:
    path: str
    text: str


@dataclass(slots=True)
class Image:
    """The merged layers, as far as they were recorded."""

    top: ImageNode
    _objections: list[_Objection] = field(default_factory=list)
    """To what one layer has in itself, which counts only where it is shown."""
    _count: int = 0
    _characters: int = 0
    _step: int = 0
    _steps: int = 0
    """Components of paths that were looked up."""

    def settle(self, selection: Selection, known: Reading = EVERYTHING) -> Selection:
        """The selection, with the directory that is shown in `sub_path`.

        The answer is the last one if `known`, by which the layers were read, covers it; else a guess, to be read next. Raises
        UnsupportedArtifact when there is no such directory, or when nothing in the image looks like a model.
        """
        if selection.sub_path:
            return replace(selection, sub_path=self._named_directory(selection.root, known) or ROOT)
        for name in MODEL_DIRECTORIES:
            directory = self._model_directory(name, known)
            if directory:
                return replace(selection, sub_path=directory)
        if not any(_is_model_file(path) for path, node in self.walk("") if node.children is None):
            raise UnsupportedArtifact(
                "the artifact is a container image without a model: it has no files in /models or /model, and none with a"
                " weight's name elsewhere",
                hint='check the reference, or name the directory that is to be shown by subPath ("." is all of the image)',
            )
        return replace(selection, sub_path=ROOT)

    def walk(self, root: str) -> Iterator[tuple[str, ImageNode]]:
        """What is below a directory, with paths relative to it; parents first."""
        here = self.find(root)
        waiting = [("", here)] if here is not None else []
        while waiting:
            path, node = waiting.pop()
            for name, child in (node.children or {}).items():
                below = f"{path}/{name}" if path else name
                yield below, child
                if child.children:
                    waiting.append((below, child))

    def refuse_objections(self, root: str) -> None:
        """Raises UnsupportedArtifact for what is wrong with what is shown."""
        for objection in self._objections:
            if not root or f"{objection.path}/".startswith(f"{root}/"):
                raise UnsupportedArtifact(objection.text)

    def link_target(self, path: str, root: str) -> str | None:
        """What the symbolic link at `root`/`path` is to point at where `root` is the root; None: at nothing in there.

        A target that stays inside as it is written stays so. Others are looked up with the image's root as the root, as
        in a container: absolute ones, and those that leave the directory and come back.
        """
        node = self.find(f"{root}/{path}" if root else path)
        assert node is not None, "it was found before"
        target = node.member.target
        parent = path.split("/")[:-1]
        if not target.startswith("/") and not _climbs(len(parent), target):
            return target
        above = [*(root.split("/") if root else []), *parent]
        if _climbs(0 if target.startswith("/") else len(above), target):
            return None  # a container's root ends all climbing; who counts on it has not this volume in mind
        found = self._below(target, root) if target.startswith("/") else None
        if found is None:
            resolved = self.resolve("/".join([*above, path.rpartition("/")[2]]))
            found = None if resolved is None else self._below(f"/{resolved}", root)
        return None if found is None else "/".join([".."] * len(parent) + [found] * bool(found)) or "."

    @staticmethod
    def _below(absolute: str, root: str) -> str | None:
        """What follows the root in an absolute path, as it is written; None: it is not below it."""
        components = [part for part in absolute.split("/") if part not in {"", "."}]
        top = root.split("/") if root else []
        rest = components[len(top) :]
        if components[: len(top)] != top or _climbs(0, "/".join(rest)):
            return None
        return "/".join(rest)

    def find(self, path: str) -> ImageNode | None:
        """The entry at a path; symbolic links are not followed."""
        node = self.top
        for name in path.split("/") if path else ():
            child = (node.children or {}).get(name)
            if child is None:
                return None
            node = child
        return node

    def resolve(self, path: str) -> str | None:
        """Where a path leads with the image's root as the root; None: nowhere, or in circles.

        A part that was not recorded, or is not there, is taken for a directory.
        """
        here: list[str] = []
        ahead = path.split("/")[::-1]
        hops = 0
        while ahead:
            name = ahead.pop()
            if name in {"", ".", ".."}:
                here = here[:-1] if name == ".." else here
                continue
            here.append(name)
            self._spend(len(here))
            node = self.find("/".join(here))
            if node is None or node.member.type is not MemberType.SYMLINK:
                continue
            hops += 1
            if hops > _MAX_HOPS or len(ahead) > 2 * MAX_DEPTH:
                return None
            target = node.member.target
            here = [] if target.startswith("/") else here[:-1]
            ahead += target.split("/")[::-1]
        return "/".join(here)

    def apply(self, layer: Layer, members: Sequence[Member]) -> None:
        """Lay one more layer over those that are here. Raises UnsupportedArtifact."""
        self._step += 1
        for member in members:  # wherever they stand in the tar, they are about the layers below
            if base_name(member.path).startswith(_WHITEOUT):
                self._white_out(layer, member)
        for number, member in numbered(members):
            if not base_name(member.path).startswith(_WHITEOUT) and f"/{_RESERVED}" not in f"/{member.path}":
                self._enter(ImageNode(layer, member, number, step=self._step))

    def _white_out(self, layer: Layer, member: Member) -> None:
        parent, _, name = member.path.rpartition("/")
        directory = self.find(parent)
        hidden = name[len(_WHITEOUT) :]
        if hidden in {"", ".", ".."}:
            raise UnsupportedArtifact(f"{shown(member.path)} in {layer.where} is the whiteout of no name")
        if directory is None or directory.children is None:
            return
        if name == _OPAQUE:
            directory.children.clear()
        elif not name.startswith(_RESERVED):  # others are AUFS' own
            directory.children.pop(hidden, None)

    def _enter(self, node: ImageNode) -> None:
        member = node.member
        siblings = self._directory(node)
        name = base_name(member.path)
        old = siblings.get(name)
        if member.type is MemberType.HARDLINK:
            source = self._source(node)
            if source is None:
                siblings.pop(name, None)
                return
            # Two names of one file: size, mode and time are the file's, whatever the link's own header says.
            node = replace(source, step=self._step)
        elif member.type is MemberType.DIRECTORY:
            node.children = {} if old is None or old.children is None else old.children
        if old is None:
            self._account(name)
        elif old.step == self._step and (old.children is None) is not (node.children is None):
            self._object(member.path, f"{shown(member.path)} is both a directory and none in {node.layer.where}")
        siblings[name] = node

    def _directory(self, node: ImageNode) -> dict[str, ImageNode]:
        """What is in the directory of a new entry, which is made where the layer takes it for granted."""
        here, path = self.top, ""
        for name in node.member.path.split("/")[:-1]:
            path = f"{path}/{name}" if path else name
            children = here.children
            assert children is not None, "only directories are entered"
            below = children.get(name)
            if below is None or below.children is None:
                if below is None:
                    self._account(name)
                elif below.step == self._step:
                    text = (
                        f"{shown(node.member.path)} in {node.layer.where} is below {shown(path)}, which is no directory"
                    )
                    self._object(node.member.path, text)
                implied = Member(path, MemberType.DIRECTORY, 0, 0, -1)
                below = children[name] = ImageNode(node.layer, implied, children={})
            below.step = self._step
            here = below
        assert here.children is not None, "only directories are entered"
        return here.children

    def _source(self, node: ImageNode) -> ImageNode | None:
        """What a hard link is to: a file, or a symbolic link, of this layer or one below."""
        member = node.member
        source = self.find(member.target)
        if source is None or source.member.type not in {MemberType.FILE, MemberType.SYMLINK}:
            text = (
                f"hard link {shown(member.path)} in {node.layer.where} is to {shown(member.target)}, which is no file before it"
                " of the directory that is shown"
            )
            self._object(member.path, text)
            return None
        return source

    def _object(self, path: str, text: str) -> None:
        if len(self._objections) < MAX_MEMBERS:
            self._objections.append(_Objection(path, text))

    def _account(self, name: str) -> None:
        self._count += 1
        self._characters += len(name)
        if self._count > MAX_MEMBERS or self._characters > _MAX_NAME_CHARACTERS:
            raise UnsupportedArtifact(
                f"the image has too many files: {MAX_MEMBERS} are the limit, directories included",
                hint="name a directory that has fewer by subPath",
            )

    def _named_directory(self, path: str, known: Reading) -> str:
        resolved = self.resolve(path)
        if resolved is not None and not known.covers(_around(resolved)):
            return resolved
        found = None if resolved is None else self.find(resolved)
        if resolved is None or found is None:
            raise UnsupportedArtifact(
                f"the image has no directory {shown(path)}", hint="subPath begins at the image's root"
            )
        if found.children is None:
            raise UnsupportedArtifact(f"subPath {shown(path)} is no directory", hint="include names files")
        return resolved

    def _model_directory(self, path: str, known: Reading) -> str | None:
        """Where it is, if it has files; a link may lead there, but not to the image's root."""
        if self.find(path) is None:
            return None
        resolved = self.resolve(path)
        if not resolved:
            return None
        has_files = any(node.children is None for _, node in self.walk(resolved))
        return resolved if has_files or not known.covers(_around(resolved)) else None

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise UnsupportedArtifact("the image's symbolic links are too many, or too entangled")


def merge(layers: Sequence[Layer], members: Mapping[Digest, Sequence[Member]]) -> Image:
    """The image of layers, of which each digest's members are recorded. Raises UnsupportedArtifact."""
    image = Image(ImageNode(layers[0], Member("", MemberType.DIRECTORY, 0, 0, -1), children={}))
    for layer in layers:
        image.apply(layer, members[layer.digest])
    return image


def settled(
    layers: Sequence[Layer], selection: Selection, read: Callable[[Selection], Mapping[Digest, Sequence[Member]]]
) -> Selection:
    """The selection with the directory that is shown; `read` tells the members of the layers around what a selection shows.

    One reading is enough, but for images that show their root, and where a link leads to the directory. What `read` was
    asked for last is the answer. Raises UnsupportedArtifact.
    """
    known, asked = image_reading(selection), selection
    for _ in range(_MAX_ROUNDS):
        found = merge(layers, read(asked)).settle(selection, known)
        if found == asked:
            return found
        known, asked = known.joined(image_reading(found)), found
    raise UnsupportedArtifact("the image's symbolic links lead to no directory that could be shown")


def _climbs(depth: int, target: str) -> bool:
    """Whether a relative target, read as text, leaves a root that is `depth` directories above."""
    for component in target.split("/"):
        if component == "..":
            depth -= 1
        elif component not in {"", "."}:
            depth += 1
        if depth < 0:
            return True
    return False
