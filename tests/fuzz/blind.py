"""Runs one target on its corpus and on mutations of it, for so many seconds: what can be done without atheris.

python -m tests.fuzz.blind TARGET --seconds N --findings DIRECTORY
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS, Target

_SEED = 1


def main() -> None:
    """Exit with 1 at the first finding, whose input is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--findings", type=Path, required=True)
    options = parser.parse_args()
    target, ends, runs = TARGETS[options.target], time.monotonic() + options.seconds, 0
    for data in _inputs(options.target, target, ends):
        try:
            target.run(data)
        except Exception:  # noqa: BLE001 - whatever it is, it is what this looks for
            traceback.print_exc()
            options.findings.mkdir(parents=True, exist_ok=True)
            (options.findings / f"crash-{runs}").write_bytes(data)
            sys.exit(1)
        runs += 1
    print(f"Done {runs} runs")


def _inputs(name: str, target: Target, ends: float) -> Iterator[bytes]:
    corpus = [*target.seeds(), *seeds.kept(name)]
    yield from corpus
    chance = random.Random(_SEED)  # noqa: S311 - not a secret
    while time.monotonic() < ends:
        yield _mutated(chance.choice(corpus), target.words, corpus, chance)


def _mutated(data: bytes, words: tuple[str, ...], corpus: list[bytes], chance: random.Random) -> bytes:
    """Some bytes changed, gone, repeated, or those of a word or another input."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        start = chance.randrange(len(result) + 1)
        end = min(len(result), start + chance.choice((0, 1, 1, 4, 40)))
        other = chance.choice(corpus)
        cut = chance.randrange(len(other) + 1)
        result[start:end] = chance.choice(
            (
                bytes([chance.randrange(256)]),
                b"",
                bytes(result[start:end]) * 3,
                chance.choice(words or ("0",)).encode(),
                other[cut : cut + chance.choice((1, 8, 100))],
            )
        )
    return bytes(result)


if __name__ == "__main__":
    main()
