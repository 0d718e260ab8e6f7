#!/usr/bin/env python3
"""Pack files into an OCI image archive that containerd imports. No daemon and no registry; the same input gives the same bytes.

    mkimage.py pause.tar   localhost/pause:1   --file bin/pause:/pause -- /pause
    mkimage.py busybox.tar localhost/busybox:1 --busybox /bin/busybox  -- /bin/sh

Standard library only: it runs before there is an environment.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OCI = "application/vnd.oci.image"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Layer:
    """A tar in which everything is root's and undated, since a layer must depend on content alone."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - `close`
        self._names: set[str] = set()

    def add_file(self, name: str, data: bytes, mode: int) -> None:
        """A file, and the directories above it."""
        self._add(name, tarfile.REGTYPE, mode, data=data)

    def add_link(self, name: str, target: str) -> None:
        """A symbolic link, and the directories above it."""
        self._add(name, tarfile.SYMTYPE, 0o777, target=target)

    def add_directory(self, name: str, mode: int = 0o755) -> None:
        """A directory; it may be there."""
        if name not in self._names:
            self._add(name, tarfile.DIRTYPE, mode)

    def close(self) -> bytes:
        """Its bytes; nothing may be added afterwards."""
        self._tar.close()
        return self._buffer.getvalue()

    def _add(self, name: str, kind: bytes, mode: int, *, target: str = "", data: bytes = b"") -> None:
        if parent := name.rpartition("/")[0]:
            self.add_directory(parent)
        self._names.add(name)
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.linkname, member.size = kind, mode, target, len(data)
        self._tar.addfile(member, io.BytesIO(data))


@dataclass
class Archive:
    """An OCI layout as a tar: blobs, and the index that leads to them."""

    blobs: dict[str, bytes] = field(default_factory=dict)

    def add(self, kind: str, data: bytes) -> dict[str, Any]:
        """Store a blob; its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    def write(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Write it, with an index of this one manifest."""
        index = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [manifest]}
        layout = Layer()
        layout.add_file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', 0o644)
        layout.add_file("index.json", _dump(index), 0o644)
        for digest, data in self.blobs.items():
            layout.add_file(f"blobs/sha256/{digest}", data, 0o644)
        path.write_bytes(layout.close())


def main() -> None:
    """Read the command line and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("reference", help="NAME:TAG, with a registry part such as localhost/")
    parser.add_argument("--file", action="append", default=[], metavar="SOURCE:DESTINATION")
    parser.add_argument("--busybox", type=Path, help="a static busybox; every applet becomes a link")
    parser.add_argument("entrypoint", nargs="+")
    arguments = parser.parse_args()
    layer = Layer()
    for pair in arguments.file:
        source, _, destination = pair.partition(":")
        layer.add_file(destination.strip("/"), Path(source).read_bytes(), 0o755)
    if arguments.busybox:
        _add_busybox(layer, arguments.busybox)
    layer.add_directory("tmp", 0o1777)
    pack(layer.close(), arguments.reference, arguments.entrypoint, arguments.archive)


def _add_busybox(layer: Layer, program: Path) -> None:
    layer.add_file("bin/busybox", program.read_bytes(), 0o755)
    applets = subprocess.run([program, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    for applet in sorted(set(applets) - {"busybox"}):
        layer.add_link(f"bin/{applet}", "busybox")


def pack(layer: bytes, reference: str, entrypoint: Sequence[str], path: Path) -> None:
    """An image of one layer for this machine's architecture."""
    archive = Archive()
    machine = platform.machine()
    config = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": [_PATH]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": archive.add("config.v1+json", _dump(config)),
        "layers": [archive.add("layer.v1.tar+gzip", gzip.compress(layer, 1, mtime=0))],
    }
    names = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
    }
    archive.write(path, {**archive.add("manifest.v1+json", _dump(manifest)), "annotations": names})


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


if __name__ == "__main__":
    main()
