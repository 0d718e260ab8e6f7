"""Measures what lazy mounts are for, beside bind mounts and plain copies: real driver, holder, servers, registry and mounts.

The registry's answers pass through a wire that has a rate for all connections together. Times on a shared machine vary, so
each round does every case once, and what is compared is compared within one run. Cases:

    publish   a big model at 50 MB/s: the publish, the first MiB, 64 MiB somewhere while the rest arrives; raw layers and a tar
    loading   a safetensors model at 200 MB/s with the safetensors library, against the download alone
    here      after the fill: both adapters against a bind mount of the same files, by fio, from the page cache
    memory    of a server with 20 views and 1,000 open files
    kills     server, driver and both are killed (--kills) while eight processes read
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from hack.bench import lazyarriving, lazyhere, lazykills
from hack.bench.lazyparts import Figure, Figures, Place
from hack.bench.lazyplot import bars, svg
from tests.integration.registry import running_docker_registry
from tests.integration.wire import Wire

_CASES = ("publish", "loading", "here", "memory", "kills")


def main() -> None:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each case runs (default: 3)")
    parser.add_argument("--mebibytes", type=int, default=2048, help="size of the model of `publish` (default: 2048)")
    parser.add_argument("--rate", type=float, default=50, help="megabytes a second of `publish` (default: 50)")
    parser.add_argument("--loading-mebibytes", type=int, default=1024, help="size of the model of `loading` (1024)")
    parser.add_argument("--loading-rate", type=float, default=200, help="megabytes a second of `loading` (200)")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="how often is killed (default: not at all)")
    parser.add_argument("--only", action="append", choices=_CASES, help="this case, and others given so (default: all)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the plot there, too")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the tables")
    options = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="modelcsi-bench-") as scratch:
        (Path(scratch) / "registry").mkdir()
        with running_docker_registry(Path(scratch) / "registry") as registry, Wire(registry.port) as wire:
            _run(Place(Path(scratch), registry, wire), figures, options)
    if options.svg is not None:
        options.svg.write_text(svg(figures.bars))
    if options.json:
        values = {name: {"unit": figure.unit, "values": figure.values} for name, figure in figures.all.items()}
        print(json.dumps({"figures": values, "bars": figures.bars}))
        return
    print(_table(list(figures.all.values())))
    print(bars(figures.bars))


def _run(place: Place, figures: Figures, options: argparse.Namespace) -> None:
    cases = options.only or _CASES
    rounds = options.rounds
    if "publish" in cases:
        lazyarriving.publish(place, figures, rounds=rounds, mebibytes=options.mebibytes, rate=options.rate * 1e6)
    if "loading" in cases:
        mebibytes, rate = options.loading_mebibytes, options.loading_rate * 1e6
        lazyarriving.loading(place, figures, rounds=rounds, mebibytes=mebibytes, rate=rate)
    if "here" in cases:
        lazyhere.throughput(place, figures, rounds=rounds)
    if "memory" in cases:
        lazyhere.memory(place, figures)
    if "kills" in cases and options.kills:
        lazykills.kills(place, figures, kills=options.kills)


def _table(figures: list[Figure]) -> str:
    lines = [f"{'':52}{'median':>9}{'worst':>9}  {'unit':12}{'goal':>9}"]
    for figure in figures:
        median = statistics.median(figure.values)
        goal = figure.goal
        worst = min(figure.values) if goal is not None and goal.is_least else max(figure.values)
        verdict = "" if goal is None else f"{goal!s:>9}  {'met' if goal.is_met(median) else 'MISSED'}"
        lines.append(f"{figure.name:52}{median:9.3f}{worst:9.3f}  {figure.unit:12}{verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
