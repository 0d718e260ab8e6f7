"""Unpacks a tar of 100,000 members, the most that a layer may have, interleaved in two ways, and compares them in one run.

Read the ratio of one table, not the numbers of two: wall time on a shared machine varies by half.

    tar         `tar --extract` of the file, and `sync --file-system`: the driver does not report what a power cut could take
    modelcsi    `modelcsi pull` from Debian's docker-registry: it downloads, verifies, keeps records, links and syncs as well

Exits with 1 when modelcsi takes more than --at-most times as long as GNU tar.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from modelcsi.artifact.members import MAX_MEMBERS
from tests.fakes.content import Content
from tests.integration.models import Format, push_layers, random_bytes, upload
from tests.integration.registry import running_docker_registry

_FILES_PER_DIRECTORY = 99


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=MAX_MEMBERS, help=f"default: {MAX_MEMBERS}")
    parser.add_argument("--bytes", type=int, default=1000, help="size of each file (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way runs (default: 3)")
    parser.add_argument("--at-most", type=float, default=2.0, metavar="TIMES", help="default: 2")
    options = parser.parse_args()
    runs: dict[str, list[tuple[float, float]]] = {"tar": [], "modelcsi": []}
    with tempfile.TemporaryDirectory(prefix="modelcsi-bench-") as scratch:
        (Path(scratch) / "registry").mkdir()
        archive = Path(scratch) / "model.tar"
        _write_tar(archive, options.members, options.bytes)
        with running_docker_registry(Path(scratch) / "registry") as registry:
            content = Content()
            push_layers(content, "bench/tar", [(archive.read_bytes(), Format.TAR.media_type, {})])
            upload(content, registry.host)
            for number in range(options.rounds):
                target = Path(scratch) / f"tar-{number}"
                unpack = 'mkdir "$2" && tar --extract --file "$1" --directory "$2" && sync --file-system "$2"'
                runs["tar"].append(_measure(["sh", "-c", unpack, "sh", str(archive), str(target)]))
                target = Path(scratch) / f"modelcsi-{number}"
                pull = ["pull", f"{registry.host}/bench/tar:v1", str(target)]
                runs["modelcsi"].append(_measure([sys.executable, "-m", "modelcsi.cli.main", *pull]))
    ratio = _print_table(runs)
    sys.exit(1 if ratio > options.at_most else 0)


def _write_tar(archive: Path, members: int, size: int) -> None:
    """As GNU tar writes it: a directory, then its files."""
    with archive.open("wb") as file:
        for number in range(members):
            directory = f"directory-{number // (_FILES_PER_DIRECTORY + 1):06d}/"
            is_directory = number % (_FILES_PER_DIRECTORY + 1) == 0
            member = tarfile.TarInfo(directory if is_directory else f"{directory}file-{number:06d}.json")
            member.type = tarfile.DIRTYPE if is_directory else tarfile.REGTYPE
            member.mode, member.mtime = 0o755 if is_directory else 0o644, 1_700_000_000
            member.size = 0 if is_directory else size
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            if not is_directory:
                file.write(random_bytes(number, size) + bytes(-size % tarfile.BLOCKSIZE))
        file.write(bytes(2 * tarfile.BLOCKSIZE))


def _measure(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one run.

    What it made stays to the end: an ext4 without a journal passes over each inode that was freed within five minutes, for each
    file that is made. After one removal GNU tar took 17 s, then 47, then 68.
    """
    subprocess.run(["sync"], check=True)  # what the last run left to be written is not this one's
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _print_table(runs: dict[str, list[tuple[float, float]]]) -> float:
    """Medians; returns how many times as long as GNU tar modelcsi took."""
    print(f"{'':10}{'seconds':>9}{'CPU-s':>8}{'of tar':>8}")
    limit = statistics.median(wall for wall, _ in runs["tar"])
    for name, values in runs.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:10}{wall:9.2f}{cpu:8.2f}{wall / limit:8.2f}")
    return statistics.median(wall for wall, _ in runs["modelcsi"]) / limit


if __name__ == "__main__":
    main()
