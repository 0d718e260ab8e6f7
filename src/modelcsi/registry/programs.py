"""Running a program that prints credentials: bounded in time and output, killed with its children; any thread."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from modelcsi.errors import InvalidRequest

_MAX_OUTPUT_BYTES = 1 << 20
"""A guess: an answer of credentials has a few KiB."""


def run(
    command: Sequence[str], question: bytes, *, seconds: float, environment: Mapping[str, str] | None = None
) -> bytes:
    """What `command` prints when `question` is its standard input. What it prints as errors is dropped: it may be a secret.

    `environment` replaces the driver's. Raises FileNotFoundError and other OSErrors, subprocess.TimeoutExpired,
    subprocess.CalledProcessError, and InvalidRequest when the output has no end.
    """
    ends = time.monotonic() + seconds
    with _started(command, question, environment) as process:
        assert process.stdout is not None, "it is a pipe"
        try:
            output = _read(process.stdout.fileno(), command, seconds, ends)
            process.wait(max(0.0, ends - time.monotonic()))
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[0])
    return output


def _started(command: Sequence[str], question: bytes, environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    # A file in memory, not a pipe: a program that never reads must not hold up who writes.
    with open(os.memfd_create("question", os.MFD_CLOEXEC), "w+b") as stdin:
        stdin.write(question)
        stdin.seek(0)
        return subprocess.Popen(  # the caller checked the program's name, and there is no shell
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )


def _read(descriptor: int, command: Sequence[str], seconds: float, ends: float) -> bytes:
    output = b""
    while True:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, ends - time.monotonic()))
        if not readable:
            raise subprocess.TimeoutExpired(command[0], seconds)
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return output
        output += piece
        if len(output) > _MAX_OUTPUT_BYTES:
            raise InvalidRequest(f"{os.path.basename(command[0])} prints over {_MAX_OUTPUT_BYTES} bytes")
