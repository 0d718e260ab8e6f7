"""Pulls one big blob from Debian's docker-registry in several ways, interleaved, and compares them in one run.

Wall time on a shared machine varies by half, so read the ratios of one table, not the numbers of two. Every way starts a
process of its own (its start counts), writes new files, and is checked by digest:

    sha256      hashing the blob in memory: the limit of one core
    plain       http.client: receive 1 MiB, hash, write, repeat
    oras-py     its own pull (which verifies nothing), then a hash of the file
    modelcsi    `modelcsi pull`: resume map, verification, fsync
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fakes.content import Content
from tests.integration.models import push_layers, upload
from tests.integration.registry import running_docker_registry

_PLAIN = """
import hashlib, http.client, sys
host, path, target, digest = sys.argv[1:]
connection = http.client.HTTPConnection(host)
connection.request("GET", path)
answer, hasher = connection.getresponse(), hashlib.sha256()
with open(target, "wb", buffering=0) as file:
    while piece := answer.read(1 << 20):
        hasher.update(piece)
        file.write(piece)
assert hasher.hexdigest() == digest
"""
_ORAS = """
import hashlib, sys
import oras.client
reference, directory, digest = sys.argv[1:]
[path] = oras.client.OrasClient(insecure=True).pull(target=reference, outdir=directory)
with open(path, "rb") as file:
    assert hashlib.file_digest(file, "sha256").hexdigest() == digest
"""


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=512, help="size of the blob (default: 512)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way runs (default: 5)")
    parser.add_argument("--peer", default="", metavar="COMMAND", help="another program; {ref} and {dir} are put in")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    options = parser.parse_args()
    size = options.mebibytes << 20
    with tempfile.TemporaryDirectory(prefix="modelcsi-bench-") as scratch:
        (Path(scratch) / "registry").mkdir()
        with running_docker_registry(Path(scratch) / "registry") as registry:
            digest = _push(registry.host, os.urandom(size))
            ways = _ways(registry.host, digest, options.peer)
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ["sha256", *ways]}
            for number in range(options.rounds):
                runs["sha256"].append(_hash_in_memory(size))
                for name, command in ways.items():
                    target = Path(scratch) / f"{name}-{number}"
                    runs[name].append(_measure([part.format(dir=target) for part in command], target))
    result = {name: _median(values, size) for name, values in runs.items()}
    print(
        json.dumps({"mebibytes": options.mebibytes, "rounds": options.rounds, **result})
        if options.json
        else _table(result)
    )


def _ways(host: str, digest: str, peer: str) -> dict[str, list[str]]:
    reference = f"{host}/bench/blob:v1"
    python = sys.executable
    ways = {
        "plain": [python, "-c", _PLAIN, host, f"/v2/bench/blob/blobs/sha256:{digest}", "{dir}/blob", digest],
        "oras-py": [python, "-c", _ORAS, reference, "{dir}", digest],
        "modelcsi": [python, "-m", "modelcsi.cli.main", "pull", reference, "{dir}/model"],
    }
    if peer:
        ways["peer"] = [part.replace("{ref}", reference) for part in shlex.split(peer)]
    return ways


def _push(host: str, blob: bytes) -> str:
    """Push the blob as the only layer of a ModelPack artifact; returns its hex digest."""
    content = Content()
    names = {"org.cncf.model.filepath": "model.safetensors", "org.opencontainers.image.title": "model.safetensors"}
    model = push_layers(content, "bench/blob", [(blob, "application/vnd.cncf.model.weight.v1.raw", names)])
    upload(content, host)
    return model.layers[0].hex


def _measure(command: list[str], target: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one run, which writes below `target`; the files are removed."""
    target.mkdir()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["rm", "-rf", str(target)], check=True)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _hash_in_memory(size: int) -> tuple[float, float]:
    piece, hasher = os.urandom(1 << 20), hashlib.sha256()
    began, cpu = time.monotonic(), time.process_time()
    for _ in range(size >> 20):
        hasher.update(piece)
    return time.monotonic() - began, time.process_time() - cpu


def _median(runs: list[tuple[float, float]], size: int) -> dict[str, float]:
    wall, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
    return {"gb_per_s": round(size / wall / 1e9, 3), "cpu_s_per_gb": round(cpu / size * 1e9, 3)}


def _table(result: dict[str, dict[str, float]]) -> str:
    limit = result["sha256"]["gb_per_s"]
    lines = [f"{'':10}{'GB/s':>8}{'CPU-s/GB':>10}{'of sha256':>11}"]
    for name, values in result.items():
        rate = values["gb_per_s"]
        lines.append(f"{name:10}{rate:8.2f}{values['cpu_s_per_gb']:10.2f}{rate / limit:10.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
