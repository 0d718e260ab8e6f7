"""Processes of the demonstration: started in sessions of their own, so that Ctrl-C reaches only us, and always ended by us."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from hack.demonstration.failure import DemonstrationFailed
from hack.demonstration.interruption import Interruption

_POLL_SECONDS = 0.02
_END_SECONDS = 10.0
_TAIL_LINES = 15


class Program:
    """A running program; its two streams go to files, since nobody reads pipes while a wait goes on."""

    end_signal = signal.SIGTERM

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.output = log.with_suffix(".out")
        self.log = log
        with self.output.open("wb") as output, log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """Ask it to end, insist after a while; returns when it has ended."""
        if self.status is None:
            self._process.send_signal(self.end_signal)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """The last things it said."""
        said = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"the last lines of {self.name}:", *said]) if said else f"{self.name} said nothing"


class Programs:
    """Starts programs, and ends them when the stack is unwound."""

    def __init__(self, work: Path, stack: ExitStack, interruption: Interruption) -> None:
        self._work = work
        self._stack = stack
        self._interruption = interruption
        # None of the caller's registry accounts, driver settings, proxies (all is on loopback) and temporary directories.
        self._environment = {
            "DOCKER_CONFIG": str(work / "docker"),
            "CSI_NODE_ID": "demo",
            "CSI_ENDPOINT": "",
            "X_CSI_MODE": "",
            "TMPDIR": str(work),
        }

    def start(self, name: str, *command: str | Path) -> Program:
        """Start one that goes on until the end."""
        with self._interruption.shielded():
            program = Program(name, command, self._work / f"{name}.log", self._environment)
            self._stack.callback(program.end)
        return program

    def run(self, name: str, *command: str | Path, watch: Callable[[Program], None] | None = None) -> str:
        """Run one to its end; what it wrote on standard output. `watch` is called often meanwhile."""
        program = self.start(name, *command)
        program.end_signal = signal.SIGINT  # as a person would, so that a command can remove its temporary files
        while program.status is None:
            if watch is not None:
                watch(program)
            self.pause()
        if program.status != 0:
            raise DemonstrationFailed(f"{name} failed (status {program.status})", program.tail())
        return program.output.read_text()

    def wait(self, program: Program, seconds: float, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; fail when the program ends before, or takes longer."""
        deadline = time.monotonic() + seconds
        while not condition():
            if program.status is not None:
                raise DemonstrationFailed(f"{program.name} ended (status {program.status})", program.tail())
            if time.monotonic() > deadline:
                raise DemonstrationFailed(f"{program.name} is not ready after {seconds:.0f} s", program.tail())
            self.pause()

    def pause(self) -> None:
        """Between two looks at another process, which offers no event to wait for; every wait has its own bound."""
        self._interruption.check()
        time.sleep(_POLL_SECONDS)
