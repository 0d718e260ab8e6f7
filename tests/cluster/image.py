"""An image from an OCI archive, unpacked: looked at as files, and run without a container runtime.

A program runs in a mount namespace of its own, in a chroot that is read-only but for `/mnt`, which is how Kubernetes runs it with
`readOnlyRootFilesystem`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NONROOT = 65532
_WHITEOUT = ".wh."
_ENTER = """
set -e
root=$1 scratch=$2 user=$3
shift 3
mount --bind "$root" "$root"
mount --bind "$scratch" "$root/mnt"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user:$user" --groups= "$root" /usr/bin/env -i "$@"
"""


class UnpackedImage:
    """The one image of `archive`, unpacked below `directory`."""

    def __init__(self, archive: Path, directory: Path) -> None:
        self.root = directory / "root"
        self.scratch = directory / "scratch"
        """What programs see as /mnt, the only place where they may write; everybody may."""
        self.root.mkdir(parents=True)
        self.scratch.mkdir()
        self.scratch.chmod(0o1777)
        with tarfile.open(archive) as tar:
            (self.descriptor,) = _json(tar, "index.json")["manifests"]
            manifest = _json(tar, _path(self.descriptor))
            self.config: Mapping[str, Any] = _json(tar, _path(manifest["config"]))
            self.layers: tuple[Mapping[str, Any], ...] = tuple(manifest["layers"])
            for layer in self.layers:
                self._apply(tar, layer)

    @property
    def compressed_bytes(self) -> int:
        """What a node downloads."""
        return sum(layer["size"] for layer in self.layers)

    def run(self, *command: str, user: int = 0, timeout_seconds: float = 60) -> str:
        """What `command` writes; AssertionError if it fails."""
        with self.start(*command, user=user) as process:
            try:
                output, _ = process.communicate(timeout=timeout_seconds)
            finally:
                process.kill()
        assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{output}"
        return output

    def start(self, *command: str, user: int = 0) -> subprocess.Popen[str]:
        """The process of `command`, with the image's environment and the HOME that a runtime takes from /etc/passwd."""
        environment = [*self.config["config"]["Env"], f"HOME={'/nonexistent' if user else '/root'}"]
        enter = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.root), str(self.scratch), str(user)]
        return subprocess.Popen(
            [*enter, *environment, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _apply(self, archive: tarfile.TarFile, layer: Mapping[str, Any]) -> None:
        """Unpack one layer over what is there; image-spec, "Whiteouts": names that say what it removes."""
        stored = archive.extractfile(_path(layer))
        assert stored is not None, f"{layer['digest']} is not in the archive"
        content = stored.read()
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for path in map(Path, tar.getnames()):
                if path.name.startswith(_WHITEOUT):
                    _remove(self.root / path.with_name(path.name.removeprefix(_WHITEOUT)))
        unpack = ["tar", "--extract", "--gzip", "--numeric-owner", f"--exclude={_WHITEOUT}*", "--directory"]
        subprocess.run([*unpack, self.root], input=content, check=True)


def _path(descriptor: Mapping[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


def _json(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    assert member is not None, f"{name} is not a file"
    return json.load(member)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def files_below(directory: Path) -> list[str]:
    """The paths of all files and links, relative to `directory`; other file systems are not looked into."""
    return [
        os.path.relpath(os.path.join(parent, name), directory)
        for parent, _, names in os.walk(directory)
        for name in names
    ]
