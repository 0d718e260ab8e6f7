"""Sends mutated archives the way that a pulled layer goes: manifest, unpacking, store, tree, view; then looks at what is there.

Run as a program, in a process of its own: it reads numbers of archives, and prints a line of JSON with what became of them.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import resource
import stat
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from modelcsi.artifact.artifact import recognise
from modelcsi.artifact.selection import Selection
from modelcsi.errors import ModelCsiError
from modelcsi.oci.digest import Digest
from modelcsi.oci.manifest import Manifest, parse_manifest
from modelcsi.oci.reference import Reference
from modelcsi.pull.job import PullJob
from modelcsi.pull.layers import LayerPuller
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.queue import JobQueue
from modelcsi.pull.resolve import Resolved, Wish
from modelcsi.pull.window import MemoryBudget
from modelcsi.registry.client import Repository
from modelcsi.store.content import empty_trash
from modelcsi.store.durable import remove_tree
from modelcsi.store.store import Store
from tests.fuzz.archives import Archive, mutated

MAX_MEMORY_BYTES = 64 << 20
_REFERENCE = Reference.parse("registry.example.com/hostile/archive:v1")
_KINDS = (
    {"artifactType": "application/vnd.cncf.model.manifest.v1+json"},
    {"artifactType": "application/vnd.example.thing.v1"},
    {"config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}},
)
_SELECTIONS = (Selection(), Selection(), Selection(exclude=("file", "*.gguf")), Selection(sub_path="dir"))
_OTHERS = 1 << 40
"""Archives of these numbers are only second layers."""
_CANARY = b"nobody may change this"


@dataclass
class Outcome:
    """What became of many archives."""

    shown: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By the class of the error."""
    findings: list[str] = field(default_factory=list)
    """A sentence for each archive that did what none may."""
    memory_bytes: int = 0
    """The most that the process had; `run` leaves it open."""

    def as_json(self) -> str:
        """One line."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """What `as_json` wrote."""
        values = json.loads(text)
        return cls(values["shown"], Counter(values["refused"]), values["findings"], values["memory_bytes"])


class Sandbox:
    """A store between files that no archive may touch."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "store")
        self._directory = directory
        self._layers = LayerPuller(self.store, MemoryBudget(32 << 20))
        self._queue = JobQueue(1, lambda: 1)
        for canary in self._canaries():
            canary.write_bytes(_CANARY)
            canary.chmod(0o640)

    def _canaries(self) -> tuple[Path, ...]:
        return tuple(self._directory / name for name in ("x", "outside", "modelcsi-escaped"))

    def pull(self, *archives: Archive, number: int = 0) -> Path:
        """The view of an artifact with these layers; its kind, and the selection, go by `number`.

        Raises what the pull raises.
        """
        document = {"schemaVersion": 2, **_KINDS[number % len(_KINDS)], "layers": [*map(_layer, archives)]}
        return self.pull_manifest(json.dumps(document).encode(), _SELECTIONS[number // len(_KINDS) % len(_SELECTIONS)])

    def pull_manifest(self, content: bytes, selection: Selection = _SELECTIONS[0]) -> Path:
        """The view of what a manifest describes, with the layers' bytes in it: nobody is asked for them."""
        manifest = parse_manifest(content)
        assert isinstance(manifest, Manifest)
        artifact = recognise(manifest, Digest.of(content))
        wish = Wish(_REFERENCE, PullPolicy.ALWAYS, selection)
        job = PullJob(
            Resolved(wish, artifact, content, cast("Repository", None)),
            self.store,
            self._layers,
            self._queue,
            lambda *_: None,
        )
        job.run()
        if job.error is not None:
            raise job.error
        path = self.store.views.path(job.view)
        assert path is not None
        return path

    def objections(self, view: Path | None) -> list[str]:
        """What is wrong with a view, and around the store."""
        found = [f"{path} was changed" for path in self._canaries() if not _is_untouched(path)]
        found += [f"{path} is new" for path in self._directory.iterdir() if path not in self._known()]
        if Path("/tmp/modelcsi-escaped").exists():  # what some archives name
            found.append("/tmp/modelcsi-escaped exists")
        found += _objections_to_files(self.store.layout.root, view)
        return found

    def _known(self) -> tuple[Path, ...]:
        return (*self._canaries(), self.store.layout.root)

    def clear(self, view: Path | None) -> None:
        """Forget what the last pull left, but for what a failed pull forgot to take away: that is looked at."""
        if view is not None:
            remove_tree(view)
        empty_trash(*self.store.content.take_away(list(self.store.content.digests())))


def _layer(archive: Archive) -> dict[str, object]:
    return {
        "mediaType": archive.media_type,
        "digest": str(Digest.of(archive.content)),
        "size": len(archive.content),
        "data": base64.b64encode(archive.content).decode(),
        "annotations": {"org.opencontainers.image.title": "models", "io.deis.oras.content.unpack": "true"},
    }


def _is_untouched(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and (status.st_mode & 0o7777, path.read_bytes()) == (0o640, _CANARY)


def _objections_to_files(root: Path, view: Path | None) -> list[str]:
    """Set-id bits and special files anywhere in the store; in the view also links that lead out, and modes that are not shown."""
    found = []
    for parent, directories, names, fd in os.fwalk(root):  # a path in a view may be too long behind the store's
        for name in (*directories, *names):
            path = Path(parent, name)
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            is_shown = view is not None and path.is_relative_to(view)
            if stat.S_ISLNK(mode):
                if not is_shown or not _stays_inside(path, cast("Path", view)):
                    found.append(f"{path} leads to {os.readlink(name, dir_fd=fd)}")
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                found.append(f"{path} is neither a file nor a directory")
            elif mode & 0o7000 or (is_shown and (mode & 0o222 or mode & 0o444 != 0o444)):
                found.append(f"{path} has the mode {mode:o}")
    return found


def _stays_inside(link: Path, view: Path) -> bool:
    try:
        return link.resolve().is_relative_to(view)
    except (OSError, RuntimeError):  # in circles, or too long: it leads nowhere
        return True


def _layers_of(number: int) -> list[Archive]:
    """Mostly one; layers of an image change each other."""
    return [mutated(number)] if number % 5 else [mutated(number + _OTHERS), mutated(number)]


def run(numbers: range, directory: Path) -> Outcome:
    """Send all of these archives through one store."""
    sandbox, outcome = Sandbox(directory), Outcome()
    for number in numbers:
        view = None
        try:
            view = sandbox.pull(*_layers_of(number), number=number)
            outcome.shown += 1
        except ModelCsiError as error:
            outcome.refused[type(error).__name__] += 1
        except Exception:  # noqa: BLE001 - whatever it is, it is what this looks for
            outcome.findings.append(f"archive {number} raised {traceback.format_exc()}")
        outcome.findings += [f"archive {number}: {text}" for text in sandbox.objections(view)]
        sandbox.clear(view)
    sandbox.store.close()
    return outcome


def main() -> None:
    """Print the outcome of the archives from `first` on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # of names that archives have twice
    shared_memory = Path("/dev/shm")  # an fsync costs nothing there
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as directory:
        outcome = run(range(options.first, options.first + options.count), Path(directory))
    outcome.memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(outcome.as_json())


if __name__ == "__main__":
    main()
