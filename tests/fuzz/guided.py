"""Runs one target under atheris, in a process of its own: it ends with the process. Made for `tests.fuzz.run`, which starts it.

python -m tests.fuzz.guided TARGET [LIBFUZZER-OPTION...] DIRECTORY...
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["modelcsi"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer's options say that it is enough."""
    name, *options = sys.argv[1:]
    atheris.Setup([f"fuzz {name}", *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
