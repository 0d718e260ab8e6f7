"""csi-sanity, the conformance test of CSI drivers, against a running driver."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

_ROOT = Path(__file__).resolve().parents[2]
_SUMMARY = re.compile(r"(\d+) Passed \| (\d+) Failed \| \d+ Pending \| (\d+) Skipped")
_MINIMUM_PASSED = 31
"""What a driver with Node and a stateless Controller passes of v5.5.0's 96; fewer mean that a capability was lost."""


@dataclass(frozen=True)
class SanityResult:
    """The counts of csi-sanity's summary, and all that it wrote."""

    passed: int
    failed: int
    skipped: int
    output: str


def run_csi_sanity(
    endpoint: str, directory: Path, parameters: Mapping[str, str], *, timeout_seconds: float = 300
) -> SanityResult:
    """Run it against `endpoint`, with `parameters` for CreateVolume; its files are in `directory`.

    Built at the first call (hack/build-csi-sanity). Raises AssertionError with its output if it gives no summary.
    """
    build = subprocess.run(
        [_ROOT / "hack" / "build-csi-sanity"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    directory.mkdir(parents=True, exist_ok=True)
    parameters_file = directory / "parameters.yaml"
    parameters_file.write_text(yaml.safe_dump(dict(parameters)))
    command = [
        build.stdout.strip(),
        f"--csi.endpoint={endpoint}",
        f"--csi.mountdir={directory / 'mount'}",  # must not exist: made with a plain mkdir
        f"--csi.stagingdir={directory / 'staging'}",
        f"--csi.testvolumeparameters={parameters_file}",
        "--ginkgo.no-color",
    ]
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        env={**os.environ, "TMPDIR": str(directory)},
    )
    summary = _SUMMARY.search(done.stdout)
    if summary is None:
        raise AssertionError(f"csi-sanity ended with {done.returncode} and no summary:\n{done.stdout[-5000:]}")
    passed, failed, skipped = (int(number) for number in summary.groups())
    return SanityResult(passed, failed, skipped, done.stdout)


def assert_conformant(result: SanityResult) -> None:
    """None failed, and as many ran as such a driver can pass."""
    if result.failed or result.passed < _MINIMUM_PASSED:
        raise AssertionError(f"csi-sanity: {result.passed} passed, {result.failed} failed\n{result.output[-10000:]}")
