"""Every path under `root_dir`, decided once. The tree is described in docs/architecture.md, "The store".

No name here comes from a user: a digest is checked when it is made, names of views and dynamic volumes are hashes, a member
is a number.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelcsi.oci.digest import Digest

DEMAND_SOCKET_NAME = "demand.sock"
FORMAT_VERSION = 1
"""Written to `format`. The release before must be able to run on the layout: raise it only together with a migration."""

_MEMBERS_TOGETHER = 100


@dataclass(frozen=True, slots=True)
class LazyViewFiles:
    """The files of a view that is mounted before it is complete; they live as long as its last mount."""

    directory: Path

    @property
    def plan(self) -> Path:
        """The tree, and where the bytes will be (`view/plan.py`)."""
        return self.directory / "plan"

    @property
    def fill(self) -> Path:
        """How far each file is, mapped by the driver and by servers (`view/fill.py`)."""
        return self.directory / "fill"

    @property
    def opens(self) -> Path:
        """What a server must not forget when it is killed."""
        return self.directory / "opens"

    @property
    def origin(self) -> Path:
        """Which artifact and selection the view shows, for the next driver."""
        return self.directory / "origin.json"


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """The paths of one store; all on one filesystem, since content is hard-linked into views."""

    root: Path
    file_mode: int = 0o444
    """What all files of the content may have done to them, whatever else their artifact says; the directories of views too."""
    before_drop: list[Callable[[Path], None]] = field(default_factory=list, compare=False, repr=False)
    """Told the directory of an ingest that is about to be thrown away with what arrived: somebody may be reading there."""

    @property
    def format_file(self) -> Path:
        """Holds `FORMAT_VERSION`."""
        return self.root / "format"

    @property
    def lock_file(self) -> Path:
        """Locked (flock) by the one process that may write here."""
        return self.root / "lock"

    @property
    def database(self) -> Path:
        """SQLite; may be lost (see `records.py`)."""
        return self.root / "state.db"

    @property
    def blobs(self) -> Path:
        """Committed raw layers: the file itself."""
        return self.root / "content" / "blobs"

    @property
    def layers(self) -> Path:
        """Committed tar layers: a directory of member files, and beside it the record of all members."""
        return self.root / "content" / "layers"

    @property
    def manifests(self) -> Path:
        """Committed manifests, indexes and configs."""
        return self.root / "content" / "manifests"

    @property
    def ingests(self) -> Path:
        """Content being written."""
        return self.root / "ingest"

    @property
    def views(self) -> Path:
        """The trees that pods see."""
        return self.root / "views"

    @property
    def demand_socket(self) -> Path:
        """Where servers ask the driver for bytes."""
        return self.root / DEMAND_SOCKET_NAME

    @property
    def dynamic_volumes(self) -> Path:
        """The directories in which pods mount models themselves, and a record beside each."""
        return self.root / "dynamic"

    @property
    def mounts(self) -> Path:
        """What drivers and FUSE servers tell each other of lazy views. Nothing is mounted here."""
        return self.root / "mounts"

    @property
    def trash(self) -> Path:
        """What is being removed: renamed here in one step, then unlinked at leisure."""
        return self.root / "trash"

    def manifest(self, digest: Digest) -> Path:
        """A committed manifest, index or config."""
        return self.manifests / digest.algorithm / digest.hex

    def blob(self, digest: Digest) -> Path:
        """A committed raw layer."""
        return self.blobs / digest.algorithm / digest.hex

    def layer(self, digest: Digest) -> Path:
        """The member files of a committed tar layer, named by their number in the record (`member_name`)."""
        return self.layers / digest.algorithm / digest.hex

    def layer_record(self, digest: Digest) -> Path:
        """What the tar holds; the layer is committed when this exists."""
        return self.layers / digest.algorithm / f"{digest.hex}.json"

    def ingest(self, digest: Digest, host: str = "") -> Path:
        """What one registry delivers of a blob or layer: each host has its own.

        Another host must deliver every byte itself before its callers may see them (the end of a half-received private
        blob can be guessed), and a host that delivers slowly, or nothing, is in nobody else's way.
        """
        return self.ingests_of(digest) / hashlib.sha256(host.encode()).hexdigest()[:16]

    def drop_ingest(self, directory: Path) -> None:
        """Throw away what one registry delivered of a digest; closing it first is the caller's duty. Repeatable."""
        if directory.exists():
            self.drop_marks(directory)
            shutil.rmtree(directory)

    def drop_marks(self, directory: Path) -> None:
        """Nothing that is there counts as arrived any more: who reads by the marks sees that they have gone. Repeatable."""
        for told in self.before_drop:
            told(directory)
        (directory / "chunks").unlink(missing_ok=True)

    def ingests_of(self, digest: Digest) -> Path:
        """The directory of all that is being written of a digest."""
        return self.ingests / f"{digest.algorithm}-{digest.hex}"

    def view(self, view_id: str) -> Path:
        """A complete tree; mounted from here."""
        return self.views / view_id

    def view_record(self, view_id: str) -> Path:
        """Which artifact and selection the view shows, for a start without the database."""
        return self.views / f"{view_id}.json"

    def dynamic_volume(self, key: str) -> Path:
        """The directory of one dynamic volume, as its pod sees it: `csi/`, `models/` and `status.json`."""
        return self.dynamic_volumes / key

    def dynamic_record(self, key: str) -> Path:
        """Whose it is: volume id, target and pod, for a start without the database."""
        return self.dynamic_volumes / f"{key}.json"

    def lazy_view(self, view_id: str) -> LazyViewFiles:
        """The files of one lazy view."""
        return LazyViewFiles(self.mounts / view_id)

    def directories(self) -> tuple[Path, ...]:
        """All directories that must exist, parents first."""
        tops = (self.blobs, self.layers, self.manifests)
        sorts = tuple(top / algorithm for top in tops for algorithm in ("sha256", "sha512"))
        return (
            self.root,
            self.root / "content",
            *tops,
            *sorts,
            self.ingests,
            self.views,
            self.dynamic_volumes,
            self.mounts,
            self.trash,
        )


def member_name(number: int) -> str:
    """Where in its layer's directory a member's file is: the first hundred in it, each other hundred in a directory of their own.

    ext4 compares a new name with all that are in its block of the directory, twice: 100,000 short names in one directory took
    35 % longer to make, and to remove.
    """
    return str(number) if number < _MEMBERS_TOGETHER else f"{number - number % _MEMBERS_TOGETHER}/{number}"


def directories_in(directory: Path) -> list[Path]:
    """The directories of hundreds of a layer's."""
    with os.scandir(directory) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def member_files(directory: Path) -> Iterator[tuple[int, str]]:
    """Number and path of each member file that is there."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield int(entry.name), entry.path
                continue
            with os.scandir(entry.path) as files:
                for file in files:
                    yield int(file.name), file.path
