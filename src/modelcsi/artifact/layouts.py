"""How the files of an artifact are arranged: as they are, or as the cache of huggingface_hub has them.

The cache (huggingface_hub, "Understand caching"): `models--org--name/` with `blobs/<hash>`, the contents; `snapshots/<revision>/`, the
tree, each file a relative link to its blob; and `refs/<name>`, a revision by its name. Programs of that ecosystem then find the
model by its name, offline, and write nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from modelcsi.artifact.tree import EntryType, FileEntry, FileTree
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest

FILES = "files"
HUGGINGFACE_HUB = "huggingface-hub"

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_PART}/)?{_PART}", re.ASCII)
_MAX_NAME = 96
_EXECUTE = 0o111


@dataclass(frozen=True, slots=True)
class Layout:
    """An arrangement; without a name the artifact's own. A `model_name` that exists is a name of the hub."""

    model_name: str = ""
    """`org/name`, or `name`; with it, the tree is a hub cache that holds this one model."""

    def __post_init__(self) -> None:
        name = self.model_name
        # huggingface_hub.utils.validate_repo_id; its folders use `--` for the slash.
        is_name = _NAME.fullmatch(name) and len(name) <= _MAX_NAME
        if name and (not is_name or "--" in name or ".." in name or name.endswith(".git")):
            raise ValueError("is no name of a model on the Hugging Face Hub, such as org/name")

    @property
    def key(self) -> str:
        """Text that is equal for equal layouts, in this release and the next: views are named by it."""
        return f"{HUGGINGFACE_HUB}:{self.model_name}" if self.model_name else FILES

    @classmethod
    def from_key(cls, key: str) -> Layout:
        """The layout of which `key` is the text. Raises ValueError on any other text."""
        kind, colon, name = key.partition(":")
        if key == FILES:
            return cls()
        if kind != HUGGINGFACE_HUB or not colon or not name:
            raise ValueError(f"{key[:200]!r} is no layout")
        return cls(name)

    def arrange(self, tree: FileTree, manifest: Digest) -> FileTree:
        """The tree as it is shown; the manifest's digest is the revision. Raises UnsupportedArtifact."""
        return _hub_cache(self.model_name, tree, manifest) if self.model_name else tree


def _hub_cache(name: str, tree: FileTree, manifest: Digest) -> FileTree:
    root = f"models--{name.replace('/', '--')}"
    snapshot = f"{root}/snapshots/{manifest.hex}"
    directories = (root, f"{root}/blobs", f"{root}/refs", f"{root}/snapshots", snapshot)
    entries = [FileEntry(path, EntryType.DIRECTORY, mode=0o555) for path in directories]
    blobs: dict[str, FileEntry] = {}
    for entry in tree.entries:
        path = f"{snapshot}/{entry.path}"
        if entry.type is not EntryType.FILE:
            entries.append(replace(entry, path=path))
            continue
        blob = _blob_name(entry)
        blobs.setdefault(blob, replace(entry, path=f"{root}/blobs/{blob}"))
        up = "../" * (entry.path.count("/") + 2)
        entries.append(
            FileEntry(path, EntryType.SYMLINK, mode=0o777, mtime_ns=entry.mtime_ns, target=f"{up}blobs/{blob}")
        )
    revision = manifest.hex.encode()
    # `main` is what is asked for by who names no revision. The digest is the revision's own name: the hub's are 40 digits,
    # and any other one is looked for here.
    refs = [
        FileEntry(f"{root}/refs/{ref}", EntryType.FILE, len(revision), data=revision) for ref in ("main", manifest.hex)
    ]
    return FileTree(tuple(sorted([*entries, *blobs.values(), *refs], key=lambda entry: entry.path)), tree.warnings)


def _blob_name(entry: FileEntry) -> str:
    """As the hub names large files: by the sha256 of the content, since two paths of one content share it.

    A mode belongs to the blob, so executable and other files of one content are two.
    """
    if entry.layer is None:
        raise UnsupportedArtifact(f"{entry.path!r} has no content")
    name = entry.sha256 or (entry.layer.hex if entry.member is None else f"{entry.layer.hex}-{entry.member}")
    return f"{name}-x" if entry.mode & _EXECUTE else name
